"""The table of segments as messages of vision_msgs, for those who have that package."""

from __future__ import annotations

from typing import Any

from robot_perception.core.types import Segment, Segmentation
from robot_perception.wire import MessageFactory, header

SEGMENTS = "vision_msgs/msg/Detection2DArray"
LABEL_INFO = "vision_msgs/msg/LabelInfo"


def segments(make: MessageFactory, result: Segmentation) -> Any:
    """A Detection2D for each segment: `id` is the tracked id and the value in the label image.

    Nothing is classified: `class_id` is the id too, and the score is the predicted IoU.
    """
    head = header(make, result.stamp_ns, result.frame_id)
    return make(SEGMENTS, header=head, detections=[_one(make, head, s) for s in result.segments])


def _one(make: MessageFactory, head: Any, segment: Segment) -> Any:
    x0, y0, x1, y1 = segment.box
    middle = make("vision_msgs/msg/Point2D", x=(x0 + x1) / 2, y=(y0 + y1) / 2)
    box = make(
        "vision_msgs/msg/BoundingBox2D",
        center=make("vision_msgs/msg/Pose2D", position=middle, theta=0.0),
        size_x=float(x1 - x0),
        size_y=float(y1 - y0),
    )
    name = str(segment.id)
    guess = make(
        "vision_msgs/msg/ObjectHypothesis", class_id=name, score=float(segment.predicted_iou)
    )
    return make(
        "vision_msgs/msg/Detection2D",
        header=head,
        results=[make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=guess)],
        bbox=box,
        id=name,
    )


def label_info(make: MessageFactory, result: Segmentation) -> Any:
    """What the values of the label image mean: 0 unlabelled, each other one a tracked segment."""
    names = [(0, "unlabelled"), *((s.id, f"segment {s.id}") for s in result.segments)]
    return make(
        LABEL_INFO,
        header=header(make, result.stamp_ns, result.frame_id),
        class_map=[
            make("vision_msgs/msg/VisionClass", class_id=number, class_name=name)
            for number, name in names
        ],
    )
