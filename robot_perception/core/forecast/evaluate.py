"""Forecasts against the scans that came, for all methods on the same frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.forecast.warp import cloud_at_horizon
from robot_perception.core.metrics import chamfer_m2, range_l1_m
from robot_perception.core.range_image import project
from robot_perception.core.types import F32, Forecast, Odometry, Scan

_RESAMPLES = 1000
_TOLERANCE_NS = 100_000_000


def evaluate(
    frames: Iterable[Scan | Odometry], config: ForecastConfig, stride: int = 1
) -> dict[str, Any]:
    """Scores of `repeat` and of `config.method` by horizon, on the same frames.

    Chamfer distance (m^2) as TCNet and ATPPNet compute it, on full clouds between `min_range_m` and
    `max_range_m`; range L1 (m) between range images, over pixels with a return in both. Every
    `stride`-th scan with a full future is scored. The interval is the 95 % bootstrap of the mean.
    """
    forecaster = Forecaster(config)
    # Enough to have the future of the oldest: the recording may be longer than memory.
    window: deque[tuple[Scan, Forecast | None]] = deque(maxlen=config.horizons + 1)
    rows: dict[str, list[list[list[float]]]] = {"repeat": [], config.method: []}
    milliseconds: list[float] = []
    odometry: Odometry | None = None
    for frame in frames:
        if isinstance(frame, Odometry):
            odometry = frame
            continue
        fits = odometry is not None and abs(odometry.stamp_ns - frame.stamp_ns) < _TOLERANCE_NS
        start = time.perf_counter()
        forecast = forecaster.step(frame, odometry if fits else None)
        milliseconds.append((time.perf_counter() - start) * 1e3)
        window.append((frame, forecast))
        scan, past = window[0]
        if len(window) <= config.horizons or past is None or len(milliseconds) % stride:
            continue
        future = [scan for scan, _ in window][1:]
        predicted = [cloud_at_horizon(past, h) for h in range(config.horizons)]
        rows[config.method].append(_score(predicted, future, forecaster, config))
        rows["repeat"].append(_score([scan.xyz] * config.horizons, future, forecaster, config))
    timing = {"repeat": 0.0, config.method: float(np.median(milliseconds)) if milliseconds else 0.0}
    return {
        name: _summary(np.array(scores), timing[name]) for name, scores in rows.items() if scores
    }


def _score(
    predicted: Sequence[F32], future: Sequence[Scan], forecaster: Forecaster, config: ForecastConfig
) -> list[list[float]]:
    """(T, 2): Chamfer distance and range L1 of each horizon."""
    model = forecaster.sensor_model
    assert model is not None
    scores = []
    for cloud, scan in zip(predicted, future, strict=True):
        chamfer = chamfer_m2(_in_range(cloud, config), _in_range(scan.xyz, config))
        l1 = range_l1_m(project(np.ascontiguousarray(cloud), model)[0], project(scan.xyz, model)[0])
        scores.append([chamfer, l1])
    return scores


def _summary(scores: np.ndarray, milliseconds: float) -> dict[str, Any]:
    """Means of (N, T, 2) scores, and the interval of the mean Chamfer distance."""
    chamfer, l1 = scores[:, :, 0], scores[:, :, 1]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(chamfer), (_RESAMPLES, len(chamfer)))
    low, high = np.percentile(chamfer.mean(axis=1)[draws].mean(axis=1), (2.5, 97.5))
    return {
        "frames": len(chamfer),
        "chamfer_m2": chamfer.mean(axis=0).tolist(),
        "chamfer_mean_m2": float(chamfer.mean()),
        "ci95": [float(low), float(high)],
        "range_l1_m": l1.mean(axis=0).tolist(),
        "range_l1_mean_m": float(l1.mean()),
        "ms": milliseconds,
    }


def _in_range(xyz: F32, config: ForecastConfig) -> F32:
    reach = np.linalg.norm(xyz, axis=1)
    kept: F32 = xyz[(reach >= config.min_range_m) & (reach <= config.max_range_m)]
    return kept
