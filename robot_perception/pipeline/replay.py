"""A recording through the pipeline, offline: nothing is dropped, everything is counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import Forecast, Frame, ImageFrame, Result, Scan
from robot_perception.pipeline import outputs
from robot_perception.pipeline.health import Percentiles
from robot_perception.pipeline.inbox import Accounting
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.perception import Pipeline, Tasks
from robot_perception.pipeline.scoring import ForecastScorer, Score
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import Recording
from robot_perception.wire import encode_frame


@dataclass(frozen=True)
class Replayed:
    """What became of a recording: exact counts by input, results by topic, milliseconds by step."""

    accounting: dict[str, Accounting]
    reasons: dict[str, int]
    results: dict[str, int]
    latency_ms: dict[str, Percentiles]
    latency_series_ms: dict[str, list[float]]
    scores: list[Score]
    backends: dict[str, object]
    damage: tuple[str, ...]
    duration_s: float

    def summary(self) -> dict[str, Any]:
        """What is worth keeping of it, as JSON takes it."""
        return {
            "accounting": {role: asdict(a) for role, a in self.accounting.items()},
            "reasons": self.reasons,
            "results": self.results,
            "latency_ms": {name: asdict(p) for name, p in self.latency_ms.items()},
            "backends": self.backends,
            "damage": list(self.damage),
            "duration_s": self.duration_s,
        }


@dataclass
class _Counts:
    received: int = 0
    processed: int = 0
    rejected: int = 0


def replay(
    recording: Recording,
    tasks: Tasks,
    sink: McapSink | None = None,
    with_inputs: bool = True,
    observe: Callable[[Frame, list[Result]], None] | None = None,
) -> Replayed:
    """Step every frame of `recording` through the pipeline of `tasks`; write to `sink`.

    `observe` is called with each image and scan and its results. Raises what the pipeline's set-up
    raises (WeightsRejected, ValueError), RecordingError and SinkError.
    """
    pipeline = Pipeline(tasks)
    pipeline.warm_up()
    scorer = None
    if tasks.forecast:
        scorer = ForecastScorer(tasks.forecast.min_range_m, tasks.forecast.max_range_m)
    counts: dict[str, _Counts] = {}
    reasons: Counter[str] = Counter()
    results_by_task: Counter[str] = Counter()
    start = time.perf_counter()
    for item in recording.frames():
        count = counts.setdefault(item.topic, _Counts())
        count.received += 1
        if item.frame is None:
            count.rejected += 1
            reasons[f"{item.topic}: {item.rejected}"] += 1
            continue
        try:
            results = pipeline.step(item.frame)
        except InputRejected as error:
            count.rejected += 1
            reasons[f"{item.topic}: {error.reason}"] += 1
            continue
        count.processed += 1
        results_by_task.update(outputs.task_of(result) for result in results)
        if sink:
            _write(sink, item.topic, item.frame, results, with_inputs, pipeline)
        if scorer and isinstance(item.frame, Scan):
            scorer.add_scan(item.frame)
            for result in results:
                if isinstance(result, Forecast):
                    scorer.add_forecast(result)
        if observe and isinstance(item.frame, ImageFrame | Scan):
            observe(item.frame, results)
    return Replayed(
        accounting={
            role: Accounting(c.received, c.processed, 0, c.rejected, 0)
            for role, c in counts.items()
        },
        reasons=dict(reasons),
        results=dict(results_by_task),
        latency_ms=pipeline.stopwatch.percentiles(),
        latency_series_ms=pipeline.stopwatch.series(),
        scores=scorer.scores if scorer else [],
        backends=pipeline.describe(),
        damage=tuple(recording.damage),
        duration_s=time.perf_counter() - start,
    )


def _write(
    sink: McapSink,
    role: str,
    frame: Frame,
    results: list[Result],
    with_inputs: bool,
    pipeline: Pipeline,
) -> None:
    if with_inputs:
        type_name, message = encode_frame(rosbags_factory, frame)
        sink.write(f"/{role}", type_name, message, frame.stamp_ns)
    table = outputs.topics(pipeline.tasks)
    for result in results:
        task = outputs.task_of(result)
        types = {topic.name: topic.type for topic in table[task] if topic.recorded}
        with pipeline.stopwatch.time(f"encode {task}"):
            built = {
                name: build(rosbags_factory)
                for name, build in outputs.messages(result, frame).items()
                if name in types
            }
        for name, message in built.items():
            sink.write(f"/{task}/{name}", types[name], message, frame.stamp_ns)
