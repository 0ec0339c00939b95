"""Threads that the steps of a pipeline share: to start one takes as long as a small step."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@cache
def threads() -> ThreadPoolExecutor:
    """One more than there are cores, so that a long task does not hold up short ones. A task must
    not wait for another one of them."""
    return ThreadPoolExecutor((os.cpu_count() or 1) + 1, thread_name_prefix="step")


def limit_threads(of_torch: int = 0) -> None:
    """Let PyTorch have `of_torch` threads, half of the cores if 0, and OpenBLAS, as far as it is
    loaded, one. For the whole process."""
    # Threads that wait for a core that another process has make a forward ten times as slow.
    torch.set_num_threads(of_torch or max(1, (os.cpu_count() or 2) // 2))
    # Those of OpenBLAS keep a core busy for 30 ms after each product of matrices.
    ThreadpoolController().select(internal_api="openblas").limit(limits=1)


# They do not live on in a forked process.
os.register_at_fork(after_in_child=threads.cache_clear)
