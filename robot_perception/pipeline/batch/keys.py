"""By what a recording's results are known again: its content, and how it was processed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.weights import file_sha256, resolve
from robot_perception.pipeline.perception import TASKS, Tasks
from robot_perception.pipeline.settings import configured

# KITTI's drives of a day share this.
_BESIDE = ("calib_cam_to_cam.txt",)


def identity(path: Path) -> str:
    """Changes when a file of the recording is written to: names, sizes and times of all of them.

    Quick: nothing is read. Raises OSError.
    """
    total = hashlib.sha256()
    for name, file in _files(path):
        status = file.stat()
        total.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return total.hexdigest()


def content(path: Path) -> str:
    """The sha256 over names and bytes of all files of the recording. Raises OSError."""
    total = hashlib.sha256()
    for name, file in _files(path):
        total.update(f"{name} {file_sha256(file)}\n".encode())
    return total.hexdigest()


def configuration(tasks: Tasks, inputs: bool) -> str:
    """The sha256 over all parameters, the files that they name, and the version of the package."""
    try:
        version = metadata.version("robot_perception")
    except metadata.PackageNotFoundError:
        version = "source tree"
    document: dict[str, Any] = {"tasks": settings(tasks), "inputs": inputs, "version": version}
    document["files"] = {
        f"{task}.{name}": _named_file(value)
        for task, values in document["tasks"].items()
        for name, value in values.items()
        if name.endswith(("checkpoint", "vocabulary")) and value
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def settings(tasks: Tasks) -> dict[str, dict[str, Any]]:
    """The parameters of each stage that runs, as JSON takes them."""
    configs = {task: getattr(tasks, task) for task in TASKS}
    return {
        task: {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(config).items()}
        for task, config in configs.items()
        if config is not None
    }


def tasks_of(values: Mapping[str, Mapping[str, Any]]) -> Tasks:
    """The stages that `settings` tells of. Raises ValueError for values that are none."""
    flat = {
        f"{task}.{name}": value for task, given in values.items() for name, value in given.items()
    }
    return configured(flat, list(values))


def _named_file(name: str) -> str:
    """Of a checkpoint or vocabulary; what cannot be found fails later, with a clear message."""
    try:
        return file_sha256(resolve(name))
    except (WeightsRejected, OSError):
        return "none"


def _files(path: Path) -> list[tuple[str, Path]]:
    if path.is_file():
        return [(path.suffix, path)]
    found = [(p.relative_to(path).as_posix(), p) for p in sorted(path.rglob("*")) if p.is_file()]
    beside = [(f"../{name}", path.parent / name) for name in _BESIDE]
    return found + [(name, file) for name, file in beside if file.is_file()]
