"""`choice` for one scene in one pass over its candidates, without temporaries: for live use."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.choice import LEAVE_OUT, MOVE, PRIOR, STAND
from robot_perception.core.forecast.selector import PATCH
from robot_perception.core.threads import threads
from robot_perception.core.types import F32

# Enough to keep all cores busy to the end.
_PARTS = 8


def decide(
    patches: F32, pixel: NDArray[np.int32], found: Candidates, gate: float
) -> tuple[NDArray[np.int8], F32]:
    """The choice (T, P) for each candidate, as `choice.choose` makes it, and the logit (T, P) that
    it is near the truth, from logits by patch (H, W / p, T, 5, p). Outside of the image, where
    there are none, the choice is geometry's and the logit 0."""
    choice = np.full((len(found.visible), len(pixel)), LEAVE_OUT, np.int8)
    near = np.zeros(choice.shape, np.float32)
    assert patches.shape[4] == PATCH
    flat = patches.reshape(-1, *patches.shape[2:])
    ends = np.linspace(0, len(pixel), _PARTS + 1).astype(np.int64)

    def of(part: int) -> None:
        some = slice(ends[part], ends[part + 1])
        observed = min(max(found.observed - ends[part], 0), ends[part + 1] - ends[part])
        known = found.moves[some], observed, found.visible[:, some]
        _decide(flat, pixel[some], *known, np.float32(gate), choice[:, some], near[:, some])

    list(threads().map(of, range(_PARTS)))
    return choice, near


@numba.njit(cache=True, nogil=True)
def _decide(
    patches: F32,
    pixel: NDArray[np.int32],
    moving: NDArray[np.bool_],
    observed: int,
    visible: NDArray[np.bool_],
    gate: np.float32,
    choice: NDArray[np.int8],
    near: F32,
) -> None:
    prior = np.float32(PRIOR)
    for i in range(len(pixel)):
        if pixel[i] < 0:
            for h in range(len(choice)):
                if i < observed and visible[h, i]:
                    choice[h, i] = MOVE if moving[i] else STAND
            continue
        # Without a sign: else it is asked whether it counts from the end.
        at = np.uint32(pixel[i])
        k = at % np.uint32(PATCH)
        # All horizons at once: they lie together.
        here = patches[at // np.uint32(PATCH)]
        for h in range(len(choice)):
            logits, seen = here[h], visible[h, i]
            if i >= observed:
                recall = logits[2, k] - (prior if seen else 2 * prior)
                near[h, i] = logits[4, k]
                if recall > gate:
                    choice[h, i] = STAND
                continue
            near[h, i] = logits[3, k]
            leave_out = logits[0, k] + (-prior if seen else prior)
            keep = MOVE if moving[i] else STAND
            usual = np.float32(0)
            other = -logits[1, k] - prior if moving[i] else np.float32(-1e4)
            if seen:
                if leave_out > other:
                    choice[h, i] = LEAVE_OUT if leave_out - usual > gate else keep
                else:
                    choice[h, i] = STAND if other - usual > gate else keep
            elif max(usual, other) - leave_out > gate:
                choice[h, i] = keep if usual >= other else STAND


@numba.njit(cache=True, nogil=True)
def collect(
    points: F32,
    velocity: F32,
    seconds: np.float32,
    choice: NDArray[np.int8],
    probability: F32,
    moves: NDArray[np.bool_],
    ranges: F32,
    pixels: NDArray[np.int32],
    image: F32,
) -> tuple[F32, F32, NDArray[np.bool_], NDArray[np.bool_]]:
    """What is chosen of the candidates: (N, 3) where they will be, their probability (N,), which
    of them (N,) move, and which (N,) of those are taken to stand now. All but those are drawn into
    `image` (H * W,), at their `ranges` (P,) and `pixels` (P,)."""
    count = 0
    for i in range(len(choice)):
        count += choice[i] != LEAVE_OUT
    xyz, chances = np.empty((count, 3), np.float32), np.empty(count, np.float32)
    moving, stays = np.empty(count, np.bool_), np.empty(count, np.bool_)
    n = 0
    for i in range(len(choice)):
        if choice[i] == LEAVE_OUT:
            continue
        ahead = seconds if choice[i] == MOVE else np.float32(0)
        for k in range(3):
            xyz[n, k] = points[i, k] + velocity[i, k] * ahead
        chances[n], moving[n] = probability[i], moves[i]
        stays[n] = moves[i] and choice[i] == STAND
        if pixels[i] >= 0 and not stays[n]:
            at = np.uint32(pixels[i])
            before = image[at]
            image[at] = ranges[i] if before == 0 or ranges[i] < before else before
        n += 1
    return xyz, chances, moving, stays
