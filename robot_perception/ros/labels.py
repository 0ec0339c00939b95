"""Label images of the segmentation node, waiting for the image of the same stamp."""

from __future__ import annotations

import threading
from collections import OrderedDict

from robot_perception.core.types import U16

_KEPT = 10


class LabelsBuffer:
    """The latest label images by stamp. Thread-safe."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._labels: OrderedDict[int, U16] = OrderedDict()

    def add(self, stamp_ns: int, labels: U16) -> None:
        with self._condition:
            self._labels[stamp_ns] = labels
            self._labels.move_to_end(stamp_ns)
            while len(self._labels) > _KEPT:
                self._labels.popitem(last=False)
            self._condition.notify_all()

    def wait_for(self, stamp_ns: int, timeout_s: float) -> U16 | None:
        """The labels of that stamp, or None: the next ones have come, or the time is over."""

        def decided() -> bool:
            newest = next(reversed(self._labels), None)
            return stamp_ns in self._labels or (newest is not None and newest > stamp_ns)

        with self._condition:
            self._condition.wait_for(decided, timeout_s)
            return self._labels.get(stamp_ns)
