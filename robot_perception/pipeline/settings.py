"""The stages' configuration from a parameter file and from `name=value` pairs, for offline use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from robot_perception.core.config import (
    ForecastConfig,
    RevisitConfig,
    SegmentationConfig,
    checked,
)
from robot_perception.pipeline.perception import FORECAST, REVISIT, SEGMENTATION, TASKS, Tasks

T = TypeVar("T")


def load_tasks(
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = TASKS,
) -> Tasks:
    """Stages `only`, configured by a ROS parameter file and then by "segmentation.backend=sam".

    The file is the one that the nodes take: all three stages with prefixed names. Raises ValueError
    that names the unknown parameter, the wrong type or the value out of bounds.
    """
    values: dict[str, Any] = _read(config_file) if config_file else {}
    for pair in overrides:
        name, separator, text = pair.partition("=")
        if not separator:
            raise ValueError(f"{pair!r} is not name=value")
        values[name.strip()] = yaml.safe_load(text)
    return configured(values, only)


def configured(values: Mapping[str, Any], only: Sequence[str] = TASKS) -> Tasks:
    """Stages `only`, with the parameters `values` by their prefixed names; raises ValueError."""
    unknown_tasks = set(only) - set(TASKS)
    if unknown_tasks:
        raise ValueError(f"{sorted(unknown_tasks)} are no stages; there are {', '.join(TASKS)}")
    configs: dict[str, Any] = {
        task: _build(config, task, values)
        for task, config in (
            (SEGMENTATION, SegmentationConfig),
            (REVISIT, RevisitConfig),
            (FORECAST, ForecastConfig),
        )
    }
    stray = [name for name in values if "." in name and name.split(".", 1)[0] not in TASKS]
    if stray:
        raise ValueError(f"unknown parameter {stray[0]}")
    return Tasks(**{task: configs[task] for task in only})


def _read(path: Path) -> dict[str, Any]:
    """The parameters of all nodes in a ROS parameter file, nested names joined by dots."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, Mapping):
        raise ValueError(f"{path} is not a ROS parameter file")
    values: dict[str, Any] = {}
    for node in document.values():
        if not isinstance(node, Mapping) or "ros__parameters" not in node:
            raise ValueError(f"{path} is not a ROS parameter file: no ros__parameters")
        values.update(_flatten(node["ros__parameters"] or {}))
    return values


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _build(config: type[T], task: str, values: Mapping[str, Any]) -> T:
    chosen: dict[str, Any] = {}
    known = {f.name: f for f in fields(config)}  # type: ignore[arg-type]
    for name, value in values.items():
        owner, _, key = name.partition(".")
        if owner != task:
            continue
        if key not in known:
            raise ValueError(f"unknown parameter {name}")
        chosen[key] = _as_type_of(known[key].default, value, name)
    return checked(config(**chosen))


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    if isinstance(default, tuple):
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        return tuple(float(v) for v in value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name} is {value!r}, not {type(default).__name__}")
    return value
