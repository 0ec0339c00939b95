"""Scores forecasts as their future arrives, beside geometry and beside repeating the last scan.

A full Chamfer distance costs more than a forecast. So one forecast in some is scored, at one
horizon, in one sector of the revolution, against all that is in it and beside it; horizon and
sector go round.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.warp import transform
from robot_perception.core.metrics import nearest_m2, neighbours, range_l1_m
from robot_perception.core.range_image import SensorModel, project
from robot_perception.core.threads import threads
from robot_perception.core.types import F32, F64, Scan

METHODS = ("forecast", "geometry", "repeat")
EVERY = 5
# Of 5 degrees, with as much on both sides for the nearest neighbours. From one turn of the horizons
# to the next some are passed over, so that few scores already see all sides.
_SECTORS, _PASSED_OVER = 72, 29
# Half-lives of the running means, in scores of one horizon; and how many it takes to judge.
_FORGET = 0.9
_MIN_SCORES = 8
# True points of a sector that it takes to judge what was predicted there.
_MIN_POINTS = 20
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
    clouds: Future[tuple[F32, ...]]


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
        self._scoring: list[tuple[int, Future[F64]]] = []
        self._count = 0

    @property
    def due(self) -> bool:
        """Whether the next forecast is one to score."""
        return self._count % EVERY == 0

    @property
    def asks(self) -> bool:
        """Whether the network is to be asked for the next forecast: to answer, or to be scored."""
        return self.due or not self.falls_back

    @property
    def horizon(self) -> int:
        """The one to score next."""
        return self._count // EVERY % len(self._horizons)

    def add_forecast(self, scan: Scan, cloud: F32, geometry: F32, pose: F64) -> None:
        """Remember what was predicted after `scan` for `horizon`: clouds (N, 3) in its frame, and
        the `pose` (4, 4) of the sensor then."""
        h, turn = self.horizon, self._count // EVERY // len(self._horizons)
        sector = turn * _PASSED_OVER % _SECTORS
        self._count += 1
        inverse = np.asarray(np.linalg.inv(pose), np.float64)
        then = ((cloud, inverse), (geometry, inverse), (scan.xyz, np.eye(4)))
        clouds = threads().submit(lambda: tuple(_around(*moved, sector) for moved in then))
        due_ns = scan.stamp_ns + round(self._horizons[h] * 1e9)
        self._open = [*self._open, _Open(due_ns, h, sector, clouds)]

    def skip(self) -> None:
        """A forecast that is not scored."""
        self._count += 1

    def add_scan(self, scan: Scan, model: SensorModel) -> None:
        """Score what was predicted for the time of `scan`: beside what follows, so that the scores
        count from the next scan on."""
        # What failed, for want of memory say, is left out: it is not the fault of this scan.
        for horizon, row in self._scoring:
            if row.exception() is None:
                self._count_in(horizon, row.result())
        tolerance = _TOLERANCE * self._horizons[0] * 1e9
        due = [o for o in self._open if abs(o.due_ns - scan.stamp_ns) <= tolerance]
        self._scoring = [
            (o.horizon, threads().submit(_score, o.clouds.result(), scan.xyz, o.sector, model))
            for o in due
            if o.clouds.exception() is None
        ]
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

    def _count_in(self, horizon: int, row: F64) -> None:
        """Add the measures (3, 2) of the methods, unless geometry's are not known."""
        if not np.isfinite(row[1]).all():
            return
        # Nothing predicted where there is something: as bad as a forecast can be.
        row = np.nan_to_num(row, nan=_NOTHING)
        # New arrays: a copy of this scorer keeps its own.
        self._sums, self._weight = self._sums.copy(), self._weight.copy()
        self._scored = self._scored.copy()
        self._sums[horizon] = _FORGET * self._sums[horizon] + row
        self._weight[horizon] = _FORGET * self._weight[horizon] + 1
        self._scored[horizon] += 1
        if self._scored.sum() >= _MIN_SCORES:
            seen = self._weight > 0
            chamfer = (self._sums[seen, :, 0] / self._weight[seen, None]).mean(axis=0)
            limit = 1.0 if self.falls_back else _WORSE
            self.falls_back = bool(chamfer[0] > limit * chamfer[1])


def _score(clouds: tuple[F32, ...], xyz: F32, sector: int, model: SensorModel) -> F64:
    """The measures (3, 2) of what was predicted in a sector of the scan (N, 3) that has come; NaN
    where that shows next to nothing."""
    true, edges = _around(xyz, np.eye(4), sector), _edges(sector, 0)
    asked = true[_between(true, edges)]
    if len(asked) < _MIN_POINTS:
        return np.full((len(clouds), 2), np.nan)
    image, tree = project(true, model)[0], neighbours(true)
    rows = []
    for cloud in clouds:
        forth = nearest_m2(cloud[_between(cloud, edges)], tree)
        back = nearest_m2(asked, neighbours(cloud))
        rows.append((forth + back, range_l1_m(project(cloud, model)[0], image)))
    return np.array(rows)


def _around(xyz: F32, matrix: F64, sector: int) -> F32:
    """Those of the points (N, 3), moved by `matrix` (4, 4), that are in a sector of the revolution
    or in one beside it."""
    moved = transform(xyz, matrix)
    return moved[_between(moved, _edges(sector, 1))]


def _edges(sector: int, beside: int) -> F32:
    """The directions (2, 2) between which a sector is, with so many on both sides."""
    azimuth = np.array([sector - beside, sector + 1 + beside]) * (2 * np.pi / _SECTORS) - np.pi
    return np.stack([np.cos(azimuth), np.sin(azimuth)], 1).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _between(xyz: F32, edges: F32) -> NDArray[np.bool_]:
    """Which points (N, 3) are left of the first and right of the second direction (2, 2)."""
    between = np.empty(len(xyz), np.bool_)
    for i in range(len(xyz)):
        x, y = xyz[i, 0], xyz[i, 1]
        after = edges[0, 0] * y - edges[0, 1] * x >= 0
        between[i] = after and edges[1, 0] * y - edges[1, 1] * x < 0
    return between
