"""Training samples from recordings: how far every choice is from what then came.

Self-supervised. For some of the candidates, the squared distance to the true scan if predicted
where they stand and where their velocity takes them; for some of the true points, the candidates
that would explain them, near and farther ones. The Chamfer distance of any choice follows.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.augment import Augmentation, disturbed
from robot_perception.core.forecast.candidates import Candidates, candidates
from robot_perception.core.forecast.features import features, network_model
from robot_perception.core.forecast.measures import in_range
from robot_perception.core.forecast.motion import motion_estimator
from robot_perception.core.forecast.scene import SceneBuilder, observe
from robot_perception.core.forecast.sensor import SensorFinder
from robot_perception.core.forecast.warp import predicted_poses, transform
from robot_perception.core.range_image import SensorModel, project
from robot_perception.core.types import F32, Odometry, Scan

# Of sample files: another number, and older ones are made again.
FORMAT = 2
# Squared distances beyond this are as bad as it gets: one stray point is not to rule the training.
CAP_M2 = 25.0
# Of the scan's own standing points, about this many have their distances measured; and of the true.
_MEASURED, _ASKED = 12_000, 6_000
# Neighbours of a true point: so many of all candidates, of an eighth and of a 64th of them. Near
# ones are left out together; the thinned ones tell what then remains.
_NEIGHBOURS = ((1, 3), (8, 3), (64, 2))
_TOLERANCE_NS = 100_000_000
NEAR_M = 0.3
# Kinds of a neighbour: standing or moving on, of the scan; of the memory.
STANDING, MOVING, REMEMBERED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Sample:
    """`image` (C, H, W) float16 features. Of K candidates: `pixel` (K,) in it, whether from the
    `memory`, whether `moving`, the `weight` of each, `visible` (T, K), and the squared distance
    `gap` (T, K, 2) in m^2 to the true scan, standing and moving. Of Q true points of each horizon,
    for each of the R neighbours, nearest first: the pixel `near_pixel` (T, Q, R), `near_kind`,
    whether `near_visible` and `near_moving`, and the squared distance `near_gap`.
    `past` (P, H, W) and `future` (T, H, W) float16 range images of that size, as measured, and
    `warped` (P, H, W) the past ones seen from the present; `elevations_rad` (H,) float32 of their
    rows."""

    image: NDArray[np.float16]
    pixel: NDArray[np.int32]
    memory: NDArray[np.bool_]
    moving: NDArray[np.bool_]
    weight: F32
    visible: NDArray[np.bool_]
    gap: NDArray[np.float16]
    near_pixel: NDArray[np.int32]
    near_kind: NDArray[np.int8]
    near_visible: NDArray[np.bool_]
    near_moving: NDArray[np.bool_]
    near_gap: NDArray[np.float16]
    past: NDArray[np.float16]
    warped: NDArray[np.float16]
    future: NDArray[np.float16]
    elevations_rad: F32

    def save(self, path: Path) -> None:
        """Write aside and rename: an interrupted run leaves whole samples only."""
        aside = path.with_suffix(".part")
        with aside.open("wb") as file:
            np.savez(file, **vars(self))
        os.replace(aside, path)


def load_sample(path: Path) -> Sample:
    """What `Sample.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Sample(**{name: arrays[name] for name in arrays.files})


# A scan, and where a sample begins what was known then.
_Seen: TypeAlias = tuple[Scan, Candidates | None, dict[str, Any]]


def samples(
    frames: Iterable[Scan | Odometry],
    config: ForecastConfig,
    stride: int,
    rng: Generator,
    augmentation: Augmentation | None = None,
) -> Iterator[Sample]:
    """A sample at every `stride`-th scan that has a past and a future; of `augmentation`, scans are
    lost and poses disturbed."""
    augmentation = augmentation or Augmentation()
    motion = motion_estimator(config)
    builder, finder = SceneBuilder(config.past), SensorFinder(config)
    horizons = tuple(config.period_s * (i + 1) for i in range(config.horizons))
    window: deque[_Seen] = deque(maxlen=config.horizons + 1)
    last_ns = 0
    for count, (scan, odometry) in enumerate(aligned(frames)):
        model = finder.model(scan)
        if augmentation.scan_dropout and rng.random() < augmentation.scan_dropout:
            # Lost for the forecaster; what came is the truth all the same.
            window.append((scan, None, {}))
            if len(window) > config.horizons and window[0][1] is not None:
                yield _of_window(window, model, rng)
            continue
        moved = motion.step(scan, odometry)
        if moved is not None and augmentation.pose_noise_mps:
            passed = (scan.stamp_ns - last_ns) * 1e-9
            moved = disturbed(moved, passed, augmentation.pose_noise_mps, rng)
        last_ns = scan.stamp_ns
        scene = builder.step(observe(scan, model), moved)
        found: Candidates | None = None
        images: dict[str, Any] = {}
        if moved is not None and len(scene.past) >= config.past - 1 and count % stride == 0:
            poses = predicted_poses(scene.twist, horizons)
            found = candidates(scene, poses, horizons, model)
            small = network_model(model)
            seen = features(scene, found, small)
            past = [*scene.past[1 - config.past :]]
            native = [project(p.xyz, small)[0] for p in past] + [project(scan.xyz, small)[0]]
            warped = [project(transform(p.xyz, p.pose), small)[0] for p in past] + [native[-1]]
            images = {
                "image": seen.image.astype(np.float16),
                "past": np.stack(native).astype(np.float16),
                "warped": np.stack(warped).astype(np.float16),
                "pixel": seen.pixel,
            }
        window.append((scan, found, images))
        if len(window) > config.horizons and window[0][1] is not None:
            yield _of_window(window, model, rng)


def _of_window(window: Iterable[_Seen], model: SensorModel, rng: Generator) -> Sample:
    """The sample of the first of these scans, the others being its future."""
    (_, found, images), *later = window
    assert found is not None
    return _sample(found, images, [scan.xyz for scan, _, _ in later], network_model(model), rng)


def aligned(
    frames: Iterable[Scan | Odometry],
) -> Iterator[tuple[Scan, Odometry | None]]:
    """Each scan with the odometry within 100 ms before it, if there is any."""
    odometry: Odometry | None = None
    for frame in frames:
        if isinstance(frame, Odometry):
            odometry = frame
        else:
            fits = odometry is not None and abs(odometry.stamp_ns - frame.stamp_ns) < _TOLERANCE_NS
            yield frame, odometry if fits else None


def _sample(
    found: Candidates,
    images: dict[str, Any],
    future: list[F32],
    model: SensorModel,
    rng: Generator,
) -> Sample:
    count = len(found.points)
    memory = np.arange(count) >= found.observed
    moving = found.moves
    every = max(1.0, (~memory & ~moving).sum() / _MEASURED)
    weight = np.where(memory | moving, 1.0, every).astype(np.float32)
    pixel = images["pixel"]
    kept = np.flatnonzero((pixel >= 0) & (rng.random(count) < 1 / weight))
    gaps, neighbours = [], []
    for h, cloud in enumerate(future):
        inverse = np.linalg.inv(found.poses[h])
        true = in_range(cloud, model)
        stood = transform(found.points, inverse)
        moved = transform(found.at(h), inverse)
        tree = cKDTree(true)
        both = [tree.query(points[kept], workers=-1)[0] for points in (stood, moved)]
        gaps.append(np.minimum(np.stack(both, axis=-1) ** 2, CAP_M2))
        asked = true[rng.choice(len(true), _ASKED)]
        inside = np.flatnonzero(pixel >= 0)
        also = np.flatnonzero(moving & (pixel >= 0))
        entries = np.concatenate([stood[inside], moved[also]])
        owner = np.concatenate([inside, also])
        kind = np.where(memory[owner], REMEMBERED, STANDING).astype(np.int8)
        kind[len(inside) :] = MOVING
        gap, entry = _neighbours(entries, asked, rng)
        seen = found.visible[h][owner[entry]]
        of = owner[entry]
        neighbours.append((pixel[of], kind[entry], seen, moving[of], np.minimum(gap**2, CAP_M2)))
    near_pixel, near_kind, near_visible, near_moving, near_gap = (
        np.stack(x) for x in zip(*neighbours, strict=True)
    )
    return Sample(
        images["image"],
        pixel[kept].astype(np.int32),
        memory[kept],
        moving[kept],
        weight[kept],
        found.visible[:, kept],
        np.stack(gaps).astype(np.float16),
        near_pixel.astype(np.int32),
        near_kind,
        near_visible,
        near_moving,
        near_gap.astype(np.float16),
        images["past"],
        images["warped"],
        np.stack([project(xyz, model)[0] for xyz in future]).astype(np.float16),
        model.elevations_rad.astype(np.float32),
    )


def _neighbours(points: F32, asked: F32, rng: Generator) -> tuple[F32, NDArray[np.intp]]:
    """Distance and index (Q, R) of the neighbours of each asked point, nearest first."""
    gaps, indices = [], []
    for thinning, count in _NEIGHBOURS:
        some = np.flatnonzero(rng.random(len(points)) < 1 / thinning)
        gap, index = cKDTree(points[some]).query(asked, k=count, workers=-1)
        gaps.append(gap)
        indices.append(some[index])
    gap, index = np.concatenate(gaps, axis=1), np.concatenate(indices, axis=1)
    order = np.argsort(gap, axis=1)
    sorted_gap: F32 = np.take_along_axis(gap, order, 1).astype(np.float32)
    return sorted_gap, np.take_along_axis(index, order, 1)
