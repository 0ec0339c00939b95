"""What is predicted, from the device to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_perception.core.forecast import choice, reliability
from robot_perception.core.forecast.selection import Selected
from robot_perception.core.forecast.tensors.foresight import Foreseen
from robot_perception.core.forecast.tensors.projection import (
    Lens,
    inside_or_spare,
    moved,
    nearest,
)
from robot_perception.core.types import F32, F64


@dataclass(frozen=True, eq=False)
class TensorProposal:
    """What may come, with the `poses` (T, 4, 4) of the sensor then. To be used before the next scan
    is: the tensors are those of a recording."""

    found: Foreseen
    observed: int
    lens: Lens
    horizons_s: tuple[float, ...]
    poses: F64

    @torch.inference_mode()
    def by_geometry(self) -> list[Selected]:
        found = self.found
        memory = torch.arange(len(found.moves), device=found.moves.device) >= self.observed
        chosen = choice.default(memory, found.moves, found.visible)
        return self._selected(chosen, self._of_warp())

    def points_of_geometry(self, horizon: int) -> F32:
        return self.by_geometry()[horizon].points

    @torch.inference_mode()
    def by_network(self) -> list[Selected]:
        known = self.found.probability
        return self._selected(self.found.choice, torch.where(known.isnan(), self._of_warp(), known))

    def _of_warp(self) -> Tensor:
        """The probability (T, P) of each candidate by its range alone."""
        table = torch.from_numpy(np.stack([reliability.fine(h) for h in self.horizons_s]))
        step = (self.found.range / reliability.STEP_M).nan_to_num(0).long()
        step = step.clamp_(max=table.shape[1] - 1)
        return table.to(step.device).gather(1, step)

    def _selected(self, chosen: Tensor, probability: Tensor) -> list[Selected]:
        """What is chosen (T, P), by horizon."""
        found, lens = self.found, self.lens
        kept = chosen != choice.LEAVE_OUT
        # What moves and is taken to stand is not where its pixel is.
        stays = found.moves & (chosen == choice.STAND)
        drawn = kept & ~stays & found.inside
        images = nearest(found.range, inside_or_spare(found.pixel, drawn, lens.size), lens.size)
        where, candidate = kept.nonzero().unbind(1)
        seconds = torch.tensor(self.horizons_s, device=kept.device)[where]
        ahead = torch.where(chosen[where, candidate] == choice.MOVE, seconds, 0.0)
        points = found.points[:, candidate] + found.velocity[:, candidate] * ahead
        still = stays[where, candidate].nonzero()[:, 0]
        self._draw(images, points[:, still], where[still])
        shown = images[:, : lens.size].reshape(-1, lens.rows, lens.columns)
        counts, clouds, chances, moves, pictures = _on_host(
            kept.sum(1),
            points.T.contiguous(),
            probability[where, candidate],
            found.moves[candidate],
            torch.where(shown.isfinite(), shown, 0.0),
        )
        ends = np.cumsum(counts)[:-1]
        parts = (np.split(array, ends) for array in (clouds, chances, moves))
        return [Selected(*one) for one in zip(*parts, pictures, strict=True)]

    def _draw(self, images: Tensor, points: Tensor, horizon: Tensor) -> None:
        """Draw points (3, K) into the images (T, H * W + SPARE), each into that of its horizon."""
        inverse = np.linalg.inv(self.poses).astype(np.float32)
        then = torch.from_numpy(inverse).to(points.device)[horizon]
        view = self.lens.look(moved(points.T[:, :, None], then)[:, :, 0].T)
        pixel = horizon * images.shape[1] + view.pixel
        # The last cell is a spare one.
        pixel = torch.where(view.inside, pixel, images.numel() - 1)
        images.view(-1).scatter_reduce_(0, pixel, view.range, "amin")


def _on_host(*tensors: Tensor) -> Sequence[NDArray[np.generic]]:
    """Copies on the host, all in one wait."""
    if tensors[0].device.type != "cuda":
        return [t.numpy() for t in tensors]
    copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]
