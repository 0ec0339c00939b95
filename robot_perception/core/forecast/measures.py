"""The measures of one predicted cloud against the scan that came."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from robot_perception.core.forecast.flow import PastScan, nearest_around, was_free
from robot_perception.core.range_image import SensorModel, is_behind, look, project
from robot_perception.core.types import F32, F64

STATIC, MOVING, NEW = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Truth:
    """The scan that came: points (N, 3) within range, their search tree, range image and `group`:
    static, moving into what was free at the time of the forecast, or newly seen."""

    xyz: F32
    tree: cKDTree
    image: F32
    group: NDArray[np.int8]


def in_range(xyz: F32, model: SensorModel) -> F32:
    """The points (N, 3) between the model's least and greatest range: TCNet's filter."""
    reach = np.linalg.norm(xyz, axis=1)
    kept: F32 = xyz[(reach >= model.min_range_m) & (reach <= model.max_range_m)]
    return kept


def truth(xyz: F32, before: F32, pose: F64, model: SensorModel) -> Truth:
    """`xyz` (N, 3) of the scan taken at `pose` (4, 4), seen from where `before`, the range image
    (H, W) of the last observed scan, was taken."""
    xyz = in_range(xyz, model)
    none = np.zeros((0, 3), np.float32)
    last = PastScan(none, none, nearest_around(before), np.asarray(np.linalg.inv(pose)), 0.0)
    group = np.full(len(xyz), STATIC, np.int8)
    _, ranges, pixels = look(xyz, pose, model)
    seen = before.ravel()[pixels]
    group[(pixels < 0) | (seen == 0) | is_behind(ranges, seen)] = NEW
    group[was_free(xyz, [last], model)] = MOVING
    return Truth(xyz, cKDTree(xyz), project(xyz, model)[0], group)


@dataclass(frozen=True)
class Measures:
    """Squared distances in m^2: `forward` predicted to true, `backward` true to predicted, the
    latter also of static, moving and new points alone; `dynamic`: the Chamfer distance of moving
    points and of what is predicted nearest to them. Over pixels with a return in both images:
    `range_l1_m` and its median, `abs_rel`. `range_l1_beyond_m`: what the error of the range is
    beyond a baseline's, over pixels with a return in all three images, so that who predicts more of
    what is hard to see is not the worse for it. `mask_iou` of the pixels with a return."""

    forward: float
    backward: float
    static: float
    moving: float
    new: float
    dynamic: float
    range_l1_m: float
    range_median_m: float
    range_l1_beyond_m: float
    abs_rel: float
    mask_iou: float


def drawn(predicted: F32, model: SensorModel) -> F32:
    """The range image (H, W) of predicted points (N, 3)."""
    return project(np.ascontiguousarray(in_range(predicted, model)), model)[0]


def measure(
    predicted: F32, true: Truth, model: SensorModel, baseline: F32 | None = None
) -> Measures:
    """All measures of `predicted` (N, 3), in the frame of the true scan, beside the range image
    (H, W) of a `baseline`; NaN where there is nothing to measure."""
    predicted = in_range(predicted, model)
    if not len(predicted) or not len(true.xyz):
        return Measures(*[float("nan")] * len(fields(Measures)))
    gap, nearest = true.tree.query(predicted, workers=-1)
    forth = gap**2
    back = cKDTree(predicted).query(true.xyz, workers=-1)[0] ** 2
    static, moving, new = (_mean(back[true.group == g]) for g in (STATIC, MOVING, NEW))
    beside = forth[true.group[nearest] == MOVING]
    image = drawn(predicted, model)
    either, both = (image > 0) | (true.image > 0), (image > 0) & (true.image > 0)
    wrong = np.abs(image[both] - true.image[both])
    beyond = np.zeros(0, np.float32)
    if baseline is not None:
        same = both & (baseline > 0)
        beyond = np.abs(image[same] - true.image[same]) - np.abs(baseline[same] - true.image[same])
    return Measures(
        _mean(forth),
        _mean(back),
        static,
        moving,
        new,
        moving + (_mean(beside) if len(beside) else 0.0),
        _mean(wrong),
        float(np.median(wrong)) if len(wrong) else float("nan"),
        _mean(beyond),
        _mean(wrong / true.image[both]),
        float(both.sum() / max(1, either.sum())),
    )


def _mean(values: F32 | F64) -> float:
    return float(values.mean()) if len(values) else float("nan")
