"""Ids that stay on the same thing from frame to frame."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from robot_perception.core.types import F32, I32

_HIGHEST_ID = 65535
_DESCRIPTOR_WEIGHT = 0.5


class Tracker:
    """Associates segments by mask overlap with the last frame, and by descriptor if there is one.

    The assignment is the best one over all pairs (scipy). An id that finds nothing is remembered
    for `max_age` frames with its last mask; new segments take fresh ids, never one in use.
    """

    def __init__(self, min_iou: float, max_age: int) -> None:
        self._min_iou = min_iou
        self._max_age = max_age
        self.reset()

    def reset(self) -> None:
        self._next = 1
        self._labels: I32 | None = None
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)
        self._descriptors: F32 | None = None
        self._lost: OrderedDict[int, tuple[int, NDArray[np.int64]]] = OrderedDict()

    def step(self, labels: I32, count: int, descriptors: F32 | None = None) -> NDArray[np.int64]:
        """The id of each of the labels 1..count of this frame (H, W)."""
        ids = np.zeros(count, np.int64)
        if self._labels is not None and self._labels.shape != labels.shape:
            # Images of another size: what is remembered are other pixels.
            self._labels, self._ids = None, ids[:0]
        if self._labels is not None and self._labels.shape == labels.shape and len(self._ids):
            self._match_last(labels, ids, descriptors)
        else:
            self._lost.clear()
        self._match_lost(labels, ids)
        for k in np.flatnonzero(ids == 0):
            ids[k] = self._fresh(ids)
        self._remember_lost(ids)
        self._labels, self._ids, self._descriptors = labels, ids, descriptors
        return ids

    def _match_last(self, labels: I32, ids: NDArray[np.int64], descriptors: F32 | None) -> None:
        assert self._labels is not None
        iou = _overlaps(self._labels, labels, len(self._ids), len(ids))
        gain = iou.copy()
        if descriptors is not None and self._descriptors is not None:
            gain += _DESCRIPTOR_WEIGHT * np.clip(self._descriptors @ descriptors.T, 0, 1)
        gain[iou < self._min_iou] = 0.0
        for before, now in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
            if gain[before, now] > 0:
                ids[now] = self._ids[before]

    def _match_lost(self, labels: I32, ids: NDArray[np.int64]) -> None:
        """Give a segment without an id the lost one whose last mask it covers best."""
        if not self._lost:
            return
        flat = labels.ravel()
        area = np.bincount(flat, minlength=len(ids) + 1)[1:]
        for lost, (_, pixels) in list(self._lost.items()):
            free = ids == 0
            if not free.any():
                return
            inside = np.bincount(flat[pixels], minlength=len(ids) + 1)[1:]
            iou = np.where(free, inside / np.maximum(1, area + len(pixels) - inside), 0.0)
            best = int(iou.argmax())
            if iou[best] >= self._min_iou:
                ids[best] = lost
                del self._lost[lost]

    def _remember_lost(self, ids: NDArray[np.int64]) -> None:
        self._lost = OrderedDict(
            (lost, (age + 1, pixels))
            for lost, (age, pixels) in self._lost.items()
            if age + 1 < self._max_age
        )
        if self._labels is None or not self._max_age:
            return
        flat = self._labels.ravel()
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], np.arange(1, len(self._ids) + 2))
        for k in np.flatnonzero(~np.isin(self._ids, ids)):
            self._lost[int(self._ids[k])] = (0, order[bounds[k] : bounds[k + 1]])

    def _fresh(self, ids: NDArray[np.int64]) -> int:
        used = {*ids.tolist(), *self._ids.tolist(), *self._lost}
        while self._next in used:
            self._next = self._next % _HIGHEST_ID + 1
        fresh = self._next
        self._next = self._next % _HIGHEST_ID + 1
        return fresh


def _overlaps(before: I32, now: I32, count_before: int, count_now: int) -> NDArray[np.float64]:
    """IoU (count_before, count_now) of labels 1.. of two label images, by one histogram."""
    pairs = before.ravel().astype(np.int64) * (count_now + 1) + now.ravel()
    table = np.bincount(pairs, minlength=(count_before + 1) * (count_now + 1))
    table = table.reshape(count_before + 1, count_now + 1)
    union = table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - table[1:, 1:]
    return np.asarray(table[1:, 1:] / np.maximum(1, union))
