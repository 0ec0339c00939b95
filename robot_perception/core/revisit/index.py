"""Descriptors of all keyframes, and which keyframes a query's vote for."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32

_NEAREST = 50
_SHORTLIST = 200


class PlaceIndex:
    """Flat inner-product indices (faiss) that grow keyframe by keyframe: one of super-segments with
    `dimensions`, one of global descriptors with `image_dimensions`."""

    def __init__(self, dimensions: int, image_dimensions: int) -> None:
        self._segments = faiss.IndexFlatIP(dimensions)
        self._images = faiss.IndexFlatIP(image_dimensions)
        # Rows [first[i], first[i + 1]) are the segments of keyframe i. Python appends in O(1).
        self._first: list[int] = [0]

    def __len__(self) -> int:
        return len(self._first) - 1

    def add(self, segments: F32, image: F32) -> None:
        """Add the next keyframe: its descriptors (S, P) and its global descriptor (G,)."""
        if len(segments):
            self._segments.add(np.ascontiguousarray(segments))
        self._images.add(np.ascontiguousarray(image[None]))
        self._first.append(self._first[-1] + len(segments))

    def rank(
        self, segments: F32, image: F32, keyframes: int
    ) -> tuple[NDArray[np.int64], F32, NDArray[np.int64]]:
        """Of the first `keyframes`, the best 200 by global descriptor, ordered by score.

        Returns ids (N,) best first, their scores (N,) in about 0..2, and ids by the global
        descriptor alone (N,). The score is the global similarity plus the vote of the segments.
        It depends on this query alone: no normalisation over others, which cannot be had online.
        """
        count = min(_SHORTLIST, keyframes)
        if not count:
            none = np.zeros(0, np.int64)
            return none, np.zeros(0, np.float32), none
        parameters = faiss.SearchParameters()  # its stubs lack the constructor's arguments
        parameters.sel = selector = faiss.IDSelectorRange(0, keyframes)
        similarity, found = self._images.search(
            np.ascontiguousarray(image[None]), count, params=parameters
        )
        del selector
        ids = found[0][found[0] >= 0].astype(np.int64)
        scores = similarity[0][: len(ids)] + self._votes(segments, ids)
        # Of equal scores the oldest keyframe first, whatever order faiss finds them in.
        order = np.lexsort((ids, -scores))
        return ids[order], np.asarray(scores[order], np.float32), ids

    def _votes(self, segments: F32, ids: NDArray[np.int64]) -> F32:
        """Vote (N,) for each keyframe of `ids`: each query segment gives it the similarity of its
        best match there, if that is among the 50 nearest in all of `ids`; the mean over segments.
        """
        first = np.asarray(self._first, np.int64)
        lengths = first[ids + 1] - first[ids]
        if not len(segments) or not lengths.sum():
            return np.zeros(len(ids), np.float32)
        owner = np.repeat(np.arange(len(ids)), lengths)
        offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        stored = faiss.rev_swig_ptr(
            self._segments.get_xb(), self._segments.ntotal * self._segments.d
        ).reshape(-1, self._segments.d)
        similarity = segments @ stored[np.repeat(first[ids], lengths) + offset].T
        if similarity.shape[1] > _NEAREST:
            least = np.partition(similarity, -_NEAREST, axis=1)[:, -_NEAREST, None]
            similarity = np.where(similarity >= least, similarity, 0)
        starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
        best = np.maximum.reduceat(np.maximum(similarity, 0), starts, axis=1)
        votes = np.zeros(len(ids), np.float32)
        votes[owner[starts]] = best.mean(axis=0)
        return votes
