"""What several tests share: the real recordings where they are, and ROS domains of their own."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background lets them, and all that they start, ignore SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of several tests that wait for one another take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
# Someone who runs several of these at once gives each a range.
_DOMAINS = itertools.count(int(os.environ.get("ROS_DOMAIN_ID") or os.getpid() % 50))


@pytest.fixture
def kitti() -> Path:
    """Sixty frames of camera and LiDAR in traffic."""
    path = DATA / "kitti_2011_09_26"
    if not path.is_dir():
        pytest.skip(f"the KITTI recording is not at {path}")
    return path


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A ROS domain that no other test talks on, on this machine only, fit for large messages."""
    pytest.importorskip("rclpy")
    domain = 1 + next(_DOMAINS) % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))
    return domain
