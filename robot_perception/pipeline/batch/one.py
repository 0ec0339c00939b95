"""One recording of many: its results appear in a folder of their own, as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.files import replace_text, sync_folder
from robot_perception.core.types import Frame, Result
from robot_perception.core.weights import file_sha256
from robot_perception.pipeline import outputs
from robot_perception.pipeline.batch.keys import content, identity, tasks_of
from robot_perception.pipeline.replay import Replayed, replay
from robot_perception.pipeline.report import ReportBuilder, save_pictures, write_report
from robot_perception.pipeline.sinks import McapSink
from robot_perception.pipeline.sources import RecordingError, open_recording

RESULT, RESULTS, REPORT, ASIDE = "result.json", "results.mcap", "report.html", ".aside"
DONE, DAMAGED, FAILED = "done", "damaged", "failed"
Progress = Callable[[int, int | None], None]
"""Called with the messages stepped so far, and how many the recording has, if it tells."""


@dataclass(frozen=True)
class Job:
    """A recording to process, and how: what travels to the process that does it."""

    recording: str
    out: str
    tasks: Mapping[str, Mapping[str, Any]]
    configuration: str
    inputs: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of a recording. `key`: by content and configuration; "" where it has none.

    `folder` is relative to the batch's. `again`: another attempt may succeed."""

    recording: str
    status: str
    key: str = ""
    identity: str = ""
    folder: str = ""
    error: str = ""
    again: bool = False
    seconds: float = 0.0
    worker: str = ""
    attempts: int = 1
    summary: dict[str, Any] = field(default_factory=dict)


def process(job: Job, progress: Progress | None = None) -> Outcome:
    """Process a recording, unless results of the same content and configuration are there.

    Raises nothing that one recording can cause: that is an outcome.
    """
    start = time.monotonic()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    try:
        found = _processed(job, progress)
    except (RecordingError, WeightsRejected, InputRejected, ValueError) as error:
        found = Outcome(job.recording, FAILED, error=str(error) or type(error).__name__)
    except Exception as error:
        # A full disk, no memory, a bug: the others go on, and this one is tried again.
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        found = Outcome(job.recording, FAILED, error=text, again=True)
    timing = {"seconds": time.monotonic() - start, "worker": worker}
    return Outcome(**{**asdict(found), **timing})


def read_result(folder: Path) -> Outcome | None:
    """The outcome that a finished folder holds; None if it is no such folder."""
    try:
        document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return Outcome(**document)
    except (OSError, ValueError, TypeError):
        return None


def _processed(job: Job, progress: Progress | None) -> Outcome:
    path, out = Path(job.recording), Path(job.out)
    recording = open_recording(path)
    seen = identity(path)
    key = hashlib.sha256(f"{content(path)} {job.configuration}".encode()).hexdigest()
    # Not by name: of copies that two workers are at, one can be first only.
    folder = out / key[:16]
    earlier = read_result(folder)
    if earlier is None:
        (out / ASIDE).mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=folder.name + "-", dir=out / ASIDE))
        # mkdtemp's are for the owner alone.
        aside.chmod(0o755)
        try:
            tasks, builder = tasks_of(job.tasks), ReportBuilder()
            total = sum(t.count or 0 for t in recording.topics if t.name in _read(recording.roles))
            count = 0

            def observe(frame: Frame, results: list[Result]) -> None:
                nonlocal count
                builder.observe(frame, results)
                count += 1
                if progress:
                    progress(count, total or None)

            with McapSink(aside / RESULTS, outputs.latched(tasks)) as sink:
                replayed = replay(recording, tasks, sink, job.inputs, observe)
            write_report(aside / REPORT, path.name, replayed, builder, None, None)
            save_pictures(builder, aside)
            made = Outcome(
                job.recording,
                DAMAGED if replayed.damage else DONE,
                key,
                seen,
                folder.name,
                summary=_summary(replayed, builder, aside / RESULTS),
            )
            replace_text(aside / RESULT, json.dumps(asdict(made), indent=1))
            return _named(aside, folder, made)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    if earlier.key != key:
        raise FileExistsError(f"{folder} holds other results")
    # A copy of a recording has the results of the first.
    return Outcome(**{**asdict(earlier), "recording": job.recording, "identity": seen})


def _named(aside: Path, folder: Path, made: Outcome) -> Outcome:
    try:
        aside.rename(folder)
    except OSError:
        # Another worker was first, with the same recording: one of the two results stays.
        earlier = read_result(folder)
        if earlier is None or earlier.key != made.key:
            raise
        return Outcome(**{**asdict(earlier), "recording": made.recording})
    sync_folder(folder.parent)
    return made


def _read(roles: Mapping[str, str]) -> set[str]:
    return {roles[role] for role in ("image", "points") if role in roles}


def _summary(replayed: Replayed, builder: ReportBuilder, mcap: Path) -> dict[str, Any]:
    whole = replayed.summary()
    whole["replay_s"] = whole.pop("duration_s")
    whole["results_sha256"] = file_sha256(mcap)
    first, last = builder.first_ns or 0, builder.last_ns or 0
    whole["recorded_s"] = (last - first) * 1e-9
    whole["start_ns"] = first
    whole["keyframes"] = len(builder.decisions)
    whole["revisits"] = sum(d.match_id is not None for d in builder.decisions)
    finite = [s for s in replayed.scores if math.isfinite(s.forecast_m2 + s.repeat_m2)]
    whole["scored"] = len(finite)
    for name in ("forecast_m2", "repeat_m2"):
        values = [getattr(s, name) for s in finite]
        whole[name] = sum(values) / len(values) if values else None
    return whole
