"""Live nodes in processes of their own give, bit by bit, what the offline pipeline gives."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.outputs import latched
from robot_perception.pipeline.parity import compare
from robot_perception.pipeline.perception import TASKS
from robot_perception.pipeline.replay import replay
from robot_perception.pipeline.settings import load_tasks
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import open_recording
from robot_perception.wire import encode_frame

_RESULTS = tuple(f"/{task}/" for task in TASKS)


def excerpt(source: Path, out: Path, items: int) -> Path:
    """The first messages of a recording."""
    with McapSink(out) as sink:
        for item in islice(open_recording(source).frames(), items):
            assert item.frame is not None
            sink.write(f"/{item.topic}", *encode_frame(rosbags_factory, item.frame), item.stamp_ns)
    return out


def check(recording: Path, folder: Path, *options: str) -> None:
    tasks = load_tasks()
    with McapSink(folder / "offline.mcap", latched(tasks)) as sink:
        replayed = replay(open_recording(recording), tasks, sink)
    assert all(counts.exact and not counts.rejected for counts in replayed.accounting.values())
    assert set(replayed.results) == set(TASKS)
    command = [sys.executable, "-m", "robot_perception.ros.live", str(recording), *options]
    live = subprocess.run(
        [*command, "--out", str(folder / "live.mcap")], check=True, stdout=subprocess.PIPE
    )
    summary = json.loads(live.stdout.splitlines()[-1])
    assert summary["played"]["unacknowledged"] == 0
    assert set(summary["exit_codes"]) == {0}
    for name, values in summary["diagnostics"].items():
        if "received" in values:
            kept = sum(int(values[k]) for k in ("processed", "dropped", "rejected", "pending"))
            assert int(values["received"]) == kept, name
            assert values["dropped"] == values["rejected"] == "0", name
    parity = compare(folder / "offline.mcap", folder / "live.mcap", _RESULTS)
    assert parity.identical, parity


def test_parity_on_a_real_recording(kitti: Path, tmp_path: Path, ros_domain: int) -> None:
    check(excerpt(kitti, tmp_path / "kitti.mcap", 24), tmp_path)


@pytest.mark.parametrize("options", [(), ("--composed",)])
def test_parity_on_the_simulator(tmp_path: Path, ros_domain: int, options: tuple[str, ...]) -> None:
    """With odometry and camera information; three processes, and all in one."""
    drive = tmp_path / "drive.mcap"
    write_recording(SimulatorConfig(duration_s=1.0), drive)
    check(drive, tmp_path, *options)


def test_two_runs_differ_where_they_differ(tmp_path: Path) -> None:
    """The comparison itself can fail."""
    drive = tmp_path / "drive.mcap"
    write_recording(SimulatorConfig(duration_s=0.5), drive)
    for name, override in (("a", []), ("b", ["forecast.max_range_m=30.0"])):
        with McapSink(tmp_path / f"{name}.mcap") as sink:
            replay(open_recording(drive), load_tasks(overrides=override), sink)
    parity = compare(tmp_path / "a.mcap", tmp_path / "b.mcap", _RESULTS)
    assert not parity.identical
    assert parity.topics["/segmentation/labels"].same
    assert not parity.topics["/forecast/points"].same
