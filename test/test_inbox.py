"""The bounded queue: drop-oldest, exact accounting at every instant, under threads too."""

from __future__ import annotations

import threading

import pytest

from robot_perception.pipeline.inbox import Accounting, Inbox


def test_the_oldest_goes_and_is_counted() -> None:
    inbox: Inbox[int] = Inbox(2)
    for item in range(5):
        inbox.put(item)
    assert inbox.accounting() == Accounting(5, 0, 3, 0, 2)
    assert inbox.get(0.0) == 3
    assert inbox.reasons() == {"dropped: overload": 3}


def test_every_end_of_an_item_keeps_the_sum() -> None:
    inbox: Inbox[int] = Inbox(10)
    for item in range(4):
        inbox.put(item)
    for end in (inbox.done, lambda: inbox.reject("bad"), lambda: inbox.drop("late")):
        assert inbox.get(0.0) is not None
        assert inbox.accounting().exact
        end()
        assert inbox.accounting().exact
    inbox.close()
    inbox.put(9)
    assert inbox.accounting() == Accounting(5, 1, 3, 1, 0)
    assert inbox.get(0.0) is None


def test_an_abandoned_consumer_holds_back_the_next() -> None:
    inbox: Inbox[int] = Inbox(2)
    inbox.put(1)
    inbox.put(2)
    assert inbox.get(0.0) == 1
    assert inbox.get(0.01) is None
    inbox.done()
    assert inbox.get(0.0) == 2


def test_an_end_without_work_is_a_mistake() -> None:
    with pytest.raises(RuntimeError):
        Inbox[int](1).done()


def test_reasons_are_bounded() -> None:
    inbox: Inbox[int] = Inbox(1)
    for number in range(500):
        inbox.skip(f"reason {number}")
    reasons = inbox.reasons()
    assert len(reasons) <= 101
    assert sum(reasons.values()) == 500


def test_accounting_is_exact_under_load() -> None:
    inbox: Inbox[int] = Inbox(3)
    stop = threading.Event()
    broken: list[Accounting] = []

    def consume() -> None:
        while not stop.is_set():
            item = inbox.get(0.01)
            if item is not None:
                inbox.reject("odd") if item % 2 else inbox.done()

    def watch() -> None:
        while not stop.is_set():
            counts = inbox.accounting()
            if not counts.exact:
                broken.append(counts)

    threads = [threading.Thread(target=consume), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    for item in range(5000):
        inbox.put(item)
    stop.set()
    for thread in threads:
        thread.join()
    assert not broken
    assert inbox.accounting().received == 5000
    assert inbox.accounting().exact
