"""Resident memory that follows what is in use: settings of the C library's allocator.

Arrays of many sizes, made by several threads, leave gaps in the allocator's heaps, which it keeps:
resident memory creeps up for hours while what is in use stays the same. (glibc; elsewhere nothing
happens.)
"""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8


def few_heaps(count: int = 2) -> None:
    """Let all threads share `count` heaps, instead of up to eight for each core; call it early."""
    if _GLIBC is not None:
        _GLIBC.mallopt(_M_ARENA_MAX, count)


def give_back() -> None:
    """Return free pages to the system: some milliseconds, seldom."""
    if _GLIBC is not None:
        _GLIBC.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


_GLIBC = _glibc()
