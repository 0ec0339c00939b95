"""`batch` with one worker and with several: wall-clock and processor time, results compared.

    python benchmarks/bench_batch.py [--workers 2] [--recordings 4] [--json FILE]

Recordings are simulated drives. On a machine with other work the wall clock says little: the load
average before each run is part of the result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robot_perception.pipeline.simulator import SimulatorConfig, write_recording


def measure(recordings: list[Path], out: Path, workers: int) -> dict[str, object]:
    command = [sys.executable, "-m", "robot_perception.apps.cli", "batch", *map(str, recordings)]
    command += ["--out", str(out), "--workers", str(workers)]
    load = os.getloadavg()[0]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = json.loads((out / "report.json").read_text())["recordings"]
    return {
        "workers": workers,
        "load_before": load,
        "wall_s": wall,
        "cpu_s": used,
        "share_of_the_machine": used / wall / (os.cpu_count() or 1),
        "recordings_s": [row["seconds"] for row in rows],
        "results": [row["results_sha256"] for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--recordings", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recordings = [Path(folder) / f"{seed}.mcap" for seed in range(options.recordings)]
        for seed, path in enumerate(recordings):
            write_recording(SimulatorConfig(seed=seed, duration_s=options.seconds), path)
        for run, workers in enumerate((1, options.workers, 1, options.workers)):
            rows.append(measure(recordings, Path(folder) / f"out{run}", workers))
            print({k: v for k, v in rows[-1].items() if k != "results"}, flush=True)
        same = all(row["results"] == rows[0]["results"] for row in rows)
        size = sum(path.stat().st_size for path in recordings)
    for row in rows:
        del row["results"]
    document = {
        "recordings": options.recordings,
        "seconds_of_each": options.seconds,
        "bytes": size,
        "cores": os.cpu_count(),
        "identical_results": same,
        "runs": rows,
    }
    print(f"identical results: {same}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
