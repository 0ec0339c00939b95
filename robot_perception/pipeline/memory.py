"""Resident memory that follows what is in use: settings of the C library and of the kernel.

Arrays of many sizes, made by several threads, leave gaps in the allocator's heaps, which it keeps:
resident memory creeps up for hours while what is in use stays the same. So it does where NumPy asks
for huge pages under large arrays: the kernel goes on to fill the gaps around them, 2 MB at a time,
long after the arrays are gone. (Linux and glibc; elsewhere nothing happens.)
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES, _LARGE_BYTES = 128 << 20, 32 << 20
_PR_SET_THP_DISABLE = 41


def steady_memory(heaps: int = 2) -> None:
    """Let all threads share `heaps` heaps, instead of up to eight for each core, and take no huge
    pages; for a process that runs for hours, to be called early. Freed pages stay until
    `give_back`: returned and taken again they cost a forecast up to 4000 page faults."""
    if _GLIBC is not None:
        _GLIBC.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _GLIBC.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _GLIBC.mallopt(_M_ARENA_MAX, heaps)
        _GLIBC.prctl(_PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))


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
