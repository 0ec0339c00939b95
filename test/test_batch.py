"""Many recordings: each done once, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from robot_perception.apps import batch_engines
from robot_perception.apps.batch import exit_code, run_batch
from robot_perception.pipeline.batch.one import Job, Outcome, process
from robot_perception.pipeline.settings import load_tasks
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording

ROOT = Path(__file__).resolve().parent.parent
QUIET = Console(quiet=True)
SMALL = ("forecast.beams=8", "forecast.columns=128")
TASKS = load_tasks(None, SMALL, ["forecast"])


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two drives, a copy of the first, and the second cut in the middle."""
    folder = tmp_path_factory.mktemp("drives")
    paths = [folder / f"{name}.mcap" for name in ("first", "second", "copy", "cut")]
    for seed in (0, 1):
        config = SimulatorConfig(
            seed=seed, duration_s=0.6, beams=8, columns=128, image_width=64, image_height=32
        )
        write_recording(config, paths[seed])
    shutil.copy(paths[0], paths[2])
    data = paths[1].read_bytes()
    paths[3].write_bytes(data[: len(data) * 2 // 3])
    return paths


class Here:
    """An engine in this process that can be told to give up; counts what it was given."""

    def __init__(self, most: int = 99) -> None:
        self.given = 0
        self._most = most

    def __call__(self, jobs: Sequence[Job], _: object) -> Generator[Outcome, None, None]:
        for job in jobs:
            if self.given == self._most:
                raise KeyboardInterrupt
            self.given += 1
            yield process(job)


def results(out: Path) -> dict[str, tuple[str, str]]:
    """By recording: its folder, and the sha256 of its results."""
    rows = json.loads((out / "report.json").read_text())["recordings"]
    return {row["name"]: (row["folder"], row["results_sha256"]) for row in rows}


def test_each_recording_is_done_once(drives: list[Path], tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    outcomes = run_batch(drives, TASKS, whole, False, QUIET, Here())
    assert [o.status for o in outcomes] == ["done", "done", "done", "damaged"]
    assert exit_code(outcomes) == 3
    assert outcomes[0].folder == outcomes[2].folder
    assert len([p for p in whole.iterdir() if p.is_dir()]) == 3

    with pytest.raises(KeyboardInterrupt):
        run_batch(drives, TASKS, resumed, False, QUIET, Here(2))
    assert not (resumed / "report.json").exists()
    engine = Here()
    run_batch(drives, TASKS, resumed, False, QUIET, engine)
    assert engine.given == 2
    assert results(resumed) == results(whole)

    # What is finished but in no manifest, as after a kill between the two, is taken as it is.
    stamps = {p: p.stat().st_mtime_ns for p in resumed.rglob("results.mcap")}
    (resumed / "manifest.json").unlink()
    run_batch(drives, TASKS, resumed, False, QUIET, Here())
    assert results(resumed) == results(whole)
    assert {p: p.stat().st_mtime_ns for p in resumed.rglob("results.mcap")} == stamps

    # Other parameters are other results.
    other = load_tasks(None, (*SMALL, "forecast.horizons=2"), ["forecast"])
    engine = Here()
    outcomes = run_batch(drives[:1], other, resumed, False, QUIET, engine)
    assert engine.given == 1 and outcomes[0].folder != results(whole)["first.mcap"][0]


def test_one_report_links_to_all(drives: list[Path], tmp_path: Path) -> None:
    recordings = [*drives, tmp_path / "nowhere.mcap"]
    outcomes = run_batch(recordings, TASKS, tmp_path / "out", False, QUIET, Here())
    assert exit_code(outcomes) == 1
    assert "no recording" in outcomes[4].error and not outcomes[4].again
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    total = document["total"]
    assert total["status"] == {"done": 3, "damaged": 1, "failed": 1} and total["copies"] == 1
    different = [document["recordings"][i] for i in (0, 1, 3)]
    received = sum(row["messages"]["received"] for row in different)
    assert total["received"] == total["processed"] + total["rejected"] == received > 0
    text = (tmp_path / "out" / "report.html").read_text()
    links = set(re.findall(r'(?:href|src)="([^"#]+)"', text))
    assert {row["report"] for row in different} <= links
    for link in links:
        assert (tmp_path / "out" / link).is_file(), link


def test_a_worker_that_dies_is_replaced(drives: list[Path], tmp_path: Path) -> None:
    flag = tmp_path / "died"
    # Dies of its first job, as one that ran out of memory; its successor works.
    script = f'[ -e {flag} ] && exec "$@"; read job; touch {flag}; kill -9 $$'
    command = ("sh", "-c", script, "worker", *batch_engines.WORKER)

    def engine(jobs: Sequence[Job], tell: batch_engines.Tell) -> Generator[Outcome, None, None]:
        return batch_engines.local(jobs, 1, 1, tell, command)

    recordings = [drives[0], drives[3], tmp_path / "nowhere.mcap"]
    outcomes = run_batch(recordings, TASKS, tmp_path / "out", False, QUIET, engine)
    found = [(o.status, o.attempts) for o in outcomes]
    assert found == [("done", 2), ("damaged", 1), ("failed", 1)]

    hopeless = ("sh", "-c", "read job; kill -9 $$")
    jobs = [Job(str(drives[0]), str(tmp_path), {}, "")]
    (lost,) = batch_engines.local(jobs, 2, 2, lambda *_: None, hopeless)
    assert (lost.status, lost.attempts) == ("failed", 3) and "signal 9" in lost.error


@pytest.mark.slow
def test_kill_9_and_resume(drives: list[Path], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recordings = drives[:2]
    run_batch(recordings, TASKS, whole, False, QUIET, Here())
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = [sys.executable, "-m", "robot_perception.apps.cli", "batch", *map(str, recordings)]
    command += ["--out", str(killed), "--tasks", "forecast", "--no-inputs", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        # In the middle of a recording.
        deadline = time.monotonic() + 120
        while not list(killed.glob(".aside/*")) and running.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.wait()
    run_batch(recordings, TASKS, killed, False, QUIET, Here())
    assert results(killed) == results(whole)
    assert not list(killed.glob(".aside/*"))


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same(drives: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    run_batch(drives, TASKS, tmp_path / "here", False, QUIET, Here())

    def engine(jobs: Sequence[Job], _: object) -> Generator[Outcome, None, None]:
        return batch_engines.cluster(jobs, "local", 1, 1.0, 0.0)

    run_batch(drives, TASKS, tmp_path / "cluster", False, QUIET, engine)
    assert results(tmp_path / "cluster") == results(tmp_path / "here")
