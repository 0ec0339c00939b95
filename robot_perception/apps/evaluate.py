"""`evaluate`: scores as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.evaluate import evaluate
from robot_perception.core.types import Odometry, Scan
from robot_perception.pipeline.perception import Tasks
from robot_perception.pipeline.sources import open_recording


def evaluate_forecast(
    path: Path, tasks: Tasks, stride: int, json_file: Path | None, console: Console
) -> int:
    """Print the scores of `path`, and write them to `json_file`; 3 if the recording is damaged."""
    assert tasks.forecast is not None
    recording = open_recording(path)
    if "points" not in recording.roles:
        raise InputRejected(f"{path} has no point clouds")
    with Progress(console=console) as progress:
        task = progress.add_task("evaluate", total=None)

        def frames() -> Iterator[Scan | Odometry]:
            for item in recording.frames():
                if isinstance(item.frame, Scan | Odometry):
                    progress.advance(task)
                    yield item.frame

        methods = evaluate(frames(), tasks.forecast, stride)
    if not methods:
        raise InputRejected(f"{path} is too short to score a forecast")
    table = Table(title="Chamfer distance by horizon, m^2")
    horizons = [
        f"{tasks.forecast.period_s * (h + 1):.1f} s" for h in range(tasks.forecast.horizons)
    ]
    for column in ("method", *horizons, "mean", "95 %", "range L1 m", "ms"):
        table.add_column(column)
    for name, m in methods.items():
        chamfer = [f"{value:.3f}" for value in m["chamfer_m2"]]
        interval = f"{m['ci95'][0]:.3f} to {m['ci95'][1]:.3f}"
        mean, l1 = f"{m['chamfer_mean_m2']:.3f}", f"{m['range_l1_mean_m']:.3f}"
        table.add_row(name, *chamfer, mean, interval, l1, f"{m['ms']:.0f}")
    console.print(table)
    if json_file:
        document = {
            "recording": str(path),
            "range_filter_m": [tasks.forecast.min_range_m, tasks.forecast.max_range_m],
            "methods": methods,
        }
        json_file.write_text(json.dumps(document, indent=1))
    return 3 if recording.damage else 0
