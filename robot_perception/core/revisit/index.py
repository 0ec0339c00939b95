"""Super-segment descriptors of all keyframes, and the vote of a query's for one of them."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32

_NEAREST = 50


class SegmentIndex:
    """Flat inner-product index (faiss) that grows keyframe by keyframe."""

    def __init__(self, dimensions: int) -> None:
        self._index = faiss.IndexFlatIP(dimensions)
        self._owner: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, keyframe: int, descriptors: F32) -> None:
        """Add the descriptors (S, P) of the next keyframe; keyframes come in rising order."""
        self._index.add(np.ascontiguousarray(descriptors))
        self._owner = np.append(self._owner, np.full(len(descriptors), keyframe))

    def votes(self, descriptors: F32, keyframes: int) -> F32:
        """Score (keyframes,) of each of the first `keyframes` for a query's descriptors (S, P).

        Each query segment gives each keyframe the similarity of its best match there, if that is
        among the 50 nearest of all; the score is the mean over the query's segments, in 0..1. It
        depends on this query alone: no normalisation over others, which cannot be had online.
        """
        scores = np.zeros((len(descriptors), keyframes), np.float32)
        limit = int(np.searchsorted(self._owner, keyframes))
        if not limit or not len(descriptors):
            return np.zeros(keyframes, np.float32)
        # The stubs of faiss lack the constructor's arguments.
        parameters = faiss.SearchParameters()
        parameters.sel = selector = faiss.IDSelectorRange(0, limit)
        k = min(_NEAREST, limit)
        similarity, found = self._index.search(
            np.ascontiguousarray(descriptors), k, params=parameters
        )
        del selector
        rows = np.repeat(np.arange(len(descriptors)), k)
        good = found.ravel() >= 0
        owners = self._owner[found.ravel()[good]]
        np.maximum.at(scores, (rows[good], owners), similarity.ravel()[good])
        return np.asarray(scores.mean(axis=0), np.float32)
