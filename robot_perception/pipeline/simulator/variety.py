"""Simulated drives that differ: sensor, speed, traffic, noise; LiDAR only, for training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robot_perception.core.types import Scan
from robot_perception.pipeline.simulator.config import START_NS, SimulatorConfig
from robot_perception.pipeline.simulator.scene import build_street
from robot_perception.pipeline.simulator.sensors import lidar_scan

_LONGEST_S = 60.0


def varied(seed: int) -> SimulatorConfig:
    """The settings of drive number `seed`: mostly 64 beams, some 32."""
    rng = np.random.default_rng(seed)
    return SimulatorConfig(
        seed=seed,
        duration_s=_LONGEST_S,
        beams=int(rng.choice([64, 64, 64, 32])),
        columns=int(rng.choice([1024, 2048, 2048])),
        cars=int(rng.integers(3, 9)),
        cyclists=int(rng.integers(1, 5)),
        pedestrians=int(rng.integers(4, 20)),
        speed_mps=float(rng.uniform(3, 14)),
        stop_s=float(rng.uniform(0, 4)),
        dropout=float(rng.uniform(0, 0.15)),
        range_noise_m=float(rng.uniform(0.01, 0.03)),
        elevation_top_deg=float(rng.uniform(1.5, 10)),
        elevation_bottom_deg=float(rng.uniform(-26, -20)),
    )


def scans(config: SimulatorConfig, count: int) -> Iterator[Scan]:
    """`count` consecutive scans from somewhere in the drive, the same place for the same seed."""
    street = build_street(config)
    revolutions = int(config.duration_s * config.rate_hz)
    first = 1 + int(np.random.default_rng(config.seed).integers(max(1, revolutions - count)))
    period_ns = round(1e9 / config.rate_hz)
    for i in range(first, first + count):
        yield lidar_scan(street, config, START_NS + i * period_ns)[0]
