"""Simple place recognition to compare with: what anything better has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import faiss
import numpy as np
from scipy.sparse import csr_matrix, vstack

from robot_perception.core.revisit.features import LONGER_SIDE
from robot_perception.core.types import F32, U8


class Baseline(Protocol):
    """A map that grows image by image."""

    def describe(self, rgb: U8) -> Any: ...

    def add(self, description: Any) -> None: ...

    def scores(self, description: Any, count: int) -> F32:
        """The similarity (count,) to each of the first `count` images; greater is nearer.

        It depends on nothing but the two images and what the baseline was fitted on.
        """
        ...

    @property
    def bytes_per_image(self) -> float: ...


class PatchSad:
    """Sum of absolute differences of small, patch-normalised grey images (Milford and Wyeth,
    "SeqSLAM", ICRA 2012: 64 x 32 pixels, patches of 8 x 8), of single images."""

    _SIZE = (64, 32)
    _PATCH = 8

    def __init__(self) -> None:
        self._images: list[F32] = []

    def add(self, description: F32) -> None:
        self._images.append(description)

    def scores(self, description: F32, count: int) -> F32:
        if not count:
            return np.zeros(0, np.float32)
        stored = np.stack(self._images[:count])
        return np.asarray(-np.abs(stored - description).mean(axis=1), np.float32)

    @property
    def bytes_per_image(self) -> float:
        # Each value takes a byte in SeqSLAM; here a float for speed.
        return float(self._SIZE[0] * self._SIZE[1] * 4)

    def describe(self, rgb: U8) -> F32:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, self._SIZE, interpolation=cv2.INTER_AREA).astype(np.float32)
        side = self._PATCH
        patches = small.reshape(self._SIZE[1] // side, side, -1, side).swapaxes(1, 2)
        mean, deviation = (f(patches, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
        return np.asarray(((patches - mean) / np.maximum(deviation, 1.0)).ravel(), np.float32)


class OrbWords:
    """Bag of ORB words with tf-idf weights and cosine similarity (Sivic and Zisserman, ICCV 2003;
    Rublee et al., ICCV 2011), words by k-means on the descriptors' bits."""

    def __init__(self, images: Sequence[U8], words: int = 1000, features: int = 1000) -> None:
        """Fit words and their weights on `images`; raises ValueError where these have no corners.

        Images are scaled to a longer side of 640 pixels, as for the other methods."""
        self._orb = cv2.ORB.create(features)
        described = [self._bits(rgb) for rgb in images]
        bits = np.concatenate(described) if described else np.zeros((0, 256), np.float32)
        if not len(bits):
            raise ValueError("no ORB features to make words of")
        # At least five descriptors a word, or words are single descriptors.
        count = max(1, min(words, len(bits) // 5))
        most = max(1, len(bits) // count + 1)
        kmeans = faiss.Kmeans(
            256, count, niter=20, seed=0, min_points_per_centroid=1, max_points_per_centroid=most
        )
        kmeans.train(bits)
        self._words = faiss.IndexFlatL2(256)
        self._words.add(np.asarray(kmeans.centroids, np.float32))
        seen = [np.unique(self._nearest(b)) for b in described]
        documents = np.bincount(np.concatenate(seen), minlength=count)
        self._idf = np.log((1 + len(images)) / (1 + documents)).astype(np.float32)
        self._rows: list[csr_matrix] = []

    def add(self, description: csr_matrix) -> None:
        self._rows.append(description)

    def scores(self, description: csr_matrix, count: int) -> F32:
        if not count:
            return np.zeros(0, np.float32)
        similarity = vstack(self._rows[:count]) @ description.T
        return np.asarray(similarity.toarray()[:, 0], np.float32)

    @property
    def bytes_per_image(self) -> float:
        # A word's number and weight.
        return 8.0 * float(np.mean([row.nnz for row in self._rows] or [0]))

    def describe(self, rgb: U8) -> csr_matrix:
        words = self._nearest(self._bits(rgb))
        weights = np.bincount(words, minlength=len(self._idf)) * self._idf
        norm = max(1e-12, float(np.linalg.norm(weights)))
        return csr_matrix(np.asarray(weights / norm, np.float32)[None])

    def _nearest(self, bits: F32) -> np.ndarray:
        if not len(bits):
            return np.zeros(0, np.int64)
        return np.asarray(self._words.search(bits, 1)[1][:, 0], np.int64)

    def _bits(self, rgb: U8) -> F32:
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        factor = LONGER_SIDE / max(grey.shape)
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        if factor != 1:
            grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=how)
        _, found = self._orb.detectAndCompute(grey, None)
        if found is None:
            return np.zeros((0, 256), np.float32)
        return np.unpackbits(np.asarray(found, np.uint8), axis=1).astype(np.float32)
