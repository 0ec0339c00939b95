"""Scores forecasts against the scans that then came, as they come."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from robot_perception.core.forecast.warp import cloud_at_horizon
from robot_perception.core.metrics import chamfer_m2
from robot_perception.core.types import F32, Forecast, Scan

# A scan counts as the future of a horizon if it came within this share of the scan period.
_TOLERANCE = 0.3


@dataclass(frozen=True)
class Score:
    """Chamfer distance (m^2) of one horizon of one forecast, and of repeating the last scan."""

    stamp_ns: int
    horizon_s: float
    forecast_m2: float
    repeat_m2: float


class ForecastScorer:
    """Takes scans and forecasts in time order; `scores` grows as their futures arrive.

    Ranges from `min_range_m` to `max_range_m` count, in the truth and in what is predicted. Every
    `stride`-th forecast is scored: the nearest-neighbour search costs more than the forecast.
    """

    def __init__(self, min_range_m: float, max_range_m: float, stride: int = 10) -> None:
        self._limits = (min_range_m, max_range_m)
        self._stride = stride
        self._seen = 0
        self._open: deque[tuple[Forecast, F32]] = deque(maxlen=16)
        self.scores: list[Score] = []

    def add_scan(self, scan: Scan) -> None:
        """Score what was predicted for the time of `scan`."""
        truth: F32 | None = None
        for forecast, last in self._open:
            horizon = self._horizon_at(forecast, scan.stamp_ns)
            if horizon is None:
                continue
            truth = self._in_range(scan.xyz) if truth is None else truth
            predicted = self._in_range(cloud_at_horizon(forecast, horizon))
            self.scores.append(
                Score(
                    forecast.stamp_ns,
                    forecast.horizons_s[horizon],
                    chamfer_m2(predicted, truth),
                    chamfer_m2(last, truth),
                )
            )
        self._last = scan

    def add_forecast(self, forecast: Forecast) -> None:
        """Remember `forecast`, which was made from the scan that was added last."""
        if self._seen % self._stride == 0:
            self._open.append((forecast, self._in_range(self._last.xyz)))
        self._seen += 1

    def _horizon_at(self, forecast: Forecast, stamp_ns: int) -> int | None:
        ahead = (stamp_ns - forecast.stamp_ns) * 1e-9
        horizons = np.array(forecast.horizons_s)
        nearest = int(np.abs(horizons - ahead).argmin())
        period = horizons[0]
        return nearest if abs(horizons[nearest] - ahead) <= _TOLERANCE * period else None

    def _in_range(self, xyz: F32) -> F32:
        ranges = np.linalg.norm(xyz, axis=1)
        kept: F32 = xyz[(ranges >= self._limits[0]) & (ranges <= self._limits[1])]
        return kept
