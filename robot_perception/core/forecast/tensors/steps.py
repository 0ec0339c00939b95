"""The steps of a forecast on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robot_perception.core.forecast import scene
from robot_perception.core.forecast.features import LAGS
from robot_perception.core.forecast.motion import Motion
from robot_perception.core.forecast.selection import SelectorForecaster
from robot_perception.core.forecast.tensors import moving
from robot_perception.core.forecast.tensors.foresight import Foreseen, Foresight, Numbers
from robot_perception.core.forecast.tensors.projection import SPARE, Lens, View, moved, nearest
from robot_perception.core.forecast.tensors.recorded import Recorded
from robot_perception.core.forecast.tensors.selection import TensorProposal
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.range_image import SensorModel
from robot_perception.core.types import F32, F64, Scan


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan: its points (3, N), NaN beyond them, as it sees them, its range image
    (H * W + SPARE,), which points (N,) stand and in which cell (N,); on the host, its `pose` (4, 4)
    in the present frame and its age."""

    points: Tensor
    view: View
    image: Tensor
    stands: Tensor
    cell: Tensor
    pose: F64
    age_s: float


class TensorSteps:
    """As `Loops`, on `device`."""

    def __init__(self, past: int, network: SelectorForecaster | None, device: torch.device) -> None:
        self._kept = max(past, *scene.LAGS) + 1
        self._network = network
        self._device = device
        self._model: SensorModel | None = None
        self._lens: Lens | None = None
        self.reset()

    def reset(self) -> None:
        self._past: tuple[_Scan, ...] = ()
        self._memory: tuple[Tensor, Tensor] | None = None
        self._stamp_ns: int | None = None

    @torch.inference_mode()
    def begin(self, scan: Scan, model: SensorModel) -> None:
        if self._lens is None or not self._lens.fits(model):
            self._lens = lens = Lens(model, self._device)
            self._look = Recorded(lambda points: _looked(points, lens))
            self._foresee = Recorded(Foresight(lens, self._network))
            self._capacity = 0
        elif self._model is not model:
            self._lens.take(model)
        self._model = model
        points = self._uploaded(scan.xyz, self._lens.size)
        # Copies: what was recorded writes over its results.
        ranges, pixel, inside, image, stands, cell = [t.clone() for t in self._look(points)]
        view = View(ranges, pixel, inside)
        self._begun = _Scan(points, view, image, stands, cell, np.eye(4), 0.0)
        self._begun_ns = scan.stamp_ns

    @torch.inference_mode()
    def propose(
        self, motion: Motion | None, horizons_s: tuple[float, ...], by_network: bool
    ) -> TensorProposal | None:
        # The network is in what was recorded, and answers whether it is asked or not.
        now, before_ns, lens = self._begun, self._stamp_ns, self._lens
        assert lens is not None
        if motion is None or before_ns is None:
            self.reset()
            self._past, self._stamp_ns = (now,), self._begun_ns
            return None
        dt = (self._begun_ns - before_ns) * 1e-9
        step = np.asarray(np.linalg.inv(motion.relative))
        past = tuple(replace(p, pose=step @ p.pose, age_s=p.age_s + dt) for p in self._past)
        velocity, moves = self._moving(lens, now, [past[-k] for k in scene.LAGS if k <= len(past)])
        memory = self._memory
        if memory is None:
            memory = now.points.new_full((3, lens.size), torch.nan), now.points.new_zeros(lens.size)
        shown = past[: -LAGS - 1 : -1]
        missing = [torch.full_like(now.points, torch.nan)] * (LAGS - len(shown))
        poses = predicted_poses(motion.twist, horizons_s)
        speed, turn = float(np.linalg.norm(motion.twist[3:])), float(motion.twist[2])
        numbers = Numbers(
            *(dt, speed, turn, horizons_s, step),
            *([p.pose for p in shown], np.linalg.inv(poses)),
        )
        found = Foreseen(
            *self._foresee(
                *(now.points, now.view.range, now.view.pixel, now.view.inside),
                *(now.image[: lens.size], velocity, moves, *memory),
                torch.stack(_alike([now.points, *(p.points for p in shown), *missing])[1:]),
                numbers.on(self._device),
            )
        )
        self._memory = found.memory.clone(), found.age.clone()
        self._past = (*past, now)[-self._kept :]
        self._stamp_ns = self._begun_ns
        return TensorProposal(found, now.points.shape[1], lens, horizons_s, poses)

    def _moving(self, lens: Lens, now: _Scan, past: Sequence[_Scan]) -> tuple[Tensor, Tensor]:
        """Velocity (3, N) of the points of the scan, and which of them (N,) move."""
        still = torch.zeros_like(now.points), torch.zeros_like(now.stands)
        if not past:
            return still
        here = [p.pose for p in past]
        both = np.concatenate([np.linalg.inv(here), here]).astype(np.float32)
        there, back = torch.from_numpy(both).to(self._device).chunk(2)
        seen = lens.look(moved(now.points, there))
        images = torch.stack([p.image for p in past])
        free = moving.was_free(seen, images, lens.columns) & now.stands
        counts = moving.counted(now.cell, torch.stack([now.stands, free])).cpu().numpy()
        names, sizes = moving.moving_clusters(*counts)
        if not len(sizes):
            return still
        points = moved(torch.stack(_alike([p.points for p in past])), back)
        maps = moving.distance_maps(points, torch.stack(_alike([p.stands for p in past])))
        by_cell = torch.from_numpy(np.append(names, np.zeros(SPARE, np.int32))).to(self._device)
        ages = [p.age_s for p in past]
        return moving.velocities(now.points, by_cell[now.cell], sizes, maps, ages)

    def _uploaded(self, xyz: F32, size: int) -> Tensor:
        """Points (N, 3) as (3, M) on the device, NaN beyond them. M is a multiple of `size`,
        and never falls: few sizes, so few recordings."""
        count = len(xyz)
        self._capacity = max(self._capacity, -(-count // size) * size)
        points = torch.full((3, self._capacity), torch.nan, device=self._device)
        points[:, :count] = torch.from_numpy(np.ascontiguousarray(xyz)).to(self._device).T
        return points


def _looked(points: Tensor, lens: Lens) -> tuple[Tensor, ...]:
    """Of points (3, N): how they look, the range image, which stand and in which cell."""
    view = lens.look(points)
    image = nearest(view.range, view.pixel, lens.size)
    return view.range, view.pixel, view.inside, image, *moving.standing(points)


def _alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Clouds (..., N) filled up to the size of the largest, with NaN or False."""
    count = max(t.shape[-1] for t in tensors)
    fill = False if tensors[0].dtype == torch.bool else torch.nan
    return [F.pad(t, (0, count - t.shape[-1]), value=fill) for t in tensors]
