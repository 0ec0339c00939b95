"""The network's view of a scene on a device: the channels of `core.forecast.features`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robot_perception.core.forecast.features import CHANNELS, HORIZONS, LAGS
from robot_perception.core.forecast.tensors.projection import View, first, inside_or_spare


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is known at a scan: its `points` (3, N), how they look (`view`), their `velocity` (3, N)
    and which of them (N,) move, the range image (H * W,), infinite where there is no return; of the
    memory, one point to a pixel: `memory` (3, H * W), NaN where there is none, the `depth` (H * W,)
    in m, infinite there, and the `age` (H * W,) in s; the `past` range images (LAGS, H * W / 2) as
    seen from here, latest first; elevation (H,) in rad of the rows, speed and yaw rate."""

    points: Tensor
    view: View
    velocity: Tensor
    moves: Tensor
    image: Tensor
    memory: Tensor
    depth: Tensor
    age: Tensor
    past: Tensor
    elevation: Tensor
    speed_mps: Tensor
    turn_radps: Tensor


def features(known: Surroundings, visible: Tensor) -> tuple[Tensor, Tensor]:
    """The network's image (1, C, H, W / 2), and the pixel (N + H * W,) in it of each candidate, the
    points of the scan and then the memory; H * W / 2 and above outside of it. `visible`
    (T, N + H * W) is what geometry says."""
    count, size = known.points.shape[1], len(known.image)
    half = size // 2
    image = known.image.reshape(half, 2).amin(1)
    own = inside_or_spare(known.view.pixel // 2, known.view.inside, half)
    slot = torch.arange(size, device=own.device)
    hidden = inside_or_spare(slot // 2, torch.isfinite(known.depth), half)

    present = torch.isfinite(image)
    ranges = torch.where(present, image, 0.0)
    facing = image[own.clamp(max=half - 1)] == known.view.range
    nearest = first(facing & known.view.inside, own, half)
    there = nearest < count
    at = nearest.clamp(max=count - 1)
    behind, which = known.depth.reshape(half, 2).min(1)
    covered = torch.isfinite(behind)
    remembered = slot[::2] + which

    seen = torch.isfinite(known.past)
    change = (torch.where(seen, known.past, 0.0) - ranges) / (0.05 * ranges + 0.5)
    change = torch.where(seen & present, change.clamp(-2, 2), 0.0)
    depth = torch.where(covered, (behind - ranges) / 20, 0.0).clamp(0, 2)

    x, y, z = known.points[:, at].unbind()
    vx, vy, _ = known.velocity[:, at].unbind()
    moves = known.moves[at] & there
    flat = torch.sqrt(x * x + y * y).clamp(min=1e-3)
    radial = torch.where(moves, (vx * x + vy * y) / flat / 10, 0.0)
    tangential = torch.where(moves, (x * vy - y * vx) / flat / 10, 0.0)
    height = torch.where(there, (z / 3).clamp(-2, 2), 0.0)

    shown = visible[:HORIZONS]
    of_scan = shown[:, :count][:, at] & there
    of_memory = shown[:, count:][:, remembered] & covered
    both = torch.stack([of_scan, of_memory], 1).flatten(0, 1)
    both = torch.cat([both, both.new_zeros(2 * HORIZONS - len(both), half)])

    columns = half // len(known.elevation)
    channels = [
        torch.stack([torch.log1p(ranges) / 4.5, present.float()]),
        torch.stack([change, seen.float()], 1).flatten(0, 1),
        torch.stack([covered.float(), depth, torch.where(covered, known.age[remembered], 0.0)]),
        torch.stack([moves.float(), radial, tangential]),
        torch.stack([(known.elevation / 0.3).repeat_interleave(columns), height]),
        both.float(),
        torch.stack([known.speed_mps / 10, known.turn_radps / 0.5])[:, None].expand(2, half),
    ]
    assert len(known.past) == LAGS
    joined = torch.cat(channels).reshape(1, CHANNELS, -1, columns)
    return joined, torch.cat([own, hidden])
