"""Segments, their neighbourhoods, and one VLAD descriptor for each.

Garg et al., "Revisit Anything" (ECCV 2024): patches assigned hard to a vocabulary, residuals summed
over a segment and its neighbours (super-segment), normalised per centre and as a whole. Segments of
a label image do not overlap, so the sum over a super-segment is the adjacency times the sums over
segments: two matrix products, no loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import csr_matrix
from scipy.spatial import Delaunay, QhullError, cKDTree
from sklearn.cluster import KMeans

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit.storage import digest
from robot_perception.core.types import F32, F64, I32

_FEW = 4
_NEIGHBOURS = 3


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Centres (K, D) of local features; mean (K * D,) and components (P, K * D) of the PCA."""

    centres: F32
    mean: F32
    components: F32


@dataclass(frozen=True, eq=False)
class SegmentMasks:
    """`shares` (S, h * w): how much of each patch a segment covers; `labels` (S,) their labels;
    `centroids` (S, 2) in patches."""

    shares: csr_matrix
    labels: I32
    centroids: F64


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """What two vocabularies have in common only if they are the same."""
    return digest(vars(vocabulary))


def checked_vocabulary(
    arrays: Mapping[str, NDArray[Any]], name: str, dimensions: int | None = None
) -> Vocabulary:
    """The vocabulary among `arrays` of the file `name`; raises WeightsRejected if it is none, or
    not one of features of `dimensions`."""
    try:
        centres, mean, components = (arrays[k] for k in ("centres", "mean", "components"))
    except KeyError as error:
        raise WeightsRejected(f"{name} holds no vocabulary: {error} is missing") from error
    fits = centres.ndim == components.ndim == 2 and mean.shape == (centres.size,)
    fits = fits and components.shape[1] == centres.size and len(components) > 0
    for array in (centres, mean, components):
        fits = fits and array.dtype == np.float32 and bool(np.isfinite(array).all())
    fits = fits and dimensions in (None, centres.shape[1])
    if not fits:
        raise WeightsRejected(f"the vocabulary in {name} is damaged")
    return Vocabulary(centres, mean, components)


def segment_masks(labels: NDArray[np.integer], shape: tuple[int, int]) -> SegmentMasks:
    """The segments of a label image (H, W) on a grid of patches; 0 is no segment.

    They come in the order of their first pixel, so the label values themselves do not matter.
    """
    height, width = shape
    rows = np.arange(labels.shape[0]) * height // labels.shape[0]
    columns = np.arange(labels.shape[1]) * width // labels.shape[1]
    patch = (rows[:, None] * width + columns[None]).ravel()
    flat = labels.ravel()
    names, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    order = order[names[order] != 0]
    rank = np.full(len(names), -1)
    rank[order] = np.arange(len(order))
    segment = rank[inverse]
    inside = segment >= 0
    pairs = segment[inside].astype(np.int64) * (height * width) + patch[inside]
    counts = np.bincount(pairs, minlength=len(order) * height * width)
    per_patch = np.maximum(1, np.bincount(patch, minlength=height * width))
    shares = counts.reshape(len(order), height * width) / per_patch
    total = np.maximum(shares.sum(axis=1), 1e-12)
    grid_rows, grid_columns = np.divmod(np.arange(height * width), width)
    centroids = np.stack([shares @ grid_columns / total, shares @ grid_rows / total], axis=1)
    return SegmentMasks(
        csr_matrix(shares.astype(np.float32)), names[order].astype(np.int32), centroids
    )


def grid_labels(height: int, width: int, rows: int = 4, columns: int = 6) -> I32:
    """A label image (H, W) of equal cells, for where nothing segments."""
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return (row[:, None] * columns + column[None] + 1).astype(np.int32)


def adjacency(centroids: F64, order: int) -> NDArray[np.bool_]:
    """(S, S): which segments are within `order` steps in the Delaunay graph of the centroids.

    Where there are too few of them or all lie on a line, the three nearest are neighbours.
    """
    count = len(centroids)
    near = np.eye(count, dtype=bool)
    if order == 0 or count < 2:
        return near
    try:
        if count < _FEW:
            raise QhullError("too few points")
        pointers, neighbours = Delaunay(centroids).vertex_neighbor_vertices
        near[np.repeat(np.arange(count), np.diff(pointers)), neighbours] = True
    except QhullError:
        k = min(count, _NEIGHBOURS + 1)
        _, neighbours = cKDTree(centroids).query(centroids, k=k)
        near[np.repeat(np.arange(count), k), neighbours.ravel()] = True
        near |= near.T
    reach = near.astype(np.float32)
    for _ in range(order - 1):
        reach = (reach @ near > 0).astype(np.float32)
    return reach > 0


def distinct(near: NDArray[np.bool_], masks: SegmentMasks, most_iou: float) -> NDArray[np.intp]:
    """Indices of the super-segments (rows of `near`) left when those go that overlap a larger one
    that stays with an IoU above `most_iou`; in the order of `near`."""
    areas = np.asarray(masks.shares.sum(axis=1), np.float32).ravel()
    # Segments do not overlap: what two super-segments share is the segments that are in both.
    shared = (near * areas) @ near.T.astype(np.float32)
    sizes = shared.diagonal()
    overlap = shared / np.maximum(sizes[:, None] + sizes[None] - shared, 1e-12)
    stays = np.zeros(len(near), bool)
    for i in np.argsort(-sizes, kind="stable"):
        stays[i] = not (overlap[i, stays] > most_iou).any()
    return np.flatnonzero(stays)


def aggregate(dense: F32, masks: SegmentMasks, near: NDArray[np.bool_], centres: F32) -> F32:
    """VLAD (S, K * D) of each super-segment from patches (h, w, D); zero where nothing is."""
    patches = dense.reshape(-1, dense.shape[2])
    residuals = _residuals(patches, centres)
    per_segment = masks.shares @ residuals
    sums: F32 = near.astype(np.float32) @ per_segment.toarray()
    return _normalised(sums, len(centres))


def whole_image(dense: F32, centres: F32) -> F32:
    """The VLAD (K * D,) of all patches: the global descriptor."""
    residuals = _residuals(dense.reshape(-1, dense.shape[2]), centres)
    sums: F32 = np.asarray(residuals.sum(axis=0), np.float32).reshape(1, -1)
    whole: F32 = _normalised(sums, len(centres))[0]
    return whole


def compress(vlad: F32, vocabulary: Vocabulary) -> F32:
    """Descriptors (S, P) of VLADs (S, K * D): PCA, then unit length."""
    return _unit(np.asarray((vlad - vocabulary.mean) @ vocabulary.components.T, np.float32))


def fit_centres(patches: F32, size: int) -> F32:
    """K-means centres (K, D) of patches (N, D), seeded."""
    size = min(size, len(patches))
    centres = KMeans(size, n_init=1, random_state=0, max_iter=50).fit(patches).cluster_centers_
    return np.asarray(centres, np.float32)


def fit_components(vlads: F32, most: int) -> tuple[F32, F32]:
    """Mean (K * D,) and at most `most` principal components (P, K * D) of VLADs (N, K * D)."""
    mean = vlads.mean(axis=0)
    centred = (vlads - mean).astype(np.float64)
    # By the smaller of the two Gram matrices: the node waits for this in the middle of a drive.
    wide = centred.shape[0] < centred.shape[1]
    values, vectors = eigh(centred @ centred.T if wide else centred.T @ centred)
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:most]
    directions = vectors[:, kept].T
    if wide:
        directions = directions @ centred / np.sqrt(values[kept])[:, None]
    return np.asarray(mean, np.float32), np.asarray(directions, np.float32)


def _residuals(patches: F32, centres: F32) -> csr_matrix:
    """(N, K * D): each patch's residual in the block of its nearest centre."""
    count, dimensions = patches.shape
    # The nearest centre has the greatest x.c - |c|^2 / 2.
    nearest = (patches @ centres.T - (centres**2).sum(axis=1) / 2).argmax(axis=1)
    columns = nearest[:, None] * dimensions + np.arange(dimensions)
    values = (patches - centres[nearest]).ravel()
    pointers = np.arange(count + 1) * dimensions
    shape = (count, len(centres) * dimensions)
    return csr_matrix((values, columns.ravel(), pointers), shape=shape)


def _normalised(vlad: F32, centres: int) -> F32:
    blocks = vlad.reshape(len(vlad), centres, -1)
    return _unit(_unit(blocks).reshape(len(vlad), -1))


def _unit(array: F32) -> F32:
    norms = np.linalg.norm(array, axis=-1, keepdims=True)
    return np.asarray(array / np.maximum(norms, 1e-12), np.float32)
