"""Descriptors of all keyframes, and which keyframes a query's vote for."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32, U8

# Its stubs lack some of what is used.
_FAISS: Any = faiss
_NEAREST = 50
_SHORTLIST = 200
# Beyond this many super-segments the exact index gives way to the trained one.
TRAIN_AT = 100_000
_CODE_BYTES = 32
_TRAINING = 16_384
_LINKS = 32
_EFFORT = 400


class PlaceIndex:
    """Super-segments of `dimensions` and one global descriptor of `image_dimensions` a keyframe.

    Exact in half precision up to `train_at` super-segments. Beyond, what is there trains a product
    quantiser (Jegou et al., 2011), which keeps 32 bytes a super-segment, and the global
    descriptors, a byte a dimension, are searched by a graph (HNSW; Malkov and Yashunin, 2018).
    """

    def __init__(self, dimensions: int, image_dimensions: int, train_at: int = TRAIN_AT) -> None:
        self._segments = _Rows(dimensions, np.float16)
        self._images: Any = faiss.IndexFlatIP(image_dimensions)
        self._train_at = train_at
        self._quantiser: Any = None
        # Rows [first[i], first[i + 1]) are the segments of keyframe i. Python appends in O(1).
        self._first: list[int] = [0]

    def __len__(self) -> int:
        return len(self._first) - 1

    @property
    def trained(self) -> bool:
        return self._quantiser is not None

    @property
    def nbytes(self) -> int:
        """Memory that the descriptors take."""
        values = int(self._images.ntotal * self._images.d)
        links = int(self._images.ntotal) * 2 * _LINKS * 4
        return self._segments.nbytes + (values + links if self.trained else 4 * values)

    def add(self, segments: F32, image: F32) -> None:
        """Add the next keyframe: its descriptors (S, P) and its global descriptor (G,)."""
        self._segments.append(self._coded(segments) if self.trained else segments)
        self._images.add(np.ascontiguousarray(image[None]))
        self._first.append(self._first[-1] + len(segments))
        if not self.trained and len(self._segments) >= self._train_at:
            self._train()

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
        selector = faiss.IDSelectorRange(0, keyframes)
        parameters = _FAISS.SearchParametersHNSW() if self.trained else _FAISS.SearchParameters()
        if self.trained:
            parameters.efSearch = _EFFORT
        parameters.sel = selector
        similarity, found = self._images.search(
            np.ascontiguousarray(image[None]), count, params=parameters
        )
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
        stored = self._segments.rows[np.repeat(first[ids], lengths) + offset]
        decoded = self._quantiser.decode(stored) if self.trained else stored.astype(np.float32)
        similarity = segments @ decoded.T
        if similarity.shape[1] > _NEAREST:
            least = np.partition(similarity, -_NEAREST, axis=1)[:, -_NEAREST, None]
            similarity = np.where(similarity >= least, similarity, 0)
        starts = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
        best = np.maximum.reduceat(np.maximum(similarity, 0), starts, axis=1)
        votes = np.zeros(len(ids), np.float32)
        votes[owner[starts]] = best.mean(axis=0)
        return votes

    def _train(self) -> None:
        rows = self._segments.rows
        spread = np.linspace(0, len(rows) - 1, min(len(rows), _TRAINING)).astype(np.int64)
        quantiser: Any = faiss.ProductQuantizer(rows.shape[1], _code_bytes(rows.shape[1]), 8)
        quantiser.cp.niter = 10
        quantiser.train(np.ascontiguousarray(rows[spread], np.float32))
        self._quantiser = quantiser
        coded = _Rows(quantiser.code_size, np.uint8)
        for start in range(0, len(rows), _TRAINING):
            coded.append(self._coded(rows[start : start + _TRAINING].astype(np.float32)))
        self._segments = coded
        images = self._images.reconstruct_n(0, self._images.ntotal)
        metric = faiss.METRIC_INNER_PRODUCT
        kind = faiss.ScalarQuantizer.QT_8bit
        graph = _FAISS.IndexHNSWSQ(self._images.d, kind, _LINKS, metric)
        graph.train(images)
        graph.add(images)
        self._images = graph

    def _coded(self, segments: F32) -> U8:
        if not len(segments):
            return np.zeros((0, self._quantiser.code_size), np.uint8)
        return np.asarray(self._quantiser.compute_codes(np.ascontiguousarray(segments)), np.uint8)


def _code_bytes(dimensions: int) -> int:
    """At most 32, and a divisor of the dimensions, as a product quantiser needs."""
    return max(m for m in range(1, _CODE_BYTES + 1) if dimensions % m == 0)


class _Rows:
    """An array that grows at its end, in amortised constant time a row."""

    def __init__(self, width: int, dtype: type[np.generic]) -> None:
        self._array = np.zeros((0, width), dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def rows(self) -> NDArray[Any]:
        return self._array[: self._count]

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def append(self, rows: NDArray[Any]) -> None:
        end = self._count + len(rows)
        if end > len(self._array):
            grown = np.zeros((end + end // 4, self._array.shape[1]), self._array.dtype)
            grown[: self._count] = self.rows
            self._array = grown
        self._array[self._count : end] = rows
        self._count = end
