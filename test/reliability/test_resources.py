"""What the allocator holds back, or a killed process leaves, goes to the system again."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from figures import record, segments

from robot_perception.pipeline import memory
from robot_perception.ros.shared_memory import remove_abandoned


def test_free_memory_is_given_back() -> None:
    """Free blocks under one in use stay resident until they are asked for."""
    if memory._GLIBC is None:
        pytest.skip("another C library")
    process = psutil.Process()
    blocks = [bytes([1]) * 60_000 for _ in range(2000)]
    last = blocks[-1]
    held = process.memory_info().rss
    blocks.clear()
    memory.give_back()
    assert held - process.memory_info().rss > 60e6
    assert len(last) == 60_000


@pytest.mark.skipif(sys.platform != "linux", reason="settings of the Linux kernel")
def test_no_huge_pages_under_large_arrays() -> None:
    program = """
import numpy as np
from robot_perception.pipeline.memory import steady_memory
steady_memory()
arrays = [np.ones(1 << 23) for _ in range(4)]
for line in open("/proc/self/smaps_rollup"):
    if line.startswith(("Rss", "AnonHugePages")):
        print(line.split()[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    resident, huge = map(int, done.stdout.split())
    assert resident > 4 * 64 * 1024
    assert huge == 0


def test_what_killed_processes_left_in_shared_memory_is_removed(tmp_path: Path) -> None:
    """Of the dead; not of the living, nor what may be about to be locked, nor other files."""
    names = ("fastdds_dead", "fastdds_alive", "fastdds_new", "fastdds_port7411", "other_dead")
    for name in names:
        for path in (tmp_path / name, tmp_path / f"{name}_el"):
            path.write_bytes(b"")
            os.utime(path, (1, 1) if "new" not in name else None)
    owner = os.open(tmp_path / "fastdds_alive_el", os.O_RDONLY)
    fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        assert remove_abandoned(tmp_path) == 2
    finally:
        os.close(owner)
    left = {p.name for p in tmp_path.iterdir() if not p.name.endswith("_el")}
    assert left == {"fastdds_alive", "fastdds_new", "other_dead"}
    assert remove_abandoned(tmp_path / "missing") == 0


def test_a_killed_node_s_shared_memory_goes_with_the_next_one(ros_domain: int) -> None:
    """With real segments: the lock that tells the living from the dead is Fast DDS's own."""
    program = (
        "import os, rclpy; rclpy.init(); node = rclpy.create_node('x'); print('up', flush=True); "
        "os.kill(os.getpid(), 9) if os.environ['DIES'] else input()"
    )
    before = segments()
    alive, dead = (
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "DIES": dies},
        )
        for dies in ("", "yes")
    )  # fmt: skip
    try:
        assert alive.stdout is not None and alive.stdout.readline()
        dead.communicate(timeout=120)
        made = segments() - before
        assert made, "Fast DDS uses no shared memory here"
        for path in made:
            os.utime(f"{path}_el", (1, 1))
        assert remove_abandoned() >= 1
        left = segments() & made
        assert left and left < made
    finally:
        alive.communicate(b"\n", timeout=120)
    record(
        "lifecycle",
        "Shared memory of a killed node",
        "the next node removes it, and none of the living",
        len(made),
        removed=len(made) - len(left),
        of_the_living=0,
    )
