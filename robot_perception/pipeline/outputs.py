"""Results to messages: the one encoder, for live nodes and recordings alike.

Each result gives a table topic -> builder. A builder runs only when its message is wanted, so a
picture that nobody looks at costs nothing. Topics are relative to the task's name or node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_perception.core.config import ForecastConfig
from robot_perception.core.types import Forecast, Frame, ImageFrame, Result, Revisit, Segmentation
from robot_perception.pipeline import detections, draw
from robot_perception.pipeline.perception import FORECAST, REVISIT, SEGMENTATION, Tasks
from robot_perception.wire import (
    MessageFactory,
    encode_array_image,
    encode_clouds,
    encode_rgb,
    header,
)

Builder: TypeAlias = Callable[[MessageFactory], Any]

IMAGE = "sensor_msgs/msg/Image"
CLOUD = "sensor_msgs/msg/PointCloud2"


@dataclass(frozen=True)
class Topic:
    """An output topic. A latched one is kept for those who come late; one that is not `recorded`
    is part of another one, and would only make recordings twice as large. An `optional` one is
    published where its message package is installed."""

    name: str
    type: str
    latched: bool = False
    recorded: bool = True
    optional: bool = False


_SEGMENTATION = (
    Topic("labels", IMAGE),
    Topic("overlay", IMAGE),
    Topic("confidence", IMAGE),
    Topic("prompt_mask", IMAGE, recorded=False),
    Topic("segments", detections.SEGMENTS, recorded=False, optional=True),
    Topic("label_info", detections.LABEL_INFO, latched=True, recorded=False, optional=True),
)
_REVISIT = (
    Topic("revisit", "diagnostic_msgs/msg/DiagnosticArray"),
    Topic("evidence", IMAGE),
    Topic("markers", "visualization_msgs/msg/MarkerArray", latched=True),
)


def topics(tasks: Tasks) -> dict[str, tuple[Topic, ...]]:
    """The output topics of each task that runs."""
    table: dict[str, tuple[Topic, ...]] = {}
    if tasks.segmentation:
        table[SEGMENTATION] = _SEGMENTATION
    if tasks.revisit:
        table[REVISIT] = _REVISIT
    if tasks.forecast:
        table[FORECAST] = _forecast_topics(tasks.forecast)
    return table


def _forecast_topics(config: ForecastConfig) -> tuple[Topic, ...]:
    single = tuple(Topic(f"points_{i + 1}", CLOUD, recorded=False) for i in range(config.horizons))
    return (Topic("points", CLOUD), *single, Topic("range_image", IMAGE))


def latched(tasks: Tasks) -> tuple[str, ...]:
    """The absolute names of the latched topics, as they stand in a recording."""
    return tuple(
        f"/{task}/{topic.name}"
        for task, table in topics(tasks).items()
        for topic in table
        if topic.latched and topic.recorded
    )


def task_of(result: Result) -> str:
    if isinstance(result, Segmentation):
        return SEGMENTATION
    return REVISIT if isinstance(result, Revisit) else FORECAST


def messages(result: Result, frame: Frame) -> dict[str, Builder]:
    """Topic -> builder for `result`, which was made from `frame`."""
    if isinstance(result, Forecast):
        return _forecast(result)
    assert isinstance(frame, ImageFrame)
    if isinstance(result, Segmentation):
        return _segmentation(result, frame)
    return _revisit(result, frame)


def _segmentation(result: Segmentation, frame: ImageFrame) -> dict[str, Builder]:
    stamp, frame_id = result.stamp_ns, result.frame_id
    return {
        "labels": lambda make: encode_array_image(make, stamp, frame_id, result.labels, "16UC1"),
        "overlay": lambda make: encode_rgb(
            make, stamp, frame_id, draw.overlay(frame.rgb, result.labels)
        ),
        "confidence": lambda make: encode_array_image(
            make, stamp, frame_id, result.confidence, "32FC1"
        ),
        "segments": lambda make: detections.segments(make, result),
        "label_info": lambda make: detections.label_info(make, result),
    }


def _forecast(result: Forecast) -> dict[str, Builder]:
    stamp, frame_id = result.stamp_ns, result.frame_id

    def cloud(indices: range) -> Builder:
        def build(make: MessageFactory) -> Any:
            parts = []
            for i in indices:
                extra: dict[str, NDArray[Any]] = {
                    "horizon": np.asarray(result.horizons_s[i], np.float32),
                    "probability": result.probabilities[i],
                }
                if result.moving is not None:
                    extra["moving"] = result.moving[i].astype(np.float32)
                parts.append((result.clouds[i], extra))
            return encode_clouds(make, stamp, frame_id, parts)

        return build

    count = len(result.clouds)
    # Horizons stand below each other: row block t is the range image of horizon t.
    table: dict[str, Builder] = {
        "points": cloud(range(count)),
        "range_image": lambda make: encode_array_image(
            make,
            stamp,
            frame_id,
            result.range_images.reshape(-1, result.range_images.shape[2]),
            "32FC1",
        ),
    }
    for i in range(count):
        table[f"points_{i + 1}"] = cloud(range(i, i + 1))
    return table


def _revisit(result: Revisit, frame: ImageFrame) -> dict[str, Builder]:
    return {
        "revisit": lambda make: _edge(make, result),
        "evidence": lambda make: encode_rgb(
            make, result.stamp_ns, result.frame_id, draw.evidence(frame, result)
        ),
        "markers": lambda make: _markers(make, result),
    }


def _edge(make: MessageFactory, result: Revisit) -> Any:
    """The decision as key-value pairs: ids, stamps, probability, inliers and the relative pose.

    No standard message has the fields of a loop-closure edge; this one needs no second package.
    """
    found = result.match_id is not None
    values: dict[str, object] = {
        "revisit": str(found).lower(),
        "keyframe_id": result.keyframe_id,
        "keyframe_stamp_ns": result.stamp_ns,
        "probability": f"{result.probability:.6f}",
        "inliers": result.inliers,
        "backend": result.backend,
    }
    if result.candidate_id is not None:
        values["candidate_id"] = result.candidate_id
    if found:
        values["match_id"] = result.match_id
        values["match_stamp_ns"] = result.match_stamp_ns
    if found and result.relative_pose is not None:
        quaternion = Rotation.from_matrix(result.relative_pose[:3, :3]).as_quat(canonical=True)
        values["translation_xyz"] = _numbers(result.relative_pose[:3, 3])
        values["rotation_xyzw"] = _numbers(quaternion)
        values["scale_known"] = str(result.scale_known).lower()
        if result.covariance is not None:
            values["covariance"] = _numbers(result.covariance.ravel())
    status = make(
        "diagnostic_msgs/msg/DiagnosticStatus",
        name="revisit",
        message=f"revisit of keyframe {result.match_id}" if found else "no revisit",
        hardware_id=result.frame_id,
        values=[
            make("diagnostic_msgs/msg/KeyValue", key=key, value=str(value))
            for key, value in values.items()
        ],
    )
    return make(
        "diagnostic_msgs/msg/DiagnosticArray",
        header=header(make, result.stamp_ns, result.frame_id),
        status=[status],
    )


def _numbers(array: np.ndarray) -> str:
    return " ".join(f"{x:.9g}" for x in array)


def _markers(make: MessageFactory, result: Revisit) -> Any:
    """Keyframes as spheres and revisits as lines, in the odometry frame; empty without odometry."""
    positions = result.keyframe_positions
    known, edges = draw.placed(positions, result.edges)
    head = header(make, result.stamp_ns, result.odom_frame_id)

    def point(xyz: np.ndarray) -> Any:
        x, y, z = (float(v) for v in xyz)
        return make("geometry_msgs/msg/Point", x=x, y=y, z=z)

    def marker(
        namespace: str, kind: int, points: list[Any], size: float, rgba: tuple[float, ...]
    ) -> Any:
        red, green, blue, alpha = rgba
        return make(
            "visualization_msgs/msg/Marker",
            header=head,
            ns=namespace,
            id=0,
            type=kind,
            pose=make(
                "geometry_msgs/msg/Pose",
                orientation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            scale=make("geometry_msgs/msg/Vector3", x=size, y=size, z=size),
            color=make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha),
            points=points,
        )

    if not known.any():
        return make("visualization_msgs/msg/MarkerArray", markers=[])
    line_list, sphere_list = 5, 7
    ends = [point(positions[i]) for edge in edges for i in edge]
    spheres = [point(p) for p in positions[known]]
    markers = [marker("keyframes", sphere_list, spheres, 0.3, (0.2, 0.6, 1.0, 1.0))]
    if ends:
        markers.append(marker("revisits", line_list, ends, 0.1, (1.0, 0.5, 0.0, 1.0)))
    return make("visualization_msgs/msg/MarkerArray", markers=markers)
