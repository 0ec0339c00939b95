"""The Chamfer distance of predicted range images as a loss: exact neighbours, of points drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from robot_perception.core.metrics import neighbours

# Points drawn of a cloud in each step, whose neighbours are then sought among all of the other's.
ASKED = 4096


def directions(elevations: Tensor, columns: int, of: int) -> Tensor:
    """Unit vectors (N, H, W, 3) through the pixel centres of `columns` = W neighbouring columns,
    where `of` make a revolution, for beams at `elevations` (N, H) in rad.

    They begin at azimuth pi: where a window is, and whether it is mirrored, changes no distance.
    """
    turn = torch.arange(columns, device=elevations.device, dtype=elevations.dtype) + 0.5
    azimuth = torch.pi - turn * (2 * torch.pi / of)
    flat = elevations.cos()[:, :, None]
    z = elevations.sin()[:, :, None].expand(-1, -1, columns)
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), z], -1)


def chamfer_loss(
    predicted: Tensor, shown: Tensor, true: Tensor, seen: Tensor, asked: int = ASKED
) -> Tensor:
    """Chamfer distance (N,) in m^2 of clouds (N, P, 3) float32, of which the points `shown` and
    `seen` (N, P) count; 0 where one of the two is empty.

    As `metrics.chamfer_m2`, but the mean is over `asked` points drawn from each cloud, all if there
    are no more. Differentiable by the predicted points; which are neighbours is taken as given.
    """
    both = shown.any(1) & seen.any(1)
    forth = _squared(predicted, shown, true, seen, asked)
    back = _squared(true, seen, predicted, shown, asked)
    return torch.where(both, forth + back, 0.0)


def _squared(queries: Tensor, asking: Tensor, cloud: Tensor, there: Tensor, asked: int) -> Tensor:
    """Mean squared distance (N,) from points drawn of `queries` to the nearest of `cloud`."""
    count = queries.shape[1]
    # In one piece for all clouds, and without waiting for the device to count points.
    keys = torch.rand(asking.shape, device=asking.device).clamp_min(1e-6) * asking
    drawn, index = keys.topk(min(asked, count), dim=1, sorted=False)
    points = _at(queries, index)
    with torch.no_grad():
        nearest = (_nearest if points.is_cuda else _nearest_by_tree)(points, cloud, there)
    gap = (points - _at(cloud, nearest)).square().sum(-1)
    counts = (drawn > 0).float()
    return (gap * counts).sum(1) / counts.sum(1).clamp_min(1)


def _at(points: Tensor, index: Tensor) -> Tensor:
    return points.gather(1, index[..., None].expand(-1, -1, 3))


def _nearest(points: Tensor, cloud: Tensor, there: Tensor) -> Tensor:
    """Index (N, Q) of the nearest point that is `there` in `cloud` (N, P, 3), for each of `points`
    (N, Q, 3), by all distances. Of points as near to each other as the rounding (0.001 m^2 at 85 m)
    one may be taken for another."""
    # |c|^2 - 2 p c: what orders the distances, in one product. A point that is not there is far.
    length = torch.where(there, cloud.square().sum(-1), 1e9)
    sides = torch.cat([-2 * cloud, length[..., None]], -1).transpose(1, 2)
    ones = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    # A cloud at a time: the table of distances of one takes a gigabyte.
    return torch.stack([(p @ s).argmin(1) for p, s in zip(ones, sides, strict=True)])


def _nearest_by_tree(points: Tensor, cloud: Tensor, there: Tensor) -> Tensor:
    """What `_nearest` answers, by search trees on the CPU."""
    found = np.zeros(points.shape[:2], np.int64)
    arrays = (x.detach().numpy() for x in (points, cloud, there))
    for i, (asking, all_points, kept) in enumerate(zip(*arrays, strict=True)):
        index = np.flatnonzero(kept)
        if len(index):
            found[i] = index[neighbours(all_points[index]).query(asking, workers=-1)[1]]
    return torch.from_numpy(found)
