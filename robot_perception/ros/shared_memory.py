"""What processes that were killed left of Fast DDS in shared memory: some 70 MB each."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")
# A segment appears a moment before its owner locks it.
_MIN_AGE_S = 10.0


def remove_abandoned(folder: Path = _FOLDER) -> int:
    """Remove the segments whose owner is gone; how many.

    Fast DDS keeps `fastdds_NAME` in memory and `fastdds_NAME_el` locked as long as its owner lives,
    and removes both when that ends in order. Those of other users are left alone.
    """
    removed = 0
    with suppress(OSError):
        for lock in folder.glob("fastdds_*_el"):
            with suppress(OSError):
                removed += _remove(lock)
    return removed


def _remove(lock: Path) -> bool:
    if time.time() - lock.stat().st_mtime < _MIN_AGE_S:
        return False
    handle = os.open(lock, os.O_RDONLY)
    try:
        # Raises BlockingIOError while the owner lives.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
        lock.unlink()
    finally:
        os.close(handle)
    return True
