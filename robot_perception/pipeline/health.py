"""Latency percentiles and the state of an input, for diagnostics and reports."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

_WINDOW = 1000


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds over the last `count` (at most 1000) samples."""

    count: int
    p50: float
    p90: float
    p99: float
    max: float


class Stopwatch:
    """Durations by name ("decode", "segmentation", ...), the last thousand of each. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[str, deque[float]] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - start) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        with self._lock:
            self._samples.setdefault(name, deque(maxlen=_WINDOW)).append(milliseconds)

    def percentiles(self) -> dict[str, Percentiles]:
        with self._lock:
            samples = {name: np.array(values) for name, values in self._samples.items()}
        return {name: percentiles(values) for name, values in samples.items()}

    def series(self) -> dict[str, list[float]]:
        with self._lock:
            return {name: list(values) for name, values in self._samples.items()}


def percentiles(milliseconds: np.ndarray) -> Percentiles:
    """Percentiles of a non-empty sample."""
    p50, p90, p99 = np.percentile(milliseconds, (50, 90, 99))
    return Percentiles(
        len(milliseconds), float(p50), float(p90), float(p99), float(milliseconds.max())
    )
