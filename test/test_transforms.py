"""tf: its messages, its tree, and the ego-motion that comes from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.motion import exp_se3
from robot_perception.core.types import F64, Forecast, Odometry, Scan, Transforms
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans
from robot_perception.pipeline.transforms import TransformTree
from robot_perception.wire import decode, encode_frame

SECOND = 1_000_000_000
TYPE = "tf2_msgs/msg/TFMessage"


def at(x: float, yaw: float = 0.0) -> F64:
    pose = exp_se3(np.array([0, 0, yaw, 0, 0, 0.0]))
    pose[0, 3] = x
    return pose


def transforms(
    stamp_ns: int, parent: str, child: str, pose: F64, static: bool = False
) -> Transforms:
    return Transforms(stamp_ns, (Odometry(stamp_ns, parent, child, pose),), static)


@pytest.fixture
def tree() -> TransformTree:
    """odom -> base (moving, turning) -> lidar and camera (mounted)."""
    tree = TransformTree()
    mounts = [Odometry(0, "base", "lidar", at(1.0)), Odometry(0, "base", "camera", at(2.0))]
    tree.add(Transforms(0, tuple(mounts), static=True))
    for i in range(5):
        tree.add(transforms(SECOND + i * SECOND // 10, "odom", "base", at(i, 0.1 * i)))
    return tree


def test_poses_are_chained_and_interpolated(tree: TransformTree) -> None:
    found = tree.pose("odom", "lidar", SECOND + 150_000_000)
    assert found is not None and found.stamp_ns == SECOND + 150_000_000
    np.testing.assert_allclose(found.pose, at(1.5, 0.15) @ at(1.0), atol=1e-12)
    mounted = tree.pose("camera", "lidar", 77)
    assert mounted is not None and mounted.stamp_ns == 77
    np.testing.assert_allclose(mounted.pose, at(-1.0), atol=1e-12)


def test_what_tf_does_not_know(tree: TransformTree) -> None:
    last = SECOND + 400_000_000
    late = tree.pose("odom", "lidar", last + 90_000_000)
    assert late is not None and late.stamp_ns == last
    assert tree.pose("odom", "lidar", last + 110_000_000) is None
    assert tree.pose("odom", "lidar", SECOND - 1) is None
    assert tree.pose("odom", "radar", last) is None and tree.pose("map", "lidar", last) is None
    assert not tree.wait_for("odom", "lidar", last + 1, timeout_s=0.0)
    # A bag that begins again, and frames that go round.
    tree.add(transforms(10, "odom", "base", at(7)))
    again = tree.pose("odom", "base", 10)
    assert again is not None and again.pose[0, 3] == 7
    tree.add(transforms(10, "lidar", "odom", at(0)))
    assert tree.pose("odom", "lidar", 10) is None


def test_messages_are_decoded_or_rejected() -> None:
    sent = transforms(5, "odom", "base", at(3, 0.4))
    message = encode_frame(rosbags_factory, sent)[1]
    got = decode(message, TYPE)
    assert isinstance(got, Transforms) and got.stamp_ns == 5
    np.testing.assert_allclose(got.poses[0].pose, sent.poses[0].pose, atol=1e-12)
    for change in ({"child_frame_id": "odom"}, {"child_frame_id": ""}):
        pose = replace(sent.poses[0], **change)
        bad = encode_frame(rosbags_factory, Transforms(5, (pose,)))[1]
        with pytest.raises(InputRejected, match="a transform of"):
            decode(bad, TYPE)
    message.transforms[0].transform.rotation.w = float("nan")
    with pytest.raises(InputRejected, match="finite"):
        decode(message, TYPE)
    with pytest.raises(InputRejected, match="without transforms"):
        decode(rosbags_factory(TYPE), TYPE)


@pytest.mark.parametrize("with_base_odometry", [False, True])
def test_ego_motion_comes_from_tf(with_base_odometry: bool) -> None:
    """tf that says 20 m/s is believed, odometry of another frame or none being there."""
    config = ForecastConfig(columns=512, device="cpu")
    pipeline = Pipeline(Tasks(forecast=config))
    forecasts: list[Forecast] = []
    for i, scan in enumerate(scans(SimulatorConfig(beams=32, columns=512, speed_mps=0.0), 3)):
        stamp, pose = scan.stamp_ns, at(2.0 * i)
        pipeline.step(transforms(0, "base", scan.frame_id, at(0), static=True))
        pipeline.step(transforms(stamp, "odom", "base", pose))
        if with_base_odometry:
            pipeline.step(Odometry(stamp, "odom", "base", pose))
        forecasts += [f for f in pipeline.step(Scan(stamp, scan.frame_id, scan.xyz))
                      if isinstance(f, Forecast)]  # fmt: skip
    np.testing.assert_allclose(forecasts[-1].sensor_poses[-1][:3, 3], [10, 0, 0], atol=1e-6)
