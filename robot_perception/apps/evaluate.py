"""`evaluate`: scores as a table and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.evaluate import evaluate
from robot_perception.core.forecast.methods import GEOMETRY, NETWORKS
from robot_perception.core.segmentation.evaluate import TrackScorer
from robot_perception.core.types import ImageFrame, Odometry, Scan, Segmentation
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.pipeline.sources import open_recording
from robot_perception.pipeline.sources.bag import BagRecording


def evaluate_forecast(
    path: Path,
    tasks: Tasks,
    stride: int,
    methods: list[str] | None,
    json_file: Path | None,
    console: Console,
) -> int:
    """Print the scores of `path`, and write them to `json_file`; 3 if the recording is damaged."""
    assert tasks.forecast is not None
    known = {*GEOMETRY, *NETWORKS}
    for name in methods or ():
        if name.split("=", 1)[0] not in known:
            raise ValueError(f"no method is called {name}; there are {', '.join(sorted(known))}")
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

        named = dict((m.split("=", 1) + [""])[:2] for m in methods) if methods else None
        scores = evaluate(frames(), tasks.forecast, stride, named)
    if not scores:
        raise InputRejected(f"{path} is too short to score a forecast")
    console.print(_summary(scores), _by_horizon(scores, tasks.forecast))
    if json_file:
        document = {
            "recording": str(path),
            "range_filter_m": [tasks.forecast.min_range_m, tasks.forecast.max_range_m],
            "methods": scores,
        }
        json_file.write_text(json.dumps(document, indent=1))
    return 3 if recording.damage else 0


def evaluate_segments(
    path: Path, tasks: Tasks, truth: str, json_file: Path | None, console: Console
) -> int:
    """Print the scores of segments and ids in `path`; 3 if the recording is damaged."""
    assert tasks.segmentation is not None
    recording = open_recording(path)
    if not isinstance(recording, BagRecording) or "image" not in recording.roles:
        raise InputRejected(f"{path} is no recording with images and true instances")
    instances = recording.label_images(truth)
    pipeline = Pipeline(Tasks(segmentation=tasks.segmentation))
    scorer = TrackScorer()
    spent: list[float] = []
    stamp, true = next(instances, (-1, None))
    frames = recording.frames({"image": recording.roles["image"]})
    with Progress(console=console) as progress:
        task = progress.add_task("evaluate", total=None)
        for item in frames:
            if not isinstance(item.frame, ImageFrame):
                continue
            while true is not None and stamp < item.frame.stamp_ns:
                stamp, true = next(instances, (-1, None))
            start = time.perf_counter()
            try:
                results = pipeline.step(item.frame)
            except InputRejected:
                continue  # as in a replay, it costs the frame only
            spent.append((time.perf_counter() - start) * 1e3)
            progress.advance(task)
            if true is None or stamp != item.frame.stamp_ns:
                continue
            for result in results:
                if isinstance(result, Segmentation):
                    scorer.add(result.labels, true)
    if not scorer.frames:
        raise InputRejected(f"no image of {path} has true instances on {truth}")
    backend = str(pipeline.describe()["segmentation"])
    scores = {**scorer.scores(), "ms": float(np.median(spent))}
    for name, value in scores.items():
        console.print(f"{name}: {value:.4g}", highlight=False)
    if json_file:
        document = {"recording": str(path), "methods": {backend: scores}}
        json_file.write_text(json.dumps(document, indent=1))
    return 3 if recording.damage else 0


def _summary(scores: dict[str, Any]) -> Table:
    table = Table(title="Chamfer distance, m^2, mean over horizons")
    for column in ("method", "mean", "95 %", "moving", "range L1 m", "GMAC", "ms"):
        table.add_column(column)
    for name, m in scores.items():
        dynamic = m["chamfer_dynamic_m2"]
        table.add_row(
            name,
            f"{m['chamfer_mean_m2']:.3f}",
            f"{m['ci95'][0]:.3f}..{m['ci95'][1]:.3f}",
            "" if dynamic is None else f"{dynamic:.3f}",
            f"{m['range_l1_mean_m']:.3f}",
            f"{m['gmac']:.1f}",
            f"{m['ms']:.0f}",
        )
    return table


def _by_horizon(scores: dict[str, Any], config: ForecastConfig) -> Table:
    table = Table(title="Chamfer distance by horizon, m^2")
    table.add_column("method")
    for h in range(config.horizons):
        table.add_column(f"{config.period_s * (h + 1):.1f} s")
    for name, m in scores.items():
        table.add_row(name, *(f"{value:.3f}" for value in m["chamfer_m2"]))
    return table
