"""Time of a forecast, step by step, and of the networks beside each other, in one process.

    python benchmarks/bench_forecast.py [RECORDING] [--columns 1024] [--threads N] [--device cuda]

Without a recording, scans of the simulator (64 x 2048). Medians in milliseconds, at 2048 columns
unless told otherwise: nodes have 1024 on a CPU. The networks are compared at the 64 x 2048 that
ATPPNet was published for, ATPPNet with random weights. On a GPU the stages are timed with a wait
after each, and so take longer than the whole does without. `--json` writes it all to a file.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.forecast.candidates import candidates
from robot_perception.core.forecast.features import CHANNELS, features, network_model
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.forecast.methods import gmac
from robot_perception.core.forecast.motion import MotionEstimator
from robot_perception.core.forecast.scene import SceneBuilder, observe
from robot_perception.core.forecast.selection import SelectorForecaster
from robot_perception.core.forecast.selector import Selector
from robot_perception.core.forecast.sensor import SensorFinder
from robot_perception.core.forecast.tensors.recorded import Recorded
from robot_perception.core.forecast.tensors.steps import TensorSteps
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.threads import limit_threads
from robot_perception.core.types import Forecast, Odometry, Scan
from robot_perception.pipeline.memory import steady_memory
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.pipeline.outputs import messages
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans
from robot_perception.pipeline.sources import open_recording
from robot_perception.wire import decode_cloud, encode_frame

_SCANS, _WARM_UP = 24, 8


def clouds(path: Path | None) -> Iterator[Scan]:
    if path is None:
        yield from scans(SimulatorConfig(columns=2048), _SCANS)
        return
    frames = (item.frame for item in open_recording(path).frames())
    yield from islice((f for f in frames if isinstance(f, Scan)), _SCANS)


def steps(source: list[Scan], config: ForecastConfig) -> dict[str, float]:
    """Median milliseconds of each step of a forecast by the network, and of the whole."""
    motion, builder = MotionEstimator("clouds", config.standstill_mps), SceneBuilder(config.past)
    finder, network = SensorFinder(config), SelectorForecaster(config)
    horizons = tuple(config.period_s * (i + 1) for i in range(config.horizons))
    spent: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        spent.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result

    for scan in source:
        model = finder.model(scan)
        moved = timed("ego-motion", motion.step, scan, None)
        seen = timed("scan alone", observe, scan, model)
        scene = timed("scene", builder.step, seen, moved)
        poses = predicted_poses(scene.twist, horizons)
        found = timed("candidates", candidates, scene, poses, horizons, model)
        timed("features alone", features, scene, found, network_model(model))
        timed("features, network, choice", network.select, scene, found, model)
    return {name: float(np.median(ms[_WARM_UP:])) for name, ms in spent.items()}


def odometry(source: list[Scan], config: ForecastConfig) -> list[Odometry]:
    """What a robot's odometry would say at each scan, found from the clouds."""
    motion = MotionEstimator("clouds", config.standstill_mps)
    pose, found = np.eye(4), []
    for scan in source:
        moved = motion.step(scan, None)
        pose = pose if moved is None else pose @ moved.relative
        found.append(Odometry(scan.stamp_ns, "odom", scan.frame_id, pose))
    return found


def stages(
    source: list[Scan], config: ForecastConfig, odometry: list[Odometry], wait: Callable[[], None]
) -> dict[str, float]:
    """Median milliseconds of each stage from message to messages, with a `wait` for the device
    after each; with odometry."""
    forecaster = Forecaster(config)
    spent: dict[str, list[float]] = {}

    def timed(owner: object, attribute: str, name: str) -> None:
        call = getattr(owner, attribute)

        def measured(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments, **named)
            wait()
            spent.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
            return result

        setattr(owner, attribute, measured)

    inner = forecaster._steps
    assert isinstance(inner, TensorSteps)
    timed(inner, "begin", "to the device, project, what stands")
    timed(inner, "_moving", "what moves (clusters on the host)")
    first = True
    for scan, known in zip(source, odometry, strict=True):
        message = encode_frame(rosbags_factory, scan)[1]
        start = time.perf_counter()
        decoded = decode_cloud(message)
        spent.setdefault("decode", []).append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        made = forecaster.step(decoded, known)
        spent.setdefault("forecast, in all", []).append((time.perf_counter() - start) * 1e3)
        if first:
            timed(inner, "_foresee", "memory, warp to all horizons, features, network, choice")
            first = False
        start = time.perf_counter()
        encode(made, scan)
        spent.setdefault("encode", []).append((time.perf_counter() - start) * 1e3)
    return {name: float(np.median(ms[_WARM_UP:])) for name, ms in spent.items()}


def encode(made: Forecast | None, scan: Scan) -> None:
    """A cloud for each horizon and the range images; not all clouds once more, in one message."""
    if made is not None:
        for topic, build in messages(made, scan).items():
            if topic != "points":
                build(rosbags_factory)


def whole(
    source: list[Scan], config: ForecastConfig, odometry: list[Odometry] | None = None
) -> list[float]:
    """Milliseconds, median and 90th percentile, from message to messages: decode, forecast, encode.
    Without `odometry` the motion is found from the clouds."""
    forecaster = Forecaster(config)
    spent = []
    for scan, known in zip(source, odometry or [None] * len(source), strict=True):
        message = encode_frame(rosbags_factory, scan)[1]
        start = time.perf_counter()
        encode(forecaster.step(decode_cloud(message), known), scan)
        spent.append((time.perf_counter() - start) * 1e3)
    return [float(ms) for ms in np.percentile(spent[_WARM_UP:], (50, 90))]


def forward(
    call: Callable[[torch.Tensor], Any],
    inputs: torch.Tensor,
    repeats: int,
    wait: Callable[[], None],
) -> float:
    spent = []
    with torch.inference_mode():
        for _ in range(repeats + 2):
            start = time.perf_counter()
            call(inputs)
            wait()
            spent.append((time.perf_counter() - start) * 1e3)
    return float(np.median(spent[2:]))


def networks(config: ForecastConfig, wait: Callable[[], None]) -> dict[str, float]:
    """A forward pass of each network, in milliseconds."""
    device = torch.device(config.device)
    image, past = torch.zeros(1, CHANNELS, 64, 1024), torch.zeros(1, 5, 64, 2048)
    published = ATPPNet(1.0, 85.0).eval().to(device)
    found = {"atppnet": forward(published, past.to(device), 2, wait)}
    if device.type == "cpu":
        return found | {"ours": forward(Selector().eval(), image, 10, wait)}

    def in_bfloat16(inputs: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            published(inputs)

    image = image.to(device)
    found["atppnet, bfloat16"] = forward(in_bfloat16, past.to(device), 10, wait)
    network = SelectorForecaster(config)
    recorded = Recorded(lambda x: (network.logits(x),))
    found["ours, kernel by kernel"] = forward(network.logits, image, 20, wait)
    found["ours"] = forward(recorded, image, 50, wait)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # As the nodes do.
    steady_memory()
    limit_threads(arguments.threads)
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    source = list(clouds(arguments.recording))
    config = ForecastConfig(method="ours", device=arguments.device, columns=arguments.columns)
    spent = networks(config, wait)
    # The published network counts at twice the columns that `gmac` takes.
    large = replace(config, columns=2048)
    work = {"ours": gmac("ours", large), "atppnet": 2 * gmac("atppnet", large)}
    known = odometry(source, config)
    result = {
        "machine": f"{platform.machine()}, torch {torch.__version__}, {arguments.threads} threads",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "scans": str(arguments.recording or "simulator"),
        "columns": arguments.columns,
        "points": int(np.median([len(s.xyz) for s in source])),
        "network_ms": spent,
        "network_gmac": work,
        "times_faster": spent["atppnet"] / spent["ours"],
        "times_fewer_macs": work["atppnet"] / work["ours"],
        "steps_ms": stages(source, config, known, wait) if on_gpu else steps(source, config),
        "message_to_messages_ms": {
            method: whole(source, replace(config, method=method))
            for method in ("ego_warp", "scene_flow", "ours")
        },
        "with_odometry_ms": whole(source, config, known),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0,
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
