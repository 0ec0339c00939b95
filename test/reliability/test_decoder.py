"""The decoder under malformed messages: a valid result or InputRejected, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_corpus import CORPUS, Case, points
from figures import FULL, record
from test_wire_properties import EXAMPLES, LIMIT, explore, valid

from robot_perception.core.errors import InputRejected
from robot_perception.wire import decode

ROOT = Path(__file__).resolve().parents[2]


def outcome(case: Case) -> str | int:
    """What the decoder made of it: the reason, "image", or the number of points."""
    try:
        frame = decode(case.message, case.type_name, LIMIT)
    except InputRejected as error:
        assert 0 < len(error.reason) < 160
        return error.reason
    valid(frame, case.message)
    return len(frame.xyz) if hasattr(frame, "xyz") else "image"


@pytest.mark.parametrize("name", CORPUS)
def test_named_case(name: str) -> None:
    case = CORPUS[name]
    # What the claim says must not be allocated before it is checked.
    tracemalloc.start()
    start = time.process_time()
    found = outcome(case)
    # A PNG of a kilobyte that claimed a chunk of 3.5 GB once took 15 s.
    assert time.process_time() - start < 10.0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * LIMIT
    if isinstance(case.expected, int):
        assert found == case.expected
    else:
        assert isinstance(found, str) and re.search(case.expected, found), found
    assert outcome(case) == found  # and a second time


def test_a_big_endian_cloud_read_twice_is_the_same_and_right() -> None:
    rows = np.arange(24, dtype=">f4")
    message = points(is_bigendian=True, data=bytearray(rows.tobytes()))
    for _ in range(3):
        scan: Any = decode(message, "sensor_msgs/msg/PointCloud2", LIMIT)
        np.testing.assert_array_equal(scan.xyz, rows.reshape(6, 4)[:, :3].astype("<f4"))


def test_the_corpus_is_counted() -> None:
    rejected = sum(
        outcome(c) not in ("image",) and isinstance(outcome(c), str) for c in CORPUS.values()
    )
    assert len(CORPUS) >= 100
    record(
        "decoder",
        "Named malformed clouds and images",
        "the named rejection, or the right points",
        len(CORPUS),
        rejected=rejected,
        right_result=len(CORPUS) - rejected,
        other_exceptions=0,
    )


@pytest.mark.skipif(not FULL, reason="the short form is in test_wire_properties.py")
def test_ten_thousand_damaged_messages() -> None:
    tried = {name: 8 * count for name, count in EXAMPLES.items()}
    accepted = {name: explore(name, count) for name, count in tried.items()}
    assert sum(tried.values()) >= 10_000
    record(
        "decoder",
        "Generated malformed messages",
        "a valid result or InputRejected",
        sum(tried.values()),
        valid=sum(accepted.values()),
        rejected=sum(tried.values()) - sum(accepted.values()),
        other_exceptions=0,
    )


def test_fuzzing_finds_nothing() -> None:
    pytest.importorskip("atheris")
    seconds = int(os.environ.get("RELIABILITY_FUZZ_S", "120")) if FULL else 8
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/reliability/fuzz.py"), "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["runs"] > (1000 if FULL else 50)
    record(
        "decoder",
        "Coverage-guided fuzzing (atheris)",
        "a valid result or InputRejected",
        report["runs"],
        seconds=report["seconds"],
        valid=report["valid"],
        rejected=report["rejected"],
        other_exceptions=0,
    )
