"""The services that save, load and empty the place-recognition map."""

from __future__ import annotations

from pathlib import Path

from robot_perception.pipeline.perception import Pipeline

CALLS = ("save_map", "load_map", "reset_map")


def call(name: str, pipeline: Pipeline | None) -> tuple[bool, str]:
    """Do what the service `name` stands for; whether it went well, and a sentence for people."""
    if pipeline is None or pipeline.detector is None or pipeline.tasks.revisit is None:
        return False, "the node is not configured"
    detector = pipeline.detector
    if name == "reset_map":
        detector.reset()
        return True, "the map is empty"
    if not pipeline.tasks.revisit.map_path:
        return False, "the parameter map_path is empty"
    path = Path(pipeline.tasks.revisit.map_path)
    try:
        if name == "save_map":
            detector.save(path)
            return True, f"saved to {path}"
        detector.load(path)
        return True, f"loaded from {path}"
    except (OSError, ValueError) as error:
        return False, str(error)
