"""The main job: a recording through the pipeline, through live nodes, compared, and shown."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from robot_perception.core.types import Frame, ImageFrame, Result, Scan
from robot_perception.pipeline import outputs, rerun_view
from robot_perception.pipeline.parity import Parity, compare
from robot_perception.pipeline.perception import TASKS, Tasks
from robot_perception.pipeline.replay import Replayed, replay
from robot_perception.pipeline.report import ReportBuilder, save_pictures, write_report
from robot_perception.pipeline.settings import load_tasks
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import Recording, open_recording

_LIVE_TIMEOUT_S = 3600.0
_RESULTS = tuple(f"/{task}/" for task in TASKS)


def run_demo(recording: Path | None, out: Path, live: bool, console: Console) -> int:
    """Simulate (if no recording is named), replay, replay live, compare, report; 0 if all agree."""
    start = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    if recording is None:
        recording = out / "drive.mcap"
        if recording.exists():
            console.print(f"the simulated drive is there: {recording}")
        else:
            simulate_recording(recording, 0, 30.0, console)
    with_ros = importlib.util.find_spec("rclpy") is not None
    if live and not with_ros:
        console.print("[yellow]rclpy is not installed: offline only[/yellow]")
    mcap = out / "replay.mcap"
    builder = ReportBuilder()
    replayed = _replay(recording, load_tasks(), mcap, True, builder.observe, console)
    seen: dict[str, Any] | None = None
    parity: Parity | None = None
    if live and with_ros:
        live_mcap = out / "live.mcap"
        seen = _run_live(recording, live_mcap, console)
        parity = compare(mcap, live_mcap, _RESULTS)
        console.print(_parity_table(parity))
        if parity.identical:
            # Bit by bit what the replay's file holds already.
            live_mcap.unlink()
    report = out / "report.html"
    write_report(
        report,
        recording.name,
        replayed,
        builder,
        parity.to_dict() if parity else None,
        seen,
    )
    save_pictures(builder, out)
    summary = {**replayed.summary(), "live": seen, "parity": parity.to_dict() if parity else None}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    console.print(f"done in {time.monotonic() - start:.0f} s")
    console.print(f"results: {mcap}\nreport:  {report}", highlight=False)
    return 0 if parity is None or parity.identical else 1


def replay_with_report(
    path: Path,
    tasks: Tasks,
    out: Path,
    with_inputs: bool,
    viewer: str | None,
    console: Console,
) -> tuple[Replayed, Path]:
    """Replay into the MCAP `out` with a report beside it; what happened, and the report's path.

    viewer: "rerun" or a file NAME.rrd shows the replay in the rerun viewer while it runs.
    """
    builder = ReportBuilder()
    with ExitStack() as stack:
        view = stack.enter_context(rerun_view.open_view(viewer)) if viewer else None

        def observe(frame: Frame, results: list[Result]) -> None:
            builder.observe(frame, results)
            if view:
                rerun_view.show(view, frame, results)

        replayed = _replay(path, tasks, out, with_inputs, observe, console)
        if view:
            rerun_view.show_scores(view, replayed.scores)
    report = out.with_suffix(".html")
    write_report(report, path.name, replayed, builder, None, None)
    return replayed, report


def simulate_recording(out: Path, seed: int, duration_s: float, console: Console) -> None:
    """Write a simulated drive, with a progress bar."""
    from robot_perception.pipeline.simulator import SimulatorConfig, write_recording

    with _progress(console) as progress:
        task = progress.add_task("simulate", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        write_recording(SimulatorConfig(seed=seed, duration_s=duration_s), out, advance)


def _replay(
    path: Path,
    tasks: Tasks,
    out: Path,
    with_inputs: bool,
    look_on: Callable[[Frame, list[Result]], None],
    console: Console,
) -> Replayed:
    recording = open_recording(path)
    with _progress(console) as progress, McapSink(out, outputs.latched(tasks)) as sink:
        task = progress.add_task("replay", total=_frames_in(recording))

        def observe(frame: Frame, results: list[Result]) -> None:
            look_on(frame, results)
            if isinstance(frame, ImageFrame | Scan):
                progress.advance(task)

        return replay(recording, tasks, sink, with_inputs, observe)


def _frames_in(recording: Recording) -> int | None:
    """Images and scans the recording says it has; None if it does not tell."""
    counts = [
        topic.count
        for role in ("image", "points")
        for topic in recording.topics
        if topic.name == recording.roles.get(role)
    ]
    return None if None in counts else sum(c for c in counts if c is not None)


def _run_live(recording: Path, out: Path, console: Console) -> dict[str, Any]:
    """Replay through live nodes in processes of their own, on a domain of its own."""
    environment = dict(os.environ)
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    environment.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    profile = Path(__file__).resolve().parents[2] / "config" / "fastdds.xml"
    if profile.is_file():
        environment.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))
    command = [sys.executable, "-m", "robot_perception.ros.live", str(recording), "--out", str(out)]
    with console.status("the same through live ROS 2 nodes, one process each"):
        live = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            printed, _ = live.communicate(timeout=_LIVE_TIMEOUT_S)
        finally:
            # Not SIGKILL: it has nodes to end itself.
            live.terminate()
            live.wait()
    if live.returncode != 0:
        raise RuntimeError(f"the live replay ended with {live.returncode}")
    summary: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return summary


def _parity_table(parity: Parity) -> Table:
    table = Table(title="offline pipeline and live nodes, message by message")
    for column in ("topic", "compared", "identical", "offline only", "live only"):
        table.add_column(column, justify="left" if column == "topic" else "right")
    for name, topic in parity.topics.items():
        numbers = (topic.compared, topic.identical, topic.only_a, topic.only_b)
        table.add_row(name, *(str(n) for n in numbers), style=None if topic.same else "red")
    return table


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
