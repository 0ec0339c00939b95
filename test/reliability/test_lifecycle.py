"""Transitions in every order, and ends of every kind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from figures import FULL, cases, record, segments
from test_recordings import make_frames, write_mcap

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import PointCloud2  # noqa: E402
from test_devices import scan  # noqa: E402

from robot_perception.pipeline.sources import open_recording  # noqa: E402
from robot_perception.ros.base_node import PerceptionNode  # noqa: E402
from robot_perception.ros.messages import rclpy_factory  # noqa: E402
from robot_perception.ros.player import wait_until_heard  # noqa: E402
from robot_perception.wire import encode_frame  # noqa: E402

NEXT = {
    ("unconfigured", "configure"): "inactive",
    ("inactive", "activate"): "active",
    ("active", "deactivate"): "inactive",
    ("inactive", "cleanup"): "unconfigured",
    ("unconfigured", "shutdown"): "finalized",
    ("inactive", "shutdown"): "finalized",
    ("active", "shutdown"): "finalized",
}
TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")


@pytest.fixture
def context(ros_domain: int) -> Iterator[Any]:
    rclpy.init()
    yield None
    rclpy.try_shutdown()


def state_of(node: PerceptionNode) -> str:
    return str(node._state_machine.current_state[1])


def attempt(node: PerceptionNode, transition: str) -> bool:
    """Whether the transition went well; one that the state does not have is refused by rclpy."""
    try:
        result = getattr(node, f"trigger_{transition}")()
    except rclpy._rclpy_pybind11.RCLError:
        return False
    return bool(result == TransitionCallbackReturn.SUCCESS)


def exact(node: PerceptionNode) -> bool:
    return all(stream._inbox.accounting().exact for stream in node._streams.values())


def walk(steps: Any, cloud: Any, publisher: Any, rng: np.random.Generator) -> Counter[str]:
    """One node through `steps`, with messages and failing configurations on the way."""
    node = PerceptionNode("forecast", ("forecast",))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    done: Counter[str] = Counter()
    state = "unconfigured"
    try:
        for step in steps:
            fails = step == "configure" and rng.random() < 0.3
            method = "atppnet" if fails else "ego_warp"
            node.set_parameters([Parameter("method", value=method)])
            if state == "active" and rng.random() < 0.5:
                publisher.publish(cloud)
                executor.spin_once(timeout_sec=0.002)
            allowed = (state, step) in NEXT and not (fails and state == "unconfigured")
            assert attempt(node, step) == allowed, (state, step)
            state = NEXT[state, step] if allowed else state
            assert state_of(node) == state, (step, state)
            assert exact(node)
            done["done" if allowed else "refused"] += 1
    finally:
        assert node.stop()
        executor.remove_node(node)
        node.destroy_node()
    return done


def test_random_walks_through_the_lifecycle(context: Any) -> None:
    rng = np.random.default_rng(7)
    peer = rclpy.create_node("peer")
    publisher = peer.create_publisher(PointCloud2, "points", 5)
    cloud = encode_frame(rclpy_factory, scan(0))[1]
    here = psutil.Process()
    walks, done = cases(25, 1000), Counter[str]()
    # All pairs of transitions come first, from the start and from the active state.
    orders = [[a, b] for a in TRANSITIONS for b in TRANSITIONS]
    orders += [["configure", "activate", *pair] for pair in orders]
    if walks < len(orders):
        orders = orders[:: len(orders) // walks + 1]
    threads = files = 0
    for i in range(walks):
        chosen = rng.choice(TRANSITIONS, 8, p=(0.28, 0.28, 0.2, 0.2, 0.04))
        steps = orders[i] if i < len(orders) else [str(s) for s in chosen]
        done += walk(steps, cloud, publisher, rng)
        if i == 4:
            threads, files = here.num_threads(), here.num_fds()
    peer.destroy_node()
    assert here.num_threads() <= threads + 1 and here.num_fds() <= files + 3
    record(
        "lifecycle",
        "Random walks through the transitions",
        "the state that the transition leads to, or the old one; nothing left behind",
        walks,
        **done,
        threads_more=here.num_threads() - threads,
        files_more=here.num_fds() - files,
    )


# A segmentation whose step, or whose warming up, takes a minute in native calls, in a real node.
_SLOW = """
import sys, time
where = sys.argv[1]
import torch
from robot_perception.core.segmentation.segmenter import Segmenter
step = Segmenter.step
calls = 0
def slow(self, frame):
    global calls
    calls += 1
    if where == "configuring" or calls > 1:  # the first one warms up
        print("in the middle", flush=True)
        end = time.monotonic() + 60
        a = torch.rand(1500, 1500)
        while time.monotonic() < end:
            a = (a @ a).clamp(0, 1)
    return step(self, frame)
Segmenter.step = slow
sys.argv[1:] = []
from robot_perception.ros.run import run
run("segmentation", ("segmentation",))
"""


ENDS = [(signal.SIGTERM, "step"), (signal.SIGINT, "configuring")]
ENDS_TOO = [(signal.SIGINT, "step"), (signal.SIGTERM, "configuring")]
NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}


@pytest.mark.parametrize(
    ("number", "where"),
    ENDS + ENDS_TOO * FULL,
    ids=lambda value: NAMES.get(value, value),
)
def test_a_node_ends_in_the_middle(number: signal.Signals, where: str, context: Any) -> None:
    """Of a step of a minute, or of loading a model that takes as long."""
    from sensor_msgs.msg import Image

    before = segments()
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peer = rclpy.create_node("peer")
    publisher = peer.create_publisher(Image, "image", 5)
    labels = peer.create_subscription(Image, "/segmentation/labels", lambda _: None, 5)
    frame = encode_frame(rclpy_factory, make_frames(1)[2])[1]
    try:
        assert process.stdout is not None
        if where == "step":
            executor = SingleThreadedExecutor()
            executor.add_node(peer)
            assert wait_until_heard(peer, executor, ["segmentation"], 240.0)
            executor.remove_node(peer)
        while not select.select([process.stdout], [], [], 1.0)[0]:
            publisher.publish(frame)
        assert process.stdout.readline().strip() == "in the middle"
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        took = time.monotonic() - start
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        peer.destroy_subscription(labels)
        peer.destroy_node()
    assert process.returncode == 0, errors
    assert took < (2.0 if FULL else 60.0), took
    for word in ("context is invalid", "Traceback", "terminate called", "rror"):
        assert word not in errors, errors
    left = len(segments() - before)
    record(
        "lifecycle",
        f"{number.name} in the middle of {'a step' if where == 'step' else 'configuring'} of 60 s",
        "ended within 2 s, status 0, nothing on the way out",
        1,
        seconds=round(took, 2),
        shared_memory_left=left,
    )
    assert left == 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM] + [signal.SIGINT] * FULL, ids=lambda value: NAMES[value]
)
def test_a_replay_that_is_ended_leaves_no_half_result(
    number: signal.Signals, tmp_path: Path
) -> None:
    """The old result stays; what there is of the new one has another name and is readable."""
    drive = write_mcap(tmp_path / "drive.mcap", make_frames(400))
    out = tmp_path / "out.mcap"
    write_mcap(out, make_frames(1))
    before = out.read_bytes()
    command = [sys.executable, "-m", "robot_perception.apps.cli", "replay", str(drive)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--tasks", "segmentation"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    partial = out.with_suffix(".part.mcap")
    while not (partial.exists() and partial.stat().st_size > 1_000_000):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    start = time.monotonic()
    _, errors = process.communicate(timeout=120)
    took = time.monotonic() - start
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert took < (2.0 if FULL else 60.0), took
    assert out.read_bytes() == before
    recording = open_recording(partial)
    assert sum(item.frame is not None for item in recording.frames()) > 10
    assert not recording.damage
    record(
        "lifecycle",
        f"{number.name} while a replay is written",
        "exit code 130; the old result stays, the part of the new one is readable",
        1,
        seconds=round(took, 2),
    )


@pytest.mark.slow
def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path, ros_domain: int) -> None:
    """SIGTERM to the command alone, while it waits for the process that runs the live nodes."""
    drive = write_mcap(tmp_path / "drive.mcap", make_frames(200))
    program = (
        "import sys; from pathlib import Path; from rich.console import Console\n"
        "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "from robot_perception.apps.demo import _run_live\n"
        "_run_live(Path(sys.argv[1]), Path(sys.argv[2]), Console())"
    )
    command = [sys.executable, "-c", program, str(drive), str(tmp_path / "live.mcap")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    here = psutil.Process(process.pid)
    while len(nodes := here.children(recursive=True)) < 4:
        assert process.poll() is None
        time.sleep(0.1)
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(120)
    took = time.monotonic() - start
    left = [p for p in nodes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for p in left:
        p.kill()
    assert not left
    record(
        "lifecycle",
        "SIGTERM to a demo with live nodes",
        "no process is left",
        len(nodes),
        seconds=round(took, 2),
        left=len(left),
    )
