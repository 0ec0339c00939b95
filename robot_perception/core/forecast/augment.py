"""Other robots from one recording: faster ones, ones with fewer beams, ones that lose scans."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.motion import Motion, exp_se3
from robot_perception.core.forecast.sensor import SensorFinder
from robot_perception.core.range_image import look
from robot_perception.core.types import Odometry, Scan


@dataclass(frozen=True)
class Augmentation:
    """What is made of a recording besides itself.

    `speedups`: 2 takes every second scan, as if the robot were twice as fast. `thinnings`: 2 takes
    every second beam. `scan_dropout`: the chance that a scan of the past was lost.
    `pose_noise_mps`: standard deviation of the horizontal velocity's error; a tenth of it, in
    rad/s, of the yaw rate's.
    """

    speedups: tuple[int, ...] = (1,)
    thinnings: tuple[int, ...] = (1,)
    scan_dropout: float = 0.0
    pose_noise_mps: float = 0.0


def faster(frames: Iterable[Scan | Odometry], speedup: int) -> Iterator[Scan | Odometry]:
    """Every `speedup`-th scan, at the times of the first ones; without the odometry, whose stamps
    would no longer fit."""
    start_ns, count = 0, 0
    for frame in frames:
        if speedup == 1:
            yield frame
        elif isinstance(frame, Scan):
            start_ns = start_ns or frame.stamp_ns
            if count % speedup == 0:
                yield replace(frame, stamp_ns=start_ns + (frame.stamp_ns - start_ns) // speedup)
            count += 1


def thinned(
    frames: Iterable[Scan | Odometry], thinning: int, config: ForecastConfig
) -> Iterator[Scan | Odometry]:
    """The scans with every `thinning`-th beam, for `config` of the whole sensor."""
    finder = SensorFinder(config)
    for frame in frames:
        if thinning == 1 or isinstance(frame, Odometry):
            yield frame
            continue
        model = finder.model(frame)
        _, _, pixels = look(frame.xyz, np.eye(4), model)
        kept = (pixels >= 0) & (pixels // model.columns % thinning == 0)
        yield Scan(frame.stamp_ns, frame.frame_id, np.ascontiguousarray(frame.xyz[kept]))


def disturbed(motion: Motion, dt: float, noise_mps: float, rng: Generator) -> Motion:
    """`motion` over `dt` seconds as worse odometry would have it."""
    vx, vy, yaw = rng.normal(0, 1, 3) * noise_mps * np.array([1, 1, 0.1])
    error = np.array([0, 0, yaw, vx, vy, 0])
    return replace(
        motion, twist=motion.twist + error, relative=motion.relative @ exp_se3(error * dt)
    )
