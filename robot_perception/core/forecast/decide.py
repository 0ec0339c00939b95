"""`choice` for one scene in one pass over its candidates, without temporaries: for live use."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.choice import LEAVE_OUT, MOVE, PRIOR, STAND
from robot_perception.core.types import F32


def decide(
    logits: F32, pixel: NDArray[np.int32], found: Candidates, moving: NDArray[np.bool_], gate: float
) -> tuple[NDArray[np.int8], F32]:
    """The choice (T, P) for each candidate, as `choice.choose` makes it, and the logit (T, P) that
    it is near the truth, from logits (T, 5, H, W); what is outside of the image is left out."""
    flat = np.ascontiguousarray(logits.reshape(*logits.shape[:2], -1))
    choice = np.full((len(flat), len(pixel)), LEAVE_OUT, np.int8)
    near = np.zeros(choice.shape, np.float32)
    _decide(flat, pixel, moving, found.observed, found.visible, np.float32(gate), choice, near)
    return choice, near


@numba.njit(cache=True, nogil=True)
def _decide(
    logits: F32,
    pixel: NDArray[np.int32],
    moving: NDArray[np.bool_],
    observed: int,
    visible: NDArray[np.bool_],
    gate: np.float32,
    choice: NDArray[np.int8],
    near: F32,
) -> None:
    prior = np.float32(PRIOR)
    for h in range(len(logits)):
        for i in range(len(pixel)):
            at = pixel[i]
            if at < 0:
                continue
            seen = visible[h, i]
            if i >= observed:
                recall = logits[h, 2, at] - (prior if seen else 2 * prior)
                near[h, i] = logits[h, 4, at]
                if recall > gate:
                    choice[h, i] = STAND
                continue
            near[h, i] = logits[h, 3, at]
            leave_out = logits[h, 0, at] + (-prior if seen else prior)
            keep = MOVE if moving[i] else STAND
            usual = np.float32(0)
            other = -logits[h, 1, at] - prior if moving[i] else np.float32(-1e4)
            if seen:
                if leave_out > other:
                    choice[h, i] = LEAVE_OUT if leave_out - usual > gate else keep
                else:
                    choice[h, i] = STAND if other - usual > gate else keep
            elif max(usual, other) - leave_out > gate:
                choice[h, i] = keep if usual >= other else STAND


@numba.njit(cache=True, nogil=True)
def range_image(
    index: NDArray[np.intp], ranges: F32, pixels: NDArray[np.int32], image: F32
) -> None:
    """Draw the candidates `index` (K,) at `ranges` (P,) and `pixels` (P,) into `image` (H * W,)."""
    for i in index:
        at = pixels[i]
        if at >= 0 and (image[at] == 0 or ranges[i] < image[at]):
            image[at] = ranges[i]
