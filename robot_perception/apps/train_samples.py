"""The samples of `forecast train`, from recordings and from simulated drives, made once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from robot_perception.apps.drive_samples import samples_of_drives, save_samples
from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.augment import Augmentation, faster, thinned
from robot_perception.core.types import Odometry, Scan
from robot_perception.pipeline.sources import open_recording

_FIRST_VALIDATION_SEED = 900_000
_HELD_OUT = 0.15


def make_samples(
    recordings: list[Path],
    validation: list[Path],
    drives: int,
    cache: Path,
    forecast: ForecastConfig,
    stride: int,
    augmentation: Augmentation,
    workers: int,
    console: Console,
) -> tuple[list[Path], list[Path]]:
    """Files to train on, and files to validate on, in the folder `cache`.

    What an earlier run made is taken as it is. `workers` processes make those of simulated drives;
    the files do not depend on their number.
    """
    fit: list[Path] = []
    check: list[Path] = []
    for path in recordings:
        made = []
        for speedup, thinning in product(augmentation.speedups, augmentation.thinnings):
            some = replace(augmentation, speedups=(speedup,), thinnings=(thinning,))
            made += _of_recording(path, cache, forecast, stride, some, console)
        # The last part of a recording, with a gap: neighbours in time are nearly the same.
        held = 0 if validation else max(1, round(_HELD_OUT * len(made)))
        fit += made[: max(1, len(made) - 2 * held)] if held else made
        check += made[len(made) - held :]
    for path in validation:
        check += _of_recording(path, cache, forecast, stride, Augmentation(), console)
    if drives:
        last = _FIRST_VALIDATION_SEED + max(1, drives // 10)
        seeds = [*range(drives), *range(_FIRST_VALIDATION_SEED, last)]
        found = samples_of_drives(seeds, cache, forecast, workers, console)
        fit += [path for seed in seeds[:drives] for path in found[seed]]
        check += [path for seed in seeds[drives:] for path in found[seed]]
    return fit, check


def _of_recording(
    path: Path,
    cache: Path,
    config: ForecastConfig,
    stride: int,
    augmentation: Augmentation,
    console: Console,
) -> list[Path]:
    """Samples of a recording at one speed and with one share of its beams."""
    recording = open_recording(path)
    if "points" not in recording.roles:
        raise InputRejected(f"{path} has no point clouds")
    (speedup,), (thinning,) = augmentation.speedups, augmentation.thinnings
    read = (item.frame for item in recording.frames())
    frames = faster((f for f in read if isinstance(f, Scan | Odometry)), speedup)
    fitting = config
    if thinning > 1:
        frames = thinned(frames, thinning, config)
        fitting = replace(config, beams=config.beams // thinning, elevations_rad=())
    settings = (str(path.resolve()), asdict(config), stride, asdict(augmentation))
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return _sampled(frames, cache, f"{path.name}_{key}", fitting, stride, console, augmentation)


def _sampled(
    frames: Iterable[Scan | Odometry],
    cache: Path,
    name: str,
    config: ForecastConfig,
    stride: int,
    console: Console,
    augmentation: Augmentation | None = None,
) -> list[Path]:
    """Sample files of one source."""
    with Progress(console=console) as progress:
        task = progress.add_task(f"samples of {name}", total=None)
        return save_samples(
            frames, cache, name, config, stride, augmentation, lambda: progress.advance(task)
        )
