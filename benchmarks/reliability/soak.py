"""All three stages live for an hour, on the simulator's drive in a loop: does anything grow?

    python benchmarks/reliability/soak.py [--minutes 60] [--out DIR]

The stages run in one process, with their inputs at the drive's own 10 Hz over DDS: a small camera
and LiDAR. What the machine does not keep up with is dropped and counted. Memory, threads and
files of that process are read each second, latencies from its diagnostics. `--out` gets the figures
(soak.json), what was read (soak_raw.json, kept up while it runs) and a plot (soak.png).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor

from robot_perception.pipeline import outputs
from robot_perception.pipeline.settings import load_tasks
from robot_perception.pipeline.simulator import SimulatorConfig, write_recording
from robot_perception.pipeline.sources import open_recording
from robot_perception.ros.messages import message_class
from robot_perception.ros.player import Player, wait_until_heard

ROOT = Path(__file__).resolve().parents[2]
SENSORS = SimulatorConfig(
    duration_s=60.0, image_width=320, image_height=180, beams=32, columns=1024
)
PARAMETERS = {"use_sim_time": True, "forecast.beams": SENSORS.beams, "forecast.columns": 1024}
COUNTS = ("received", "processed", "dropped", "rejected", "pending")


@dataclass
class Seen:
    """What was seen of the process: one row a second, and its diagnostics."""

    seconds: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    p99_ms: list[tuple[float, str, float]] = field(default_factory=list)
    status: dict[str, dict[str, str]] = field(default_factory=dict)
    results: int = 0


def watch(seen: Seen, process: psutil.Process, start: float) -> None:
    now = time.monotonic() - start
    if seen.seconds and now - seen.seconds[-1] < 1.0:
        return
    with process.oneshot():
        seen.seconds.append(now)
        seen.rss_mb.append(process.memory_info().rss / 1e6)
        seen.threads.append(process.num_threads())
        seen.files.append(process.num_fds())


def take_diagnostics(seen: Seen, start: float, message: DiagnosticArray) -> None:
    for status in message.status:
        values = {pair.key: pair.value for pair in status.values}
        seen.status[status.name] = values
        for key, value in values.items():
            if key.startswith("receipt to"):
                task, p99 = key.split()[2], float(value.split("/")[2])
                seen.p99_ms.append((time.monotonic() - start, task, p99))


def raw(seen: Seen) -> dict[str, Any]:
    """What was read, in means of ten seconds; enough to draw and to judge anew."""
    whole = len(seen.seconds) // 10 * 10

    def means(values: list[Any]) -> list[float]:
        return np.array(values[:whole], float).reshape(-1, 10).mean(1).round(2).tolist()

    p99: dict[str, list[tuple[float, float]]] = {}
    for second, task, value in seen.p99_ms:
        kept = p99.setdefault(task, [])
        if not kept or second - kept[-1][0] >= 10.0:
            kept.append((round(second, 1), value))
    return {
        "area": "raw",
        "seconds": means(seen.seconds),
        "rss_mb": means(seen.rss_mb),
        "threads": means(seen.threads),
        "files": means(seen.files),
        "p99_ms": p99,
    }


def draw(data: dict[str, Any], path: Path) -> None:
    """Memory and latency over time, as a small picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=80, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(np.array(data["seconds"]) / 60, data["rss_mb"], lw=1)
    above.set_ylabel("resident [MB]")
    for task, rows in data["p99_ms"].items():
        seconds, values = np.array(rows).T
        below.plot(seconds / 60, values, lw=1, label=task)
    below.set(xlabel="minutes", ylabel="p99 [ms]", ylim=(0, None))
    below.legend(loc="upper right", fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path)


def soak(minutes: float, drive: Path, out: Path | None) -> tuple[Seen, int, int]:
    """The node's process through so many minutes: what was seen, loops, its exit code."""
    tasks = load_tasks(None, (), ["segmentation", "revisit", "forecast"])
    environment = {**os.environ}
    environment.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.update(environment)
    command = [sys.executable, "-m", "robot_perception.ros.perception_node", "--ros-args"]
    for name, value in PARAMETERS.items():
        command += ["-p", f"{name}:={str(value).lower()}"]
    node_process = subprocess.Popen(command, env=environment)
    seen = Seen()
    try:
        rclpy.init()
        node = rclpy.create_node("soak")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        start = time.monotonic()
        node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: take_diagnostics(seen, start, m), 50
        )

        def count(_: Any) -> None:
            seen.results += 1

        for task, topics in outputs.topics(tasks).items():
            # The main output of each stage, as on a robot.
            topic = topics[0]
            node.create_subscription(message_class(topic.type), f"/{task}/{topic.name}", count, 5)
        recording = open_recording(drive)
        player = Player(node, executor, recording.roles)
        assert player.wait_for_consumers({"image": 1, "points": 1}, 120.0), "the node did not start"
        assert wait_until_heard(node, executor, ["perception"], 120.0), "no diagnostics"
        process = psutil.Process(node_process.pid)
        start = time.monotonic()
        loops = 0
        while time.monotonic() - start < minutes * 60:
            for _ in player.play(recording, rate=1.0):
                watch(seen, process, start)
                if time.monotonic() - start >= minutes * 60:
                    break
            loops += 1
            if out:
                (out / "soak_raw.json").write_text(json.dumps(raw(seen)) + "\n")
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        executor.remove_node(node)
        node.destroy_node()
    finally:
        node_process.send_signal(signal.SIGINT)
        code = node_process.wait(20)
        rclpy.try_shutdown()
    return seen, loops, code


def report(seen: Seen, loops: int, code: int) -> dict[str, Any]:
    seconds, rss = np.array(seen.seconds), np.array(seen.rss_mb)
    # The first fifth fills caches: vocabulary, map, allocator.
    settled = seconds >= seconds[-1] / 5

    def by_thirds(values: list[int]) -> list[int]:
        """The most in each third: a pool of threads that sleeps lets some of them go."""
        return [int(third.max()) for third in np.array_split(np.array(values)[settled], 3)]

    slope = float(np.polyfit(seconds[settled], rss[settled], 1)[0]) * 600
    latency = {}
    for task in sorted({name for _, name, _ in seen.p99_ms}):
        values = [(s, v) for s, name, v in seen.p99_ms if name == task]
        thirds = np.array_split(np.array([v for s, v in values if s >= seconds[-1] / 5]), 3)
        latency[task] = [round(float(np.median(t)), 1) for t in thirds if len(t)]
    counts = {
        name: {k: int(v[k]) for k in COUNTS} for name, v in seen.status.items() if "received" in v
    }
    exact = all(c["received"] == sum(c[k] for k in COUNTS[1:]) for c in counts.values())
    return {
        "minutes": round(float(seconds[-1]) / 60, 1),
        "loops": loops,
        "results": seen.results,
        "rss_mb": [round(float(rss[settled][0]), 1), round(float(rss[-1]), 1)],
        "rss_slope_mb_per_10_min": round(slope, 2),
        "threads": by_thirds(seen.threads),
        "files": by_thirds(seen.files),
        "p99_ms_by_thirds": latency,
        "accounting_exact": exact,
        "counts": counts,
        "exit_code": code,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, help="folder for soak.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        drive = Path(folder) / "drive.mcap"
        write_recording(SENSORS, drive)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
        seen, loops, code = soak(options.minutes, drive, options.out)
    found = report(seen, loops, code)
    print(json.dumps(found))
    document = {
        "area": "soak",
        "fault": "All three stages at 10 Hz, the drive in a loop",
        "demanded": "below 1 MB in 10 minutes, p99 stable, no more threads or files",
        "cases": found["loops"],
        "full": options.minutes >= 60,
        "measured": found,
    }
    if options.out:
        (options.out / "soak.json").write_text(json.dumps(document, indent=1) + "\n")
        series = raw(seen)
        (options.out / "soak_raw.json").write_text(json.dumps(series) + "\n")
        draw(series, options.out / "soak.png")
    grown = any(found[k][-1] > found[k][0] for k in ("threads", "files"))
    # Over a short time the noise of the allocator is larger than what is looked for.
    leaks = options.minutes >= 30 and found["rss_slope_mb_per_10_min"] >= 1.0
    return int(grown or leaks or not found["accounting_exact"] or found["exit_code"] != 0)


if __name__ == "__main__":
    sys.exit(main())
