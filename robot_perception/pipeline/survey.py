"""A configuration for a robot that is new, proposed from a recording of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.sensor import image_columns
from robot_perception.core.lidar_pattern import LidarPattern, find_pattern
from robot_perception.core.types import CameraInfo, Frame, ImageFrame, Scan
from robot_perception.pipeline.perception import FORECAST, REVISIT, SEGMENTATION, Pipeline, Tasks
from robot_perception.pipeline.sources import Recording

# Frames that are looked at: of each kind, and of all together.
_LOOKED_AT, _MOST = 12, 5000


@dataclass(frozen=True, eq=False)
class Survey:
    """What the start of a recording shows. `images`, `scans`: the first few; `rejected` messages by
    reason; `pattern` of the LiDAR, if there is one; `camera` intrinsics, if they were recorded;
    rates in Hz, None where there are too few frames to tell."""

    roles: dict[str, str]
    images: tuple[ImageFrame, ...]
    scans: tuple[Scan, ...]
    camera: CameraInfo | None
    pattern: LidarPattern | None
    image_hz: float | None
    scan_hz: float | None
    rejected: dict[str, int]


@dataclass(frozen=True)
class Expectation:
    """What an ability will do on this robot: whether it `works`, a sentence, and the median
    milliseconds of a frame on this machine, None where nothing was run."""

    ability: str
    works: bool
    finding: str
    ms: float | None


def survey(recording: Recording) -> Survey:
    """Look at the start of `recording`; raises RecordingError where it cannot be read."""
    images: list[ImageFrame] = []
    scans: list[Scan] = []
    camera: CameraInfo | None = None
    rejected: dict[str, int] = {}
    wanted = [role for role in ("image", "points") if role in recording.roles]
    for item in islice(recording.frames(), _MOST):
        frame = item.frame
        if frame is None:
            reason = f"{item.topic}: {item.rejected}"
            rejected[reason] = rejected.get(reason, 0) + 1
        elif isinstance(frame, ImageFrame) and len(images) < _LOOKED_AT:
            images.append(frame)
        elif isinstance(frame, Scan) and len(scans) < _LOOKED_AT:
            scans.append(frame)
        elif isinstance(frame, CameraInfo):
            camera = frame
        have = {"image": len(images), "points": len(scans)}
        if wanted and all(have[role] >= _LOOKED_AT for role in wanted):
            break
    pattern = None
    if scans:
        try:
            pattern = find_pattern(scans)
        except InputRejected as error:
            rejected[f"points: {error}"] = len(scans)
    return Survey(
        dict(recording.roles),
        tuple(images),
        tuple(scans),
        camera,
        pattern,
        _rate(images),
        _rate(scans),
        rejected,
    )


def proposal(found: Survey) -> dict[str, Any]:
    """Parameters that should differ from the defaults, by their prefixed names."""
    if found.pattern is None or not found.pattern.beams:
        return {}
    pattern = found.pattern
    far = max(float(np.linalg.norm(scan.xyz, axis=1).max()) for scan in found.scans)
    proposed: dict[str, Any] = {
        "forecast.beams": pattern.beams,
        "forecast.columns": min(pattern.columns, image_columns(ForecastConfig())),
        # Once measured, it does not depend on what the first scan happens to see.
        "forecast.elevations_rad": [round(float(e), 5) for e in pattern.elevations_rad],
        "forecast.max_range_m": float(np.ceil(min(max(far, 20.0), 200.0) / 5) * 5),
    }
    if found.scan_hz:
        proposed["forecast.period_s"] = round(1 / found.scan_hz, 3)
    if pattern.beams % 4:
        # The network halves the rows twice.
        proposed["forecast.method"] = "scene_flow"
    return proposed


def expectations(found: Survey, tasks: Tasks) -> Iterator[Expectation]:
    """Run each ability of `tasks` on the frames that were looked at."""
    if not found.images:
        finding = "no image can be read in this recording"
        yield Expectation(SEGMENTATION, False, finding, None)
        yield Expectation(REVISIT, False, finding, None)
    else:
        text = "segments every image"
        yield _tried(SEGMENTATION, _only(tasks, SEGMENTATION), found.images, text)
        text = (
            "knows places again; "
            + (
                "relative poses up to scale"
                if found.camera is not None
                else "no relative poses: there is no camera_info"
            )
            + "; the time is that of a keyframe"
        )
        if not {"odom", "tf"} & set(found.roles):
            text += "; keyframes by time and view alone: there is neither odometry nor tf"
        yield _tried(REVISIT, _only(tasks, REVISIT), found.images, text)
    yield _of_forecast(found, tasks)


def _of_forecast(found: Survey, tasks: Tasks) -> Expectation:
    if not found.scans:
        return Expectation(FORECAST, False, "no scan can be read in this recording", None)
    pattern = found.pattern
    if pattern is None or not pattern.beams:
        finding = (
            "the points do not lie on beams: a solid-state or non-repetitive LiDAR, or a cloud made"
            " of several. A range image does not fit it, so there is no forecast"
        )
        return Expectation(FORECAST, False, finding, None)
    text = "forecasts every scan"
    if not pattern.revolves:
        text += (
            f", within the {360 * pattern.azimuth_share:.0f} degrees that the sensor sees; it was"
            " made for whole revolutions and not tested on less"
        )
    if "odom" not in found.roles and "tf" not in found.roles:
        text += "; ego-motion by registration of the clouds"
    return _tried(FORECAST, _only(tasks, FORECAST), found.scans, text)


def _only(tasks: Tasks, task: str) -> Tasks:
    """One of the stages of `tasks` alone."""
    return replace(Tasks(), **{task: getattr(tasks, task)})


def _tried(task: str, tasks: Tasks, frames: tuple[Frame, ...], text: str) -> Expectation:
    """What `task` makes of `frames`, the first third of which warm up."""
    try:
        pipeline = Pipeline(tasks)
        spent = []
        for frame in frames:
            start = time.perf_counter()
            pipeline.step(frame)
            spent.append((time.perf_counter() - start) * 1e3)
    except (InputRejected, ValueError) as error:
        return Expectation(task, False, str(error), None)
    settled = spent[len(spent) // 3 :]
    # Most images are no keyframes and cost nothing.
    typical = max(settled) if task == REVISIT else float(np.median(settled))
    return Expectation(task, True, text, typical)


def _rate(frames: list[Any]) -> float | None:
    stamps = np.array([frame.stamp_ns for frame in frames])
    steps = np.diff(stamps)
    steps = steps[steps > 0]
    return float(1e9 / np.median(steps)) if len(steps) else None
