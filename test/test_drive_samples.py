"""Samples of simulated drives, made by several processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# The processes read this as well, so that small drives are theirs too.
MAKE = """
import sys
from pathlib import Path
from rich.console import Console
from robot_perception.apps import drive_samples
from robot_perception.core.config import ForecastConfig
from robot_perception.pipeline.simulator.config import SimulatorConfig
drive_samples.varied = lambda seed: SimulatorConfig(seed=seed, beams=8, columns=256, cars=2)
drive_samples._SCANS = int(sys.argv[3])
if __name__ == "__main__":
    out, config, quiet = Path(sys.argv[1]), ForecastConfig(columns=256), Console(quiet=True)
    drive_samples.samples_of_drives([0, 1, 2], out, config, int(sys.argv[2]), quiet)
"""


@pytest.fixture()
def script(tmp_path: Path) -> Path:
    path = tmp_path / "make.py"
    path.write_text(MAKE)
    return path


def _command(script: Path, out: Path, workers: int, scans: int) -> list[str]:
    out.mkdir(exist_ok=True)
    return [sys.executable, str(script), str(out), str(workers), str(scans)]


def test_files_are_the_same_whoever_makes_them(script: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for out, workers in ((one, 1), (two, 2)):
        subprocess.run(_command(script, out, workers, 21), check=True, timeout=300)
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    assert len([n for n in names if n.endswith(".npz")]) == 9
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)
    # Only what is missing is made again.
    (two / "drive_000001.done2").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in two.glob("*.npz")}
    subprocess.run(_command(script, two, 2, 21), check=True, timeout=300)
    after = {p.name: p.stat().st_mtime_ns for p in two.glob("*.npz")}
    assert {n for n in after if after[n] != before[n]} == {n for n in after if "000001" in n}


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(script: Path, tmp_path: Path, ending: signal.Signals) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(_command(script, out, 2, 500), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    # In the middle of the work.
    while len({p.name[:12] for p in out.glob("*.npz")}) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(ending)
    assert process.wait(20) != 0
    # The workers hold the other end.
    process.communicate(timeout=20)
    assert not list(out.glob("*.done*"))
    made = len(list(out.glob("*")))
    time.sleep(1)
    assert len(list(out.glob("*"))) == made
