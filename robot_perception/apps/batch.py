"""`batch`: many recordings, on one machine or on many, with one report over all."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from robot_perception.apps.batch_engines import Tell
from robot_perception.pipeline.batch.keys import configuration, identity, settings
from robot_perception.pipeline.batch.manifest import Manifest, alone
from robot_perception.pipeline.batch.one import DAMAGED, FAILED, Job, Outcome
from robot_perception.pipeline.batch.report import write_batch_report
from robot_perception.pipeline.perception import Tasks

_SAVE_PERIOD_S = 2.0
Engine = Callable[[Sequence[Job], Tell], Generator[Outcome, None, None]]


def run_batch(
    recordings: Sequence[Path],
    tasks: Tasks,
    out: Path,
    inputs: bool,
    console: Console,
    engine: Engine,
) -> list[Outcome]:
    """Process what has not been processed yet; the outcomes of all, in the order of `recordings`.

    At any moment it may be killed and begun again. Raises ValueError where another batch writes to
    `out`, and OSError.
    """
    names = list(dict.fromkeys(str(path.resolve()) for path in recordings))
    chosen = configuration(tasks, inputs)
    with alone(out):
        manifest = Manifest(out, chosen)
        outcomes: dict[str, Outcome] = {}
        jobs: list[Job] = []
        for name in names:
            earlier = manifest.finished(name, _identity(name))
            if earlier is not None:
                outcomes[name] = earlier
            else:
                jobs.append(Job(name, str(out.resolve()), settings(tasks), chosen, inputs))
        if outcomes:
            console.print(f"{len(outcomes)} of {len(names)} are done already")
        saved = time.monotonic()
        try:
            for outcome in _watched(jobs, engine, console):
                outcomes[outcome.recording] = outcome
                manifest.put(outcome)
                if time.monotonic() - saved > _SAVE_PERIOD_S:
                    manifest.save()
                    saved = time.monotonic()
        finally:
            manifest.save()
        ordered = [outcomes[name] for name in names]
        write_batch_report(out, ordered)
    return ordered


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0, 1 if one failed, else 3 if one was damaged."""
    states = {outcome.status for outcome in outcomes}
    return 1 if FAILED in states else 3 if DAMAGED in states else 0


def _identity(name: str) -> str:
    try:
        return identity(Path(name))
    except OSError:
        return ""


def _watched(jobs: Sequence[Job], engine: Engine, console: Console) -> Iterator[Outcome]:
    """The outcomes, with a bar for all recordings and one for each that is being worked on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        whole = progress.add_task("recordings", total=len(jobs))
        bars = {}

        def tell(recording: str, done: int, total: int | None) -> None:
            if recording not in bars:
                bars[recording] = progress.add_task(f"  {Path(recording).name}", total=total)
            progress.update(bars[recording], completed=done, total=total)

        with closing(engine(jobs, tell)) as outcomes:
            for outcome in outcomes:
                if outcome.recording in bars:
                    progress.remove_task(bars.pop(outcome.recording))
                progress.advance(whole)
                if outcome.status == FAILED:
                    console.print(
                        f"[red]failed[/red] {outcome.recording}: {outcome.error}", highlight=False
                    )
                yield outcome
