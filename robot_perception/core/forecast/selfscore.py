"""Scores forecasts as their future arrives, beside geometry and beside repeating the last scan.

A full Chamfer distance costs more than a forecast. So one forecast in some is scored, at one
horizon, in one sector of the revolution; horizon and sector go round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.warp import transform
from robot_perception.core.metrics import chamfer_m2, range_l1_m
from robot_perception.core.range_image import SensorModel, project
from robot_perception.core.types import F32, F64, Scan

METHODS = ("forecast", "geometry", "repeat")
EVERY = 5
_SECTORS = 24
# Half-lives of the running means, in scores of one horizon; and how many it takes to judge.
_FORGET = 0.9
_MIN_SCORES = 8
# Falls back when this much worse than geometry, returns when better; between, stays.
_WORSE = 1.02
_TOLERANCE = 0.3
_NOTHING = 100.0


@dataclass(frozen=True, eq=False)
class _Open:
    """A forecast for `due_ns`: a cloud of each method in the frame of the sensor then."""

    due_ns: int
    horizon: int
    sector: int
    clouds: tuple[F32, ...]


class SelfScorer:
    """Running means of Chamfer distance (m^2) and range L1 (m) by horizon, for each method."""

    def __init__(self, horizons_s: tuple[float, ...]) -> None:
        self._horizons = horizons_s
        self.reset()

    def reset(self) -> None:
        """Forget everything: a recording that is played again gives the same again."""
        count = len(self._horizons)
        self.falls_back = False
        self._sums = np.zeros((count, len(METHODS), 2))
        self._weight = np.zeros(count)
        self._scored = np.zeros(count, int)
        self._open: list[_Open] = []
        self._count = 0

    @property
    def due(self) -> bool:
        """Whether the next forecast is one to score."""
        return self._count % EVERY == 0

    def add_forecast(self, scan: Scan, clouds: list[F32], geometry: list[F32], poses: F64) -> None:
        """Remember, if due, what was predicted after `scan`: clouds by horizon, in its frame."""
        turn, self._count = self._count, self._count + 1
        if turn % EVERY:
            return
        turn //= EVERY
        h = turn % len(self._horizons)
        sector = turn // len(self._horizons) % _SECTORS
        inverse = np.linalg.inv(poses[h])
        then = (transform(clouds[h], inverse), transform(geometry[h], inverse), scan.xyz)
        due_ns = scan.stamp_ns + round(self._horizons[h] * 1e9)
        made = _Open(due_ns, h, sector, tuple(_within(c, sector) for c in then))
        self._open = [*self._open, made]

    def skip(self) -> None:
        """A forecast without a network: nothing to compare."""
        self._count += 1

    def add_scan(self, scan: Scan, model: SensorModel) -> None:
        """Score what was predicted for the time of `scan`."""
        tolerance = _TOLERANCE * self._horizons[0] * 1e9
        for made in self._open:
            if abs(made.due_ns - scan.stamp_ns) <= tolerance:
                self._score(made, _within(scan.xyz, made.sector), model)
        self._open = [o for o in self._open if o.due_ns - scan.stamp_ns > tolerance]

    def means(self) -> dict[str, dict[str, list[float]]]:
        """By method and measure, a value for each horizon; NaN where nothing was scored yet."""
        with np.errstate(invalid="ignore"):
            values = self._sums / self._weight[:, None, None]
        return {
            name: {
                "chamfer_m2": values[:, i, 0].tolist(),
                "range_l1_m": values[:, i, 1].tolist(),
            }
            for i, name in enumerate(METHODS)
        }

    def _score(self, made: _Open, true: F32, model: SensorModel) -> None:
        image, _ = project(true, model)
        row = np.array(
            [(chamfer_m2(c, true), range_l1_m(project(c, model)[0], image)) for c in made.clouds]
        )
        if not len(true) or not np.isfinite(row[1]).all():
            return
        # Nothing predicted where there is something: as bad as a forecast can be.
        row = np.nan_to_num(row, nan=_NOTHING)
        # New arrays: a copy of this scorer keeps its own.
        self._sums, self._weight = self._sums.copy(), self._weight.copy()
        self._scored = self._scored.copy()
        self._sums[made.horizon] = _FORGET * self._sums[made.horizon] + row
        self._weight[made.horizon] = _FORGET * self._weight[made.horizon] + 1
        self._scored[made.horizon] += 1
        if self._scored.sum() >= _MIN_SCORES:
            seen = self._weight > 0
            chamfer = (self._sums[seen, :, 0] / self._weight[seen, None]).mean(axis=0)
            limit = 1.0 if self.falls_back else _WORSE
            self.falls_back = bool(chamfer[0] > limit * chamfer[1])


def _within(xyz: F32, sector: int) -> F32:
    """The points (N, 3) in a sector of the revolution, in an order of their own."""
    azimuth = np.arctan2(xyz[:, 1], xyz[:, 0])
    which: NDArray[np.int64] = np.floor((azimuth + np.pi) / (2 * np.pi) * _SECTORS).astype(np.int64)
    kept: F32 = np.ascontiguousarray(xyz[which % _SECTORS == sector])
    return kept
