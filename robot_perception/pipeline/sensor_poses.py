"""Where a sensor is when it sees: from odometry, or from tf."""

from __future__ import annotations

from robot_perception.core.types import ImageFrame, Odometry, Scan
from robot_perception.pipeline.odometry import OdometryBuffer
from robot_perception.pipeline.transforms import TransformTree


class SensorPoses:
    """What /odom and /tf have told; `odom_frame` is the fixed frame where there is no odometry."""

    def __init__(self, odom_frame: str) -> None:
        self.odometry = OdometryBuffer()
        self.transforms = TransformTree()
        self._odom_frame = odom_frame

    def of(self, frame: ImageFrame | Scan) -> Odometry | None:
        """The pose of the sensor of `frame`: from odometry if that is about its frame, else from
        tf. Where tf does not know either, the odometry of whatever frame it is about; for images,
        of which only the way they went is asked, that is as good."""
        odometry = self.odometry.at(frame.stamp_ns)
        if _fits(odometry, frame):
            return odometry
        fixed = self._fixed(odometry)
        return self.transforms.pose(fixed, frame.frame_id, frame.stamp_ns) or odometry

    def wait_for_transform(self, frame: ImageFrame | Scan, timeout_s: float) -> None:
        """Wait until tf has come as far as `frame`, if it is tf that knows of its sensor."""
        odometry = self.odometry.at(frame.stamp_ns)
        fixed = self._fixed(odometry)
        if _fits(odometry, frame) or self.transforms.pose(fixed, frame.frame_id, None) is None:
            return
        self.transforms.wait_for(fixed, frame.frame_id, frame.stamp_ns, timeout_s)

    def _fixed(self, odometry: Odometry | None) -> str:
        return self._odom_frame if odometry is None else odometry.frame_id


def _fits(odometry: Odometry | None, frame: ImageFrame | Scan) -> bool:
    if odometry is None:
        return False
    return isinstance(frame, ImageFrame) or odometry.child_frame_id == frame.frame_id
