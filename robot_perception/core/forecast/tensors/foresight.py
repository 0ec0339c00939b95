"""What may come after a scan, and what the network chooses of it: all on a device, without a wait
in between, so that it can be recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from robot_perception.core.forecast import choice, scene
from robot_perception.core.forecast.candidates import COVER
from robot_perception.core.forecast.features import LAGS
from robot_perception.core.forecast.selection import SelectorForecaster
from robot_perception.core.forecast.selector import shuffled
from robot_perception.core.forecast.tensors.features import Surroundings, features
from robot_perception.core.forecast.tensors.projection import (
    Lens,
    View,
    around,
    first,
    is_behind,
    moved,
    nearest,
)
from robot_perception.core.types import F64


class Foreseen(NamedTuple):
    """`memory` (3, M) in the present frame, NaN where there is none, and its `age` (M,) in s.

    Of the candidates, N points of the scan and then the memory: `points` (3, P), `velocity` (3, P),
    which `moves` (P,); at each horizon their `range` and `pixel` (T, P), whether `inside` of the
    image and `visible` (T, P) by geometry; by the network, where there is one, the `choice` (T, P)
    and the `probability` (T, P), NaN where it is geometry's as the network does not see the point.
    """

    memory: Tensor
    age: Tensor
    points: Tensor
    velocity: Tensor
    moves: Tensor
    range: Tensor
    pixel: Tensor
    inside: Tensor
    visible: Tensor
    choice: Tensor
    probability: Tensor


@dataclass(frozen=True)
class Numbers:
    """What the host knows, in one transfer: seconds since the last scan, speed (m/s) and yaw rate
    (rad/s) of the sensor, the horizons (s), and rigid transforms (4, 4): from the last scan's frame
    to the present one, from those of the past scans, latest first, and to the sensor at each
    horizon."""

    dt: float
    speed_mps: float
    turn_radps: float
    horizons_s: tuple[float, ...]
    step: F64
    past: Iterable[F64]
    then: Iterable[F64]

    def on(self, device: torch.device) -> Tensor:
        """A flat tensor; a past scan that is missing is at the origin."""
        past = list(self.past)
        past += [np.eye(4)] * (LAGS - len(past))
        matrices = np.stack([self.step, *past, *self.then]).reshape(-1)
        scalars = [self.dt, self.speed_mps, self.turn_radps, *self.horizons_s]
        return torch.from_numpy(np.concatenate([scalars, matrices]).astype(np.float32)).to(device)


class Foresight:
    """The function of a sensor and a network that `Recorded` takes."""

    def __init__(self, lens: Lens, network: SelectorForecaster | None) -> None:
        self._lens, self._half = lens, lens.halved()
        self._network = network

    def __call__(
        self,
        points: Tensor,
        ranges: Tensor,
        pixel: Tensor,
        inside: Tensor,
        image: Tensor,
        velocity: Tensor,
        moves: Tensor,
        memory: Tensor,
        age: Tensor,
        past: Tensor,
        numbers: Tensor,
    ) -> Foreseen:
        """Of a scan, its points (3, N) and how they look (N,), its range image (H * W,), the
        `velocity` (3, N) of the points, and which move (N,); `memory` (3, M) and its `age` (M,) at
        the last scan; the `past` scans (LAGS, 3, N), latest first; `Numbers`."""
        lens = self._lens
        horizons = (len(numbers) - 3 - 16 * (1 + LAGS)) // 17
        scalars, matrices = numbers[: 3 + horizons], numbers[3 + horizons :].reshape(-1, 4, 4)
        seconds = scalars[3:, None, None]
        memory, age = self._hidden(image, memory, age, past[0], scalars[0], matrices[:1])
        depth = torch.linalg.vector_norm(memory, dim=0)
        view = self._half.look(moved(past, matrices[1 : 1 + LAGS]))
        known = Surroundings(
            *(points, View(ranges, pixel, inside), velocity, moves, image),
            *(memory, torch.where(depth.isfinite(), depth, torch.inf), age),
            nearest(view.range, view.pixel, self._half.size)[:, : self._half.size],
            *(lens.elevation, scalars[1], scalars[2]),
        )
        everything = torch.cat([points, memory], 1)
        velocities = torch.cat([velocity, torch.zeros_like(memory)], 1)
        move = torch.cat([moves, moves.new_zeros(lens.size)])
        then = lens.look(moved(everything + velocities * seconds, matrices[1 + LAGS :]))
        visible = self._visible(known, then)
        chosen, near = self._chosen(known, move, visible)
        return Foreseen(
            *(memory, age, everything, velocities, move),
            *(then.range, then.pixel, then.inside, visible, chosen, near),
        )

    def _hidden(
        self, image: Tensor, memory: Tensor, age: Tensor, last: Tensor, dt: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Of the memory and the last scan (3, N), what is hidden now, the nearest in each pixel."""
        lens = self._lens
        pool = moved(torch.cat([memory, last], 1), step)[0]
        age = torch.cat([age, torch.zeros_like(last[0])]) + dt
        view = lens.look(pool)
        front = around(image.reshape(lens.rows, -1), 1).reshape(-1)
        seen = front[view.pixel.clamp(max=lens.size - 1)]
        hidden = view.inside & seen.isfinite() & is_behind(view.range, seen)
        hidden &= age <= scene.MEMORY_S
        ranges = torch.where(hidden, view.range, torch.inf)
        least = nearest(ranges, view.pixel, lens.size)
        chosen = first(hidden & (ranges == least[view.pixel]), view.pixel, lens.size)
        there = chosen < len(age)
        chosen = chosen.clamp(max=len(age) - 1)
        points = torch.where(there, pool[:, chosen], torch.nan)
        return points, torch.where(there, age[chosen], 0.0)

    def _visible(self, known: Surroundings, then: View) -> Tensor:
        """Which candidates (T, P) are seen. What the sensor sees now, although it seems behind
        something, is no less visible then; the memory has to be uncovered by more than a gap
        between points."""
        lens, count, horizons = self._lens, known.points.shape[1], len(then.range)
        images = nearest(then.range, then.pixel, lens.size)
        now = known.image[known.view.pixel.clamp(max=lens.size - 1)]
        behind_now = known.view.inside & is_behind(known.view.range, now)
        front = images.gather(1, then.pixel[:, :count])
        plans = images[:, : lens.size].reshape(horizons, lens.rows, lens.columns)
        uncovered = around(plans, COVER).reshape(horizons, -1)
        beside = uncovered.gather(1, then.pixel[:, count:].clamp(max=lens.size - 1))
        visible = ~is_behind(then.range, torch.cat([front, beside], 1))
        visible[:, :count] |= behind_now
        return visible & then.inside

    def _chosen(self, known: Surroundings, moves: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The network's choice and probability (T, P); empty without a network."""
        if self._network is None:
            return visible.new_empty(0), visible.new_empty(0)
        image, pixel = features(known, visible)
        logits = shuffled(self._network.logits(image))[0, : len(visible)]
        inside = pixel < image.shape[2] * image.shape[3]
        at = choice.at_pixels(logits, torch.where(inside, pixel, 0))
        memory = torch.arange(len(moves), device=moves.device) >= known.points.shape[1]
        scores = choice.scores(at, memory, moves, visible)
        usual = choice.default(memory, moves, visible)
        chosen = choice.choose(scores, usual, self._network.gate)
        chosen = torch.where(inside, chosen, usual)
        near = torch.sigmoid(choice.near_logit(at, memory))
        return chosen, torch.where(inside, near, torch.nan)
