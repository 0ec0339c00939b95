"""What is known of the surroundings at a scan, in that scan's sensor frame."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.flow import (
    Comparison,
    PastScan,
    Standing,
    above_ground,
    compare,
    nearest_around,
    velocities,
)
from robot_perception.core.forecast.motion import Motion
from robot_perception.core.forecast.warp import transform
from robot_perception.core.projection import draw_points
from robot_perception.core.range_image import Lens, SensorModel, is_behind, lens, look, project
from robot_perception.core.threads import threads
from robot_perception.core.types import F32, F64, I32, Scan

# Past scans whose comparison with the present tells what moves: 0.2 and 0.4 s at 10 Hz.
LAGS = (2, 4)
MEMORY_S = 2.0


@dataclass(frozen=True, eq=False)
class Scene:
    """`xyz` (N, 3) the scan; `velocity` (N, 3) m/s, 0 for what stands, and which points (N,) move;
    `memory` (M, 3) what earlier scans saw and something hides now, and how long ago (M,); `past`
    the scans before, oldest first; `twist` (6,) of the sensor; `image` (H, W) the scan's range
    image, with the range (N,) and the pixel (N,) of each point in it, -1 outside."""

    xyz: F32
    velocity: F32
    moves: NDArray[np.bool_]
    memory: F32
    memory_age_s: F32
    past: tuple[PastScan, ...]
    twist: F64
    image: F32
    ranges: F32
    pixels: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Observed:
    """A scan by itself, before its motion is known: its range `image` (H, W) with the range (N,)
    and the pixel (N,) of each point in it; the `nearest` range (H, W) around each pixel; and what
    stands above the ground."""

    scan: Scan
    model: SensorModel
    image: F32
    ranges: F32
    pixels: NDArray[np.int32]
    nearest: F32
    stands: Standing


def observe(scan: Scan, model: SensorModel) -> Observed:
    """What can be said of `scan` without those before."""
    image, ranges, pixels, nearest, index, points = _observe(scan.xyz, lens(model))
    return Observed(scan, model, image, ranges, pixels, nearest, Standing(index, points))


@numba.njit(cache=True, nogil=True)
def _observe(xyz: F32, lens: Lens) -> tuple[F32, F32, I32, F32, NDArray[np.intp], F32]:
    # All in one call: between two, this thread would wait for the registration, which keeps
    # Python's lock.
    image = np.zeros(lens[3], np.float32)
    ranges, pixels = np.empty(len(xyz), np.float32), np.empty(len(xyz), np.int32)
    here = np.eye(4).astype(np.float32)
    slopes, table, limits, shape = lens
    draw_points(xyz, here, slopes, table, limits, shape, ranges, pixels, image.reshape(-1))
    index, points = above_ground(xyz)
    return image, ranges, pixels, nearest_around(image), index, points


@dataclass(frozen=True, eq=False)
class Begun:
    """A scan with its `past`, oldest first, in its frame, and what is under way."""

    seen: Observed
    motion: Motion | None
    past: tuple[PastScan, ...]
    compared: Comparison | None
    hidden: Future[tuple[F32, F32]] | None


def alone(scan: Scan, motion: Motion, model: SensorModel) -> Scene:
    """The scene of a scan without a past, in which everything stands."""
    image, ranges, pixels = look(scan.xyz, np.eye(4), model)
    return Scene(
        xyz=scan.xyz,
        velocity=np.zeros_like(scan.xyz),
        moves=np.zeros(len(scan.xyz), bool),
        memory=np.zeros((0, 3), np.float32),
        memory_age_s=np.zeros(0, np.float32),
        past=(),
        twist=motion.twist,
        image=image,
        ranges=ranges,
        pixels=pixels,
    )


class SceneBuilder:
    """Takes scans and their motion in order, and keeps what outlives them, at most `past` scans."""

    def __init__(self, past: int) -> None:
        self._kept = max(past, *LAGS) + 1
        self.reset()

    def reset(self) -> None:
        self._past: deque[PastScan] = deque(maxlen=self._kept)
        self._memory = np.zeros((0, 3), np.float32)
        self._age = np.zeros(0, np.float32)
        self._stamp_ns: int | None = None

    def step(self, seen: Observed, motion: Motion | None) -> Scene:
        """The scene at a scan, whose `motion` is None if it is the first."""
        return self.scene(self.begin(seen, motion))

    def begin(self, seen: Observed, motion: Motion | None) -> Begun:
        """Bring the past into the frame of a scan, and begin to compare them."""
        if motion is None or self._stamp_ns is None:
            self.reset()
            return Begun(seen, motion, (), None, None)
        dt = (seen.scan.stamp_ns - self._stamp_ns) * 1e-9
        step = np.asarray(np.linalg.inv(motion.relative))
        past = tuple(replace(p, pose=step @ p.pose, age_s=p.age_s + dt) for p in self._past)
        earlier = [past[-lag] for lag in LAGS if lag <= len(past)]
        compared = compare(seen.stands, earlier, seen.model) if earlier else None
        hidden = threads().submit(self._hidden, past[-1], seen.image, seen.model)
        return Begun(seen, motion, past, compared, hidden)

    def scene(self, begun: Begun) -> Scene:
        """The scene at the scan that was begun."""
        seen, motion, past = begun.seen, begun.motion, begun.past
        scan = seen.scan
        velocity, moves = velocities(len(scan.xyz), seen.stands, begun.compared)
        if begun.hidden is not None:
            self._memory, self._age = begun.hidden.result()
        self._stamp_ns = scan.stamp_ns
        now = PastScan(scan.xyz, seen.stands.points, seen.nearest, np.eye(4), 0.0)
        # A new one: a copy of this builder keeps its own.
        self._past = deque([*past, now], maxlen=self._kept)
        twist = np.zeros(6) if motion is None else motion.twist
        return Scene(
            *(scan.xyz, velocity, moves, self._memory, self._age, past, twist),
            *(seen.image, seen.ranges, seen.pixels),
        )

    def _hidden(self, last: PastScan, image: F32, model: SensorModel) -> tuple[F32, F32]:
        """The memory (M, 3) in the present frame, after the `last` scan, with its ages (M,): what
        is hidden behind the present range image (H, W)."""
        step, pool = last.pose, np.concatenate([self._memory, last.xyz])
        age = np.zeros(len(pool), np.float32)
        age[: len(self._age)] = self._age
        age += np.float32(last.age_s)
        _, ranges, pixels = look(pool, step, model)
        hidden = _behind(ranges, pixels, _covering(image).ravel(), age)
        pool, age = transform(pool[hidden], step), age[hidden]
        # One to a pixel bounds the memory.
        _, index = project(pool, model)
        chosen = index[index >= 0]
        return pool[chosen], age[chosen]


@numba.njit(cache=True, nogil=True)
def _behind(ranges: F32, pixels: NDArray[np.int32], covering: F32, age_s: F32) -> NDArray[np.intp]:
    """Which points (K,) of those at `ranges` (N,) are behind what covers (H * W,) their `pixels`
    (N,), and not too old."""
    behind = np.empty(len(ranges), np.intp)
    count = 0
    for n in range(len(ranges)):
        if pixels[n] < 0 or age_s[n] > MEMORY_S:
            continue
        nearest = covering[np.uint32(pixels[n])]
        if nearest > 0 and is_behind(ranges[n], nearest):
            behind[count] = n
            count += 1
    return behind[:count]


@numba.njit(cache=True, nogil=True)
def _covering(image: F32) -> F32:
    """The nearest range (H, W) in each pixel and its neighbours in the row, 0 where there is none:
    closes the gaps between points, so that what is behind is hidden and not seen through."""
    rows, columns = image.shape
    covering = np.empty_like(image)
    for i in range(rows):
        before, here = image[i, columns - 1], image[i, 0]
        for j in range(columns):
            after = image[i, j + 1] if j + 1 < columns else image[i, 0]
            nearest = here
            if before > 0 and (nearest == 0 or before < nearest):
                nearest = before
            if after > 0 and (nearest == 0 or after < nearest):
                nearest = after
            covering[i, j] = nearest
            before, here = here, after
    return covering
