"""What the allocator holds back goes to the system again."""

from __future__ import annotations

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
