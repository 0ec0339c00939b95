"""The state of a node's inputs as `diagnostic_msgs`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from robot_perception.pipeline.health import Percentiles
from robot_perception.pipeline.inbox import Accounting


@dataclass(frozen=True)
class InputState:
    """What is known of one input: its counts, and how they stood at the last report."""

    name: str
    counts: Accounting
    before: Accounting
    silent_s: float | None
    reasons: dict[str, int]
    error: str


def input_status(node: str, state: InputState, stale_after_s: float) -> DiagnosticStatus:
    """OK; WARN on new drops or rejections; ERROR on a failure; STALE on silence."""
    level, message = DiagnosticStatus.OK, "OK"
    new_dropped = state.counts.dropped - state.before.dropped
    new_rejected = state.counts.rejected - state.before.rejected
    if state.silent_s is None:
        level, message = DiagnosticStatus.STALE, "nothing received yet"
    elif state.silent_s > stale_after_s:
        level, message = DiagnosticStatus.STALE, f"nothing received for {state.silent_s:.1f} s"
    elif state.error.startswith("failed"):
        level, message = DiagnosticStatus.ERROR, state.error
    elif new_rejected:
        level, message = DiagnosticStatus.WARN, state.error or f"{new_rejected} rejected"
    elif new_dropped:
        level, message = DiagnosticStatus.WARN, f"{new_dropped} dropped"
    values = {
        "received": state.counts.received,
        "processed": state.counts.processed,
        "dropped": state.counts.dropped,
        "rejected": state.counts.rejected,
        "pending": state.counts.pending,
        **state.reasons,
    }
    return _status(f"{node}: {state.name}", level, message, values)


def latency_status(
    node: str, timings: dict[str, Percentiles], values: dict[str, object]
) -> DiagnosticStatus:
    """Latency percentiles in milliseconds by step, and whatever else is worth knowing."""
    table = dict(values)
    for name, p in timings.items():
        table[f"{name} p50/p90/p99/max ms"] = f"{p.p50:.1f}/{p.p90:.1f}/{p.p99:.1f}/{p.max:.1f}"
    return _status(f"{node}: latency", DiagnosticStatus.OK, "OK", table)


def device_status(node: str, faults: dict[str, int], before: dict[str, int]) -> DiagnosticStatus:
    """OK; WARN when memory ran out or the device was lost since the last report."""
    new = [
        f"{what} ({n - before.get(what, 0)})"
        for what, n in faults.items()
        if n > before.get(what, 0)
    ]
    level = DiagnosticStatus.WARN if new else DiagnosticStatus.OK
    return _status(f"{node}: device", level, ", ".join(new) or "OK", faults)


def array(stamp: object, statuses: list[DiagnosticStatus]) -> DiagnosticArray:
    message = DiagnosticArray(status=statuses)
    message.header.stamp = stamp
    return message


def _status(
    name: str, level: bytes, message: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)
