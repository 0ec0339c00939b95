"""Ids that stay on the same thing from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from robot_perception.core.metrics import label_iou
from robot_perception.core.types import F32, F64, I32

_HIGHEST_ID = 65535
_DESCRIPTOR_WEIGHT = 0.5

_Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Lost:
    """A segment that found nothing: flat indices of its last mask, frames since."""

    pixels: NDArray[np.intp]
    age: int


class Tracker:
    """Associates segments by mask overlap with the last frame, and by descriptor if there is one.

    A pair needs a mask IoU of `min_iou`; of the pairs that have it, the assignment with the highest
    sum of IoU and half the descriptors' cosine is taken (scipy). An id that finds nothing is
    remembered with its last mask for `max_age` frames; segments still without an id then look for
    theirs among these in the same way. New segments take fresh ids 1..65535 in turn, none that is
    in use or remembered. Deterministic.
    """

    def __init__(self, min_iou: float, max_age: int) -> None:
        self._min_iou = min_iou
        self._max_age = max_age
        self.reset()

    def reset(self) -> None:
        """Forget everything; ids begin at 1 again."""
        self._next = 1
        self._labels: I32 | None = None
        self._ids: _Ids = np.zeros(0, np.int64)
        self._descriptors: F32 | None = None
        self._lost: dict[int, _Lost] = {}

    def step(self, labels: I32, count: int, descriptors: F32 | None = None) -> _Ids:
        """The id of each of the labels 1..count of this frame (H, W).

        `descriptors` (count, D) of unit length. A frame of another size begins anew, but with ids
        not used just before.
        """
        ids = np.zeros(count, np.int64)
        if self._labels is not None and self._labels.shape == labels.shape:
            self._match_last(labels, ids, descriptors)
            self._match_lost(labels, ids)
        else:
            self._labels, self._lost = None, {}
        new = np.flatnonzero(ids == 0)
        ids[new] = self._fresh(len(new), ids)
        self._remember_lost(ids)
        self._labels, self._ids, self._descriptors = labels, ids, descriptors
        return ids

    def expect(self, where: I32) -> None:
        """Take ids to be where a prediction (H, W) has them, 0: it has none, in the next frame.

        Ids that it does not have stay where they were.
        """
        if self._labels is None or self._labels.shape != where.shape:
            return
        before = np.concatenate([[0], self._ids])[self._labels]
        predicted = np.setdiff1d(where, [0])
        now = np.where(where > 0, where, np.where(np.isin(before, predicted), 0, before))
        back = np.setdiff1d(predicted, self._ids)
        if self._descriptors is not None:
            unknown = np.zeros((len(back), self._descriptors.shape[1]), np.float32)
            self._descriptors = np.concatenate([self._descriptors, unknown])
        self._ids = np.concatenate([self._ids, back])
        for key in back.tolist():
            self._lost.pop(key, None)
        label = np.zeros(_HIGHEST_ID + 1, np.int32)
        label[self._ids] = np.arange(1, len(self._ids) + 1)
        self._labels = label[now]

    def _match_last(self, labels: I32, ids: _Ids, descriptors: F32 | None) -> None:
        assert self._labels is not None
        iou = label_iou(self._labels, labels, len(self._ids), len(ids))
        gain = iou
        if descriptors is not None and self._descriptors is not None:
            likeness = np.clip(self._descriptors @ descriptors.T, 0, 1)
            gain = iou + _DESCRIPTOR_WEIGHT * likeness
        before, now = self._assigned(iou, gain)
        ids[now] = self._ids[before]

    def _match_lost(self, labels: I32, ids: _Ids) -> None:
        free = ids == 0
        if not self._lost or not free.any():
            return
        lost = np.fromiter(self._lost, np.int64)
        masks = [entry.pixels for entry in self._lost.values()]
        sizes = np.array([len(mask) for mask in masks])
        columns = len(ids) + 1
        flat = labels.ravel()
        pairs = np.repeat(np.arange(len(lost)) * columns, sizes) + flat[np.concatenate(masks)]
        overlap = np.bincount(pairs, minlength=len(lost) * columns).reshape(-1, columns)[:, 1:]
        area = np.bincount(flat, minlength=columns)[1:]
        iou = overlap / np.maximum(1, sizes[:, None] + area[None] - overlap)
        iou[:, ~free] = 0.0
        before, now = self._assigned(iou, iou)
        ids[now] = lost[before]
        for found in lost[before]:
            del self._lost[int(found)]

    def _assigned(self, iou: F64, gain: F64) -> tuple[_Ids, _Ids]:
        """Rows and columns of the best assignment, of pairs that overlap enough only."""
        allowed = (iou >= self._min_iou) & (iou > 0)
        rows, columns = linear_sum_assignment(np.where(allowed, gain, 0.0), maximize=True)
        kept = allowed[rows, columns]
        return rows[kept], columns[kept]

    def _remember_lost(self, ids: _Ids) -> None:
        taken = set(ids.tolist())
        self._lost = {
            lost: _Lost(entry.pixels, entry.age + 1)
            for lost, entry in self._lost.items()
            if entry.age < self._max_age and lost not in taken
        }
        if self._labels is None or not self._max_age:
            return
        gone = np.flatnonzero(~np.isin(self._ids, ids))
        if not len(gone):
            return
        # Only the lost pixels are sorted by label.
        flat = self._labels.ravel()
        pixels = np.flatnonzero(np.isin(flat, gone + 1))
        pixels = pixels[np.argsort(flat[pixels], kind="stable")]
        bounds = np.searchsorted(flat[pixels], np.append(gone, gone[-1] + 1) + 1)
        for k, start, end in zip(gone, bounds[:-1], bounds[1:], strict=True):
            self._lost[int(self._ids[k])] = _Lost(pixels[start:end], 1)

    def _fresh(self, number: int, ids: _Ids) -> _Ids:
        """So many ids that are not alive, in turn after the last one given."""
        used = np.zeros(_HIGHEST_ID + 1, bool)
        used[[0, *self._ids, *self._lost]] = True
        used[ids] = True
        in_turn = (self._next - 1 + np.arange(_HIGHEST_ID)) % _HIGHEST_ID + 1
        free = in_turn[~used[in_turn]]
        if len(free) < number:  # nearly all are alive: what was lost has to give its ids up
            self._lost = {}
            free = in_turn[~np.isin(in_turn, ids)]
        fresh = free[:number]
        if number:
            self._next = int(fresh[-1]) % _HIGHEST_ID + 1
        return np.asarray(fresh, np.int64)
