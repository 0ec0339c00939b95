"""Threads that the steps of a pipeline share: to start one takes as long as a small step."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def threads() -> ThreadPoolExecutor:
    """As many as there are cores. A task must not wait for another one of them."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="step")


# They do not live on in a forked process.
os.register_at_fork(after_in_child=threads.cache_clear)
