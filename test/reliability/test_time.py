"""Stamps that are wrong, loops, clocks that stop, sensors that drop out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from figures import FULL, cases, record
from test_devices import image, scan
from test_pipeline import as_bytes, frames_of
from test_revisit import QUICK

from robot_perception.core.config import ForecastConfig, RevisitConfig, SegmentationConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.types import Frame, ImageFrame, Odometry, Scan
from robot_perception.pipeline.inbox import Inbox
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.wire import encode_frame

SECOND = 1_000_000_000
OK, WARN, STALE = 0, 1, 3
# Nothing here may hang on how fast the machine is.
PATIENCE_S = 120.0
BASE = 1_700_000_000 * SECOND


def fed(pipeline: Pipeline, frames: list[Frame]) -> tuple[list[str], bool]:
    """What became of each frame, through an inbox; and whether the accounting is exact."""
    inbox: Inbox[Frame] = Inbox(1)
    said = []
    for frame in frames:
        inbox.put(frame)
        item = inbox.get(0.0)
        assert item is frame
        try:
            pipeline.step(item)
            inbox.done()
            said.append("processed")
        except InputRejected as error:
            inbox.reject(error.reason)
            said.append(error.reason)
        assert inbox.accounting().exact
    counts = inbox.accounting()
    rejected = sum(s != "processed" for s in said)
    return said, counts.exact and counts.rejected == rejected and not counts.pending


def at(offsets_s: list[float], of: Any = scan) -> list[Any]:
    """Frames of one sensor with these stamps after a base time."""
    return [replace(of(0), stamp_ns=BASE + round(s * 1e9)) for s in offsets_s]


# Offsets in seconds from the base time; None is a stamp of zero. How many are processed.
STAMPS: dict[str, tuple[list[float | None], int]] = {
    "in order": ([0.0, 0.1, 0.2, 0.3], 4),
    "the same stamp twice": ([0.0, 0.1, 0.1, 0.2], 3),
    "all stamps the same": ([0.0] * 6, 1),
    "a step backward": ([0.0, 0.1, 0.05, 0.2], 3),
    "backward by a nanosecond": ([0.1, 0.1 - 1e-9, 0.2], 2),
    "two frames swapped": ([0.0, 0.2, 0.1, 0.3], 3),
    "a zero in between": ([0.0, 0.1, None, 0.2], 3),
    "always zero": ([None] * 5, 1),
    "one in the far future": ([0.0, 0.1, 3e8, 0.2, 0.3], 5),
    "at the end of time": ([0.0, 2**31 - 2 - 1_700_000_000.0, 0.1, 0.2], 4),
    "a pause of an hour": ([0.0, 0.1, 3600.0, 3600.1], 4),
    "a restart ten seconds back": ([10.0, 10.1, 0.0, 0.1], 4),
    "a restart a day back": ([86_400.0, 86_400.1, 0.0, 0.1], 4),
}


@pytest.mark.parametrize("kind", ["image", "scan"])
def test_wrong_stamps_are_counted_and_outlived(kind: str) -> None:
    of = image if kind == "image" else scan
    tasks = Tasks(SegmentationConfig(device="cpu"), None, ForecastConfig(columns=512, device="cpu"))
    processed = rejected = 0
    for name, (offsets, expected) in STAMPS.items():
        pipeline = Pipeline(tasks)
        frames = [replace(of(0), stamp_ns=0) if s is None else at([s], of)[0] for s in offsets]
        said, exact = fed(pipeline, frames)
        assert exact and said.count("processed") == expected, (name, said)
        assert all("stamp" in reason for reason in said if reason != "processed")
        processed += expected
        rejected += len(said) - expected
        # And the stream goes on.
        later = replace(of(0), stamp_ns=2**31 * SECOND - 5)
        assert fed(pipeline, [later])[0] == ["processed"], name
    record(
        "time",
        f"Duplicate, backward, zero, far-future stamps: {kind}s",
        "received = processed + rejected, the stream goes on",
        len(STAMPS),
        processed=processed,
        rejected=rejected,
    )


@pytest.mark.parametrize("wrong", [3e8, None], ids=["far_future", "zero"])
def test_one_wrong_stamp_does_not_clear_the_map(wrong: float | None) -> None:
    pipeline = Pipeline(Tasks(revisit=QUICK))
    assert pipeline.detector
    for i in range(4):
        pipeline.step(replace(image(i), stamp_ns=BASE + i * 4 * SECOND))
    before = len(pipeline.detector.keyframes)
    stamp = 0 if wrong is None else BASE + round(wrong * 1e9)
    fed(pipeline, [replace(image(4), stamp_ns=stamp)])
    pipeline.step(replace(image(5), stamp_ns=BASE + 16 * SECOND))
    # The wrong one is a keyframe as well, unless its stamp was not set.
    assert len(pipeline.detector.keyframes) == before + (1 if wrong is None else 2)
    assert before == 4
    # A whole drive that comes again is a restart, all the same.
    pipeline.step(replace(image(0), stamp_ns=BASE))
    assert len(pipeline.detector.keyframes) < before


def test_odometry_outlives_wrong_stamps() -> None:
    pipeline = Pipeline(Tasks())
    frames: list[Frame] = [
        Odometry(BASE + round(s * 1e9), "odom", "base", np.eye(4))
        for s in (0.0, 0.1, 0.1, 0.05, 3e8, 0.2, 0.3, -3600.0, -3599.9)
    ]
    said, exact = fed(pipeline, frames)
    assert exact and said.count("processed") == 7
    assert pipeline.poses.odometry.at(BASE - 3600 * SECOND) is not None


@pytest.mark.skipif(not FULL, reason="the short form is in test_pipeline.py")
def test_loops_of_a_recording_are_identical(tmp_path: Path) -> None:
    frames = frames_of(tmp_path)
    revisit = RevisitConfig(fit_keyframes=1, keyframe_period_s=0.0, keyframe_distance_m=0.1)
    pipeline = Pipeline(Tasks(SegmentationConfig(), revisit, ForecastConfig(columns=1024)))
    loops = 20
    first: list[list[bytes]] = []
    for loop in range(loops):
        found = [as_bytes(frame, pipeline.step(frame)) for frame in frames]
        first = first or found
        assert found == first, f"loop {loop}"
    results = sum(map(len, first))
    assert results > 10
    record(
        "time",
        "Loops of a recording",
        "every loop gives the same bytes",
        loops,
        messages_in_a_loop=results,
        different_loops=0,
    )


def test_two_sensors_out_of_step() -> None:
    """A camera whose clock is an hour off, and one that is five times as fast: no harm done."""
    tasks = Tasks(SegmentationConfig(device="cpu"), None, ForecastConfig(columns=512, device="cpu"))
    for offset, images_a_scan in ((3600.0, 1), (-3600.0, 1), (0.05, 5)):
        pipeline = Pipeline(tasks)
        results: dict[type, int] = {ImageFrame: 0, Scan: 0}
        for i in range(6):
            for k in range(images_a_scan):
                s = offset + 0.1 * i + 0.1 * k / images_a_scan
                results[ImageFrame] += len(pipeline.step(at([s], image)[0]))
            results[Scan] += len(pipeline.step(at([0.1 * i])[0]))
        assert results == {ImageFrame: 6 * images_a_scan, Scan: 5}
    record("time", "Two sensors out of step", "all frames of both", 3, rejected=0)


@pytest.fixture
def sensor(ros_domain: int) -> Iterator[Any]:
    """A forecast node on simulated time, in this process, and a sensor."""
    rclpy = pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import PointCloud2

    from robot_perception.ros.base_node import PerceptionNode
    from robot_perception.ros.messages import rclpy_factory

    class Sensor:
        def __init__(self) -> None:
            self.node = PerceptionNode("forecast", ("forecast",))
            self.node.set_parameters([Parameter("use_sim_time", value=True)])
            self.peer = rclpy.create_node("peer")
            self.executor = SingleThreadedExecutor()
            self.executor.add_node(self.node)
            self.executor.add_node(self.peer)
            self.points = self.peer.create_publisher(PointCloud2, "points", 5)
            self.clock = self.peer.create_publisher(Clock, "/clock", 5)
            self.peer.create_subscription(PointCloud2, "/forecast/points", lambda _: None, 5)
            self.peer.create_subscription(DiagnosticArray, "/diagnostics", self._take, 50)
            self.level, self.counts, self.reports, self.sent = -1, {}, 0, 0
            self.node.trigger_configure()
            self.node.trigger_activate()

        def _take(self, message: Any) -> None:
            for status in message.status:
                if status.name == "forecast: points":
                    self.level = (
                        status.level[0] if isinstance(status.level, bytes) else status.level
                    )
                    self.counts = {v.key: v.value for v in status.values}
                    self.reports += 1

        @property
        def heard(self) -> bool:
            """Whether the input counts as alive; a busy machine drops frames, which is a WARN."""
            return self.level in (OK, WARN)

        def until(
            self, condition: Callable[[], bool], sending: bool, ticking: bool = True
        ) -> float:
            """Go on at 10 Hz until `condition`; the seconds that took."""
            start = time.monotonic()
            while not condition():
                assert time.monotonic() - start < PATIENCE_S, (self.level, self.counts)
                if sending:
                    self.sent += 1
                    frame = replace(scan(0), stamp_ns=BASE + self.sent * SECOND // 10)
                    self.points.publish(encode_frame(rclpy_factory, frame)[1])
                if ticking:
                    tick = Clock()
                    tick.clock.sec = 1000 + round(time.monotonic())
                    self.clock.publish(tick)
                end = time.monotonic() + 0.1
                while (left := end - time.monotonic()) > 0:
                    self.executor.spin_once(timeout_sec=left)
            return time.monotonic() - start

        def close(self) -> None:
            self.node.stop()
            for node in (self.node, self.peer):
                self.executor.remove_node(node)
                node.destroy_node()

    rclpy.init()
    sensor = Sensor()
    yield sensor
    sensor.close()
    rclpy.try_shutdown()


def test_a_sensor_that_drops_out_and_returns(sensor: Any) -> None:
    """STALE when it is silent, and not any more when it speaks; how soon is for the full form."""
    went, came = [], []
    for _ in range(cases(1, 5)):
        sensor.until(lambda: sensor.heard, sending=True)
        reports = sensor.reports
        sensor.until(lambda reports=reports: sensor.reports >= reports + 2, sending=True)
        went.append(sensor.until(lambda: sensor.level == STALE, sending=False))
        came.append(sensor.until(lambda: sensor.heard, sending=True))
    if FULL:
        assert max(went) <= 2.1 and max(came) <= 1.1, (went, came)
    counts = {
        k: int(sensor.counts[k])
        for k in ("received", "processed", "dropped", "rejected", "pending")
    }
    assert counts.pop("received") == sum(counts.values()) > 0
    record(
        "time",
        "A sensor drops out and returns",
        "STALE within 2 s, OK within 1 s of its return",
        len(went),
        stale_after_s=round(max(went), 2),
        ok_after_s=round(max(came), 2),
    )


def test_the_clock_stops(sensor: Any) -> None:
    """Results and diagnostics go on where /clock stands still: they hang on the steady clock."""
    sensor.until(lambda: sensor.heard, sending=True)
    reports, processed = sensor.reports, int(sensor.counts["processed"])
    standing = sensor.until(
        lambda: sensor.reports >= reports + 3 and int(sensor.counts["processed"]) > processed,
        sending=True,
        ticking=False,
    )
    told = sensor.until(lambda: sensor.level == STALE, sending=False, ticking=False)
    if FULL:
        assert told <= 2.1
    record(
        "time",
        "/clock stops",
        "results and diagnostics go on; STALE is told all the same",
        1,
        reports_meanwhile=sensor.reports - reports,
        seconds_without_a_tick=round(standing + told, 1),
        stale_after_s=round(told, 2),
    )
