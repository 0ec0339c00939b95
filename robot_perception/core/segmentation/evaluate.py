"""Segments and their ids against true instances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.metrics import label_iou

# Smaller instances are specks that no segmenter is asked for.
_MIN_AREA = 400
_SAME = 0.5


class TrackScorer:
    """Takes label images in time order: what was found (0: nothing), what is there (0: nothing).

    An instance of at least 400 pixels is found if a segment has an IoU of 0.5 with it; its id is
    then that segment's. Class-agnostic: segments beyond the instances do not count against it.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._iou: list[float] = []
        self._id: dict[int, int] = {}
        self._kept = self._switched = self._lost = 0
        self._segments: list[int] = []

    def add(self, found: NDArray[np.integer], true: NDArray[np.integer]) -> None:
        """The labels (H, W) of one more frame; raises ValueError if their shapes differ."""
        ids, compact = np.unique(found, return_inverse=True)
        names, instances = np.unique(true, return_inverse=True)
        # Position 0 is label 0, present or not.
        first, second = int(ids[0] != 0), int(names[0] != 0)
        overlap = label_iou(
            instances.reshape(true.shape) + second,
            compact.reshape(found.shape) + first,
            len(names) - 1 + second,
            len(ids) - 1 + first,
        )
        ids, names = ids[ids != 0], names[names != 0]
        self.frames += 1
        self._segments.append(len(ids))
        now: dict[int, int] = {}
        for row, name in enumerate(names.tolist()):
            if np.count_nonzero(true == name) < _MIN_AREA:
                continue
            best = int(overlap[row].argmax()) if len(ids) else -1
            iou = float(overlap[row, best]) if len(ids) else 0.0
            self._iou.append(iou)
            if iou >= _SAME:
                now[name] = int(ids[best])
                if name in self._id:
                    self._kept += self._id[name] == now[name]
                    self._switched += self._id[name] != now[name]
            elif name in self._id:
                self._lost += 1
        self._id = now

    def scores(self) -> dict[str, float]:
        """Means over instances and frames; ids by pairs of consecutive frames."""
        iou = np.array(self._iou)
        pairs = max(1, self._kept + self._switched + self._lost)
        return {
            "frames": self.frames,
            "instances": len(iou),
            "mean_iou": float(iou.mean()) if len(iou) else float("nan"),
            "recall@0.5": float((iou >= 0.5).mean()) if len(iou) else float("nan"),
            "recall@0.75": float((iou >= 0.75).mean()) if len(iou) else float("nan"),
            "ids_kept": self._kept / pairs,
            "ids_switched": self._switched / pairs,
            "ids_lost": self._lost / pairs,
            "segments_per_frame": float(np.mean(self._segments)) if self._segments else 0.0,
        }
