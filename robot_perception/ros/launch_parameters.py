"""One parameter file for all stages, however they are spread over nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

STAGES = ("segmentation", "revisit", "forecast")


def stage_parameters(path: str | Path, stage: str) -> dict[str, Any]:
    """The parameters in the ROS parameter file `path` for a node with only this `stage`.

    Those of the stage lose its name (`forecast.beams` -> `beams`), those of the other stages go.
    Sections count if they are for every node, for `perception` or for a node named as the stage.
    Raises ValueError when it is no ROS parameter file.
    """
    try:
        document = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, Mapping):
        raise ValueError(f"{path} is not a ROS parameter file")
    chosen: dict[str, Any] = {}
    for node, section in document.items():
        if not isinstance(section, Mapping) or "ros__parameters" not in section:
            raise ValueError(f"{path} is not a ROS parameter file: no ros__parameters")
        if str(node).rsplit("/", 1)[-1] in ("*", "**", "perception", stage):
            for name, value in _flat(section["ros__parameters"] or {}).items():
                owner, dot, rest = name.partition(".")
                if owner == stage and dot:
                    chosen[rest] = value
                elif owner not in STAGES:
                    chosen[name] = value
    return chosen


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
