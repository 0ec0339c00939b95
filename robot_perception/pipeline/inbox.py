"""The bounded queue in front of a stage, and the exact accounting of what became of every message.

received = processed + dropped + rejected + pending holds at every instant: each change of state is
one step under one lock, and the item in work counts as pending.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Accounting:
    """What became of the messages of one input so far."""

    received: int
    processed: int
    dropped: int
    rejected: int
    pending: int

    @property
    def exact(self) -> bool:
        return self.received == self.processed + self.dropped + self.rejected + self.pending


class Inbox(Generic[T]):
    """FIFO of at most `size` items for one consumer; when full, the oldest goes and is counted.

    The consumer calls `get`, then exactly one of `done`, `reject` or `drop` for the item in work.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError("an inbox holds at least one item")
        self._items: deque[T] = deque()
        self._size = size
        self._condition = threading.Condition()
        self._in_work = False
        self._closed = False
        self._received = self._processed = self._dropped = self._rejected = 0
        self._reasons: Counter[str] = Counter()

    def put(self, item: T) -> None:
        """Add `item`; drop the oldest waiting one if there is no room."""
        with self._condition:
            self._received += 1
            if self._closed:
                self._count_drop("stopped")
                return
            if len(self._items) >= self._size:
                self._items.popleft()
                self._count_drop("overload")
            self._items.append(item)
            self._condition.notify()

    def skip(self, reason: str) -> None:
        """Count a message that is received and dropped without ever waiting."""
        with self._condition:
            self._received += 1
            self._count_drop(reason)

    def get(self, timeout_s: float) -> T | None:
        """The oldest item, now in work; None after `timeout_s` or when closed.

        Waits for the item in work too: a consumer that was given up may still be at it.
        """

        def ready() -> bool:
            return self._closed or (bool(self._items) and not self._in_work)

        with self._condition:
            if not self._condition.wait_for(ready, timeout_s) or self._closed:
                return None
            self._in_work = True
            return self._items.popleft()

    def done(self) -> None:
        """The item in work was processed."""
        with self._condition:
            self._finish()
            self._processed += 1

    def reject(self, reason: str) -> None:
        """The item in work could not be used."""
        with self._condition:
            self._finish()
            self._rejected += 1
            self._count_reason(f"rejected: {reason}")

    def drop(self, reason: str) -> None:
        """The item in work was given up."""
        with self._condition:
            self._finish()
            self._count_drop(reason)

    def clear(self, reason: str) -> None:
        """Drop all that waits."""
        with self._condition:
            while self._items:
                self._items.popleft()
                self._count_drop(reason)

    def close(self) -> None:
        """Drop all that waits and let the consumer go; what comes later is counted as dropped."""
        self.clear("stopped")
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def open(self) -> None:
        """Take items again after `close`; the counts go on."""
        with self._condition:
            self._closed = False

    def accounting(self) -> Accounting:
        with self._condition:
            pending = len(self._items) + int(self._in_work)
            return Accounting(
                self._received, self._processed, self._dropped, self._rejected, pending
            )

    def reasons(self) -> dict[str, int]:
        """How often each reason for a drop or a rejection occurred."""
        with self._condition:
            return dict(self._reasons)

    def _finish(self) -> None:
        if not self._in_work:
            raise RuntimeError("no item is in work")
        self._in_work = False
        self._condition.notify_all()

    def _count_drop(self, reason: str) -> None:
        self._dropped += 1
        self._count_reason(f"dropped: {reason}")

    def _count_reason(self, key: str) -> None:
        # Reasons come from decoders and may carry numbers: bound how many are told apart.
        self._reasons[key if key in self._reasons or len(self._reasons) < 100 else "other"] += 1
