"""What the allocator holds back goes to the system again."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from robot_perception.pipeline import memory


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
