"""Samples of simulated drives, each made by a process of its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.augment import Augmentation
from robot_perception.core.forecast.dataset import FORMAT, samples
from robot_perception.core.types import Odometry, Scan
from robot_perception.pipeline.simulator.variety import scans, varied

_SCANS, _STRIDE = 66, 5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def samples_of_drives(
    seeds: Sequence[int], cache: Path, config: ForecastConfig, workers: int, console: Console
) -> dict[int, list[Path]]:
    """Sample files in the folder `cache` by the seed of the drive.

    `workers` processes make what is missing, a drive each at a time. However this process ends,
    they end with it; whoever comes next goes on with the drives that were not done.
    """
    missing = [seed for seed in seeds if not _done(cache, _name(seed)).exists()]
    with Progress(console=console) as progress:
        task = progress.add_task(f"{len(seeds)} simulated drives", total=len(seeds))
        progress.advance(task, len(seeds) - len(missing))
        workers = min(workers, len(missing))
        if workers > 1:
            with _crew(workers) as crew:
                jobs = [crew.submit(_of_drive, seed, cache, config) for seed in missing]
                for job in as_completed(jobs):
                    job.result()
                    progress.advance(task)
        else:
            for seed in missing:
                _of_drive(seed, cache, config)
                progress.advance(task)
    return {seed: _files(cache, _name(seed)) for seed in seeds}


def save_samples(
    frames: Iterable[Scan | Odometry],
    cache: Path,
    name: str,
    config: ForecastConfig,
    stride: int,
    augmentation: Augmentation | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Sample files of one source; made once, and again only if that was interrupted. `advance` is
    called after each."""
    if not _done(cache, name).exists():
        made = samples(frames, config, stride, np.random.default_rng(0), augmentation)
        for i, sample in enumerate(made):
            sample.save(cache / f"{name}_{i:05d}.npz")
            advance()
        _done(cache, name).touch()
    return _files(cache, name)


def _of_drive(seed: int, cache: Path, config: ForecastConfig) -> None:
    drive = varied(seed)
    fitting = replace(config, beams=drive.beams, elevations_rad=())
    save_samples(scans(drive, _SCANS), cache, _name(seed), fitting, _STRIDE)


def _name(seed: int) -> str:
    return f"drive_{seed:06d}"


def _done(cache: Path, name: str) -> Path:
    """There once all samples of a source are; those of another format are made again."""
    return cache / f"{name}.done{FORMAT}"


def _files(cache: Path, name: str) -> list[Path]:
    return sorted(cache.glob(f"{name}_?????.npz"))


@contextmanager
def _crew(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end at once when this one leaves, is interrupted or killed."""
    context = get_context("spawn")
    there, here = context.Pipe(duplex=False)
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    crew = ProcessPoolExecutor(workers, context, _begin, (there,))
    try:
        with _environment(dict.fromkeys(_THREAD_VARIABLES, threads)):
            yield crew
        crew.shutdown()
    finally:
        here.close()
        crew.shutdown(cancel_futures=True)
        there.close()


def _begin(line: Connection) -> None:
    """In a worker: wait for the end of the process at the other end of `line`, beside the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        try:
            line.recv_bytes()
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """What processes begun in the meantime find in their environment, where nothing else is set."""
    added = {k: v for k, v in variables.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
