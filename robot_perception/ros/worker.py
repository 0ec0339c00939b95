"""One thread that takes messages out of an inbox and never dies of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robot_perception.core.errors import InputRejected
from robot_perception.pipeline.inbox import Inbox


@dataclass(frozen=True)
class Received:
    """A message, serialised or not, and the monotonic second at which it came."""

    message: Any
    at: float


class Skipped(Exception):
    """Raised by a handler that gives a message up; the text is the counted reason."""


class Worker:
    """Calls `handle` for each message of `inbox`, in order, in its own thread.

    Whatever a handler raises ends that message only: InputRejected counts it as rejected, all else
    as dropped. `on_error(reason)` hears of everything but Skipped.
    """

    def __init__(
        self,
        inbox: Inbox[Received],
        handle: Callable[[Received], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._inbox = inbox
        self._handle = handle
        self._on_error = on_error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask_to_end(self) -> None:
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; False if it is still in a long computation after `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            received = self._inbox.get(timeout_s=0.1)
            if received is not None:
                work(self._inbox, received, self._handle, self._on_error)


def work(
    inbox: Inbox[Received],
    received: Received,
    handle: Callable[[Received], None],
    on_error: Callable[[str], None],
) -> None:
    """Handle the item in work and account for how it ended."""
    try:
        handle(received)
    except InputRejected as error:
        inbox.reject(error.reason)
        on_error(f"rejected: {error.reason}")
    except Skipped as reason:
        inbox.drop(str(reason))
    except Exception as error:
        # A node outlives any single frame: report it, count it, go on.
        inbox.drop(f"{type(error).__name__}")
        on_error(f"failed: {type(error).__name__}: {error}")
    else:
        inbox.done()


def now() -> float:
    return time.monotonic()
