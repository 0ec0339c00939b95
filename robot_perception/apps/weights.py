"""`weights`: the registered checkpoints: which there are, fetching and verifying them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table

from robot_perception.core import weights
from robot_perception.core.errors import WeightsRejected

app = typer.Typer(no_args_is_help=True, help="Official checkpoints: list, fetch, verify.")
_console = Console(stderr=True)

Names = Annotated[list[str] | None, typer.Argument(help="registered names")]


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="print as JSON")] = False) -> None:
    """The registered checkpoints, and which of them are on this machine."""
    entries = weights.manifest().values()
    if as_json:
        print(json.dumps([{**asdict(e), "present": e.path.is_file()} for e in entries]))
        return
    table = Table("name", "parameter", "MB", "licence", "sha256 known", "here")
    for e in entries:
        size = f"{e.size / 1e6:.0f}" if e.size else "?"
        yes_no = ["yes" if is_so else "no" for is_so in (e.sha256 is not None, e.path.is_file())]
        table.add_row(e.name, f"{e.kind}: {e.model}", size, e.licence, *yes_no)
    Console().print(table)


@app.command()
def fetch(names: Annotated[list[str], typer.Argument(help="registered names")]) -> None:
    """Download checkpoints; one that was interrupted goes on where it stopped."""
    with Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=_console
    ) as progress:
        for name in names:
            task = progress.add_task(name, total=None)
            path = weights.fetch(name, partial(_show, progress, task))
            _console.print(f"{name}: {path}", highlight=False)


def _show(progress: Progress, task: TaskID, done: int, total: int | None) -> None:
    progress.update(task, completed=done, total=total)


@app.command()
def verify(names: Names = None) -> None:
    """Compare checkpoints with what is known of them; without names, all that are here."""
    chosen = names or [e.name for e in weights.manifest().values() if e.path.is_file()]
    bad = 0
    for name in chosen:
        try:
            known = weights.verify(name)
        except WeightsRejected as error:
            bad += 1
            _console.print(f"{name}: [red]{error}[/red]", highlight=False)
        else:
            said = "sha256 is right" if known else "is there; its sha256 is not known"
            _console.print(f"{name}: {said}", highlight=False)
    if not chosen:
        _console.print(f"no registered checkpoint is in {weights.cache_folder()}", highlight=False)
    raise typer.Exit(2 if bad else 0)
