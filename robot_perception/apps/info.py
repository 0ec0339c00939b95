"""`robot-perception info`: what is in a recording."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from robot_perception.pipeline.recording_info import RecordingInfo, describe
from robot_perception.pipeline.sources import RecordingError, open_recording

WHOLE, UNREADABLE, DAMAGED = 0, 2, 3


def print_info(path: Path, as_json: bool) -> int:
    """Print what is in the recording; 0: whole, 3: damaged but read, 2: cannot be read.

    Messages that cannot be decoded are counted in the table and leave the recording whole.
    """
    errors = Console(stderr=True)
    try:
        info = _described(path, errors)
    except (RecordingError, OSError) as error:
        if as_json:
            print(json.dumps({"path": str(path), "error": str(error)}))
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        return UNREADABLE
    if as_json:
        print(json.dumps(info.to_dict()))
    else:
        # Into a file or a pipe without folding the table.
        console = Console() if sys.stdout.isatty() else Console(width=160)
        console.print(escape(_summary(info)), highlight=False, soft_wrap=True)
        console.print(render(info))
        for topic in info.topics:
            for reason, count in topic.reasons.items():
                line = f"{topic.name}: {count} rejected: {reason}"
                console.print(escape(line), style="yellow", highlight=False, soft_wrap=True)
        for line in info.damage:
            console.print(escape(f"damaged: {line}"), style="red", soft_wrap=True)
    return DAMAGED if info.damage else WHOLE


def render(info: RecordingInfo) -> Table:
    """The topics as a table."""
    table = Table()
    for column in ("topic", "type", "read as"):
        table.add_column(column, overflow="fold")
    for column in ("count", "rejected", "rate Hz", "largest gap s", "delay ms"):
        table.add_column(column, justify="right")
    for topic in info.topics:
        table.add_row(
            escape(topic.name),
            escape(topic.type.replace("/msg/", "/")),
            topic.role or "",
            str(topic.count),
            str(topic.rejected),
            _number(topic.rate_hz, 2),
            _number(topic.largest_gap_s, 3),
            _number(None if topic.delay_s is None else topic.delay_s * 1e3, 1),
            style="yellow" if topic.rejected else None,
        )
    return table


def _described(path: Path, errors: Console) -> RecordingInfo:
    columns = (TextColumn("read"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    quiet = not sys.stderr.isatty()
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("read", total=None)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        return describe(open_recording(path), advance)


def _summary(info: RecordingInfo) -> str:
    begin = ""
    if info.first_ns is not None:
        try:
            start = datetime.fromtimestamp(info.first_ns * 1e-9, timezone.utc)
            begin = f", from {start:%Y-%m-%d %H:%M:%S} UTC"
        except (OverflowError, ValueError, OSError):
            begin = f", from {info.first_ns} ns"
    size = f"{info.size_bytes / 1e6:.1f} MB"
    return f"{info.path}: {info.kind}, {size}, {info.duration_s:.3f} s{begin}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
