"""The order of frames, loops of a recording, and what belongs to one stamp."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from robot_perception.core.config import ForecastConfig, RevisitConfig, SegmentationConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.types import Forecast, Frame, ImageFrame, Odometry, Result, Transforms
from robot_perception.pipeline.messages import rosbags_factory, serialize
from robot_perception.pipeline.odometry import OdometryBuffer
from robot_perception.pipeline.outputs import messages, topics
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording
from robot_perception.pipeline.sources import open_recording
from robot_perception.wire import decode_labels, encode_array_image


def frames_of(folder: Path) -> list[Frame]:
    path = folder / "drive.mcap"
    write_recording(SimulatorConfig(duration_s=1.0), path)
    return [item.frame for item in open_recording(path).frames() if item.frame is not None]


def as_bytes(frame: Frame, results: list[Result], optional: set[str]) -> list[bytes]:
    return [
        serialize(build(rosbags_factory))
        for result in results
        for name, build in messages(result, frame).items()
        if name not in optional
    ]


def test_every_loop_of_a_recording_gives_the_same(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    revisit = RevisitConfig(fit_keyframes=1, keyframe_period_s=0.0, keyframe_distance_m=0.1)
    tasks = Tasks(SegmentationConfig(), revisit, ForecastConfig(columns=1024))
    # Their message types are not among those that every machine has.
    optional = {t.name for table in topics(tasks).values() for t in table if t.optional}
    pipeline = Pipeline(tasks)
    loops = []
    for _ in range(3):
        loops.append([as_bytes(frame, pipeline.step(frame), optional) for frame in frames])
    assert sum(map(len, loops[0])) > 100
    assert loops[0] == loops[1] == loops[2]


def test_stamps_out_of_order_are_rejected_and_a_restart_is_not() -> None:
    pipeline = Pipeline(Tasks(segmentation=SegmentationConfig()))
    rgb = np.zeros((64, 64, 3), np.uint8)

    def step(stamp_ns: int) -> list[Result]:
        return pipeline.step(ImageFrame(stamp_ns, "camera", rgb))

    assert step(10_000_000_000)
    for stamp in (10_000_000_000, 9_900_000_000):
        with pytest.raises(InputRejected, match="stamp"):
            step(stamp)
    assert step(10_100_000_000)
    assert step(1_000_000_000)
    pipeline.expect_restart()
    assert step(999_999_999)


def test_only_what_is_wanted_is_done(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    pipeline = Pipeline(Tasks(SegmentationConfig(), None, ForecastConfig(columns=1024)))
    assert not any(pipeline.step(frame, wanted=()) for frame in frames)
    pipeline.reset()
    results = [r for frame in frames for r in pipeline.step(frame, wanted=("forecast",))]
    assert results and all(isinstance(result, Forecast) for result in results)


def test_forecasts_can_be_had_in_the_odometry_frame(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    config = ForecastConfig(columns=1024, forecast_frame="odom")
    pipeline = Pipeline(Tasks(forecast=config))
    forecasts = [r for f in frames for r in pipeline.step(f) if isinstance(r, Forecast)]
    assert {f.frame_id for f in forecasts} == {"odom"}
    pipeline = Pipeline(Tasks(forecast=config))
    with pytest.raises(InputRejected, match="odometry"):
        for frame in frames:
            if not isinstance(frame, Odometry | Transforms):
                pipeline.step(frame)


def test_odometry_is_found_by_stamp_and_waited_for() -> None:
    buffer = OdometryBuffer()
    buffer.add(Odometry(1_000_000_000, "odom", "base", np.eye(4)))
    assert buffer.at(1_050_000_000) is not None
    assert buffer.at(1_200_000_000) is None
    assert not buffer.wait_for(2_000_000_000, 0.01)
    late = Odometry(2_000_000_000, "odom", "base", np.eye(4))
    threading.Timer(0.05, buffer.add, (late,)).start()
    assert buffer.wait_for(2_000_000_000, 5.0)
    with pytest.raises(InputRejected):
        buffer.add(late)
    buffer.add(Odometry(500_000_000, "odom", "base", np.eye(4)))
    assert buffer.at(2_000_000_000) is None


def test_labels_come_back_from_the_wire_as_they_went() -> None:
    labels = np.random.default_rng(0).integers(0, 65536, (7, 5)).astype(np.uint16)
    message = encode_array_image(rosbags_factory, 42, "camera", labels, "16UC1")
    stamp, again = decode_labels(message)
    assert stamp == 42
    np.testing.assert_array_equal(again, labels)
    message.encoding = "rgb8"
    with pytest.raises(InputRejected):
        decode_labels(message)
    message.encoding, message.height = "16UC1", 8
    with pytest.raises(InputRejected):
        decode_labels(message)
