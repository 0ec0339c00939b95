"""Ego-motion from the clouds against the true motion: simulated streets and furnished rooms.

    python benchmarks/bench_ego_motion.py [--scans 20] [--json FILE]

By place, medians over pairs of scans: the error of the motion from scan to scan, how many
registrations failed, and milliseconds a scan. In rooms also the mean Chamfer distance (m^2) of
forecasts by `ego_warp` and by `ours`, whose network has seen streets alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d as o3d
from rich.progress import track

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.evaluate import evaluate
from robot_perception.core.forecast.motion import MotionEstimator, exp_se3, log_se3
from robot_perception.core.range_image import SensorModel
from robot_perception.core.types import F64, Scan
from robot_perception.pipeline.simulator.config import START_NS
from robot_perception.pipeline.simulator.scene import build_street
from robot_perception.pipeline.simulator.sensors import lidar_scan
from robot_perception.pipeline.simulator.variety import varied

# Drives that no training sees; the scans begin here.
_STREETS, _FIRST = (920_001, 920_002, 920_003), 60
# Length and width in m, beams, columns.
_ROOMS = ((6.0, 5.0, 32, 1024), (12.0, 8.0, 16, 1024), (30.0, 2.5, 16, 1024), (40.0, 2.5, 64, 2048))
_HEIGHT_M, _SENSOR_M, _NOISE_M = 3.0, 0.6, 0.02
_PERIOD_NS = 100_000_000


def street(seed: int, count: int, **changes: int) -> tuple[list[Scan], list[F64]]:
    """Scans of a simulated drive, and the true pose (4, 4) at the stamp of each."""
    config = replace(varied(seed), **changes)
    world = build_street(config)
    stamps = [START_NS + (_FIRST + i) * _PERIOD_NS for i in range(count)]
    poses = world.sensor(np.array([(stamp - START_NS) * 1e-9 for stamp in stamps]))
    return [lidar_scan(world, config, stamp)[0] for stamp in stamps], list(poses)


def room(
    length: float, width: float, beams: int, columns: int, count: int
) -> tuple[list[Scan], list[F64]]:
    """Scans of a room with some furniture along its walls, 0.8 m/s ahead and turning."""
    rng = np.random.default_rng(0)
    world = o3d.t.geometry.RaycastingScene()
    solids = [((0, 0, 0), (length, width, _HEIGHT_M))]
    for _ in range(8):
        x, size = rng.uniform(0.5, length - 1), rng.uniform((0.3, 0.2, 0.4), (0.8, 0.4, 2.0))
        y = rng.choice([0.0, width - size[1]])
        solids.append(((x, y, 0), (x + size[0], y + size[1], size[2])))
    for low, high in solids:
        box = o3d.geometry.TriangleMesh.create_box(*np.subtract(high, low))
        box.translate(low)
        world.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(box))
    sensor = SensorModel(np.deg2rad(np.linspace(15, -15, beams)), columns, 0.0, np.inf)
    rays = sensor.directions.reshape(-1, 3)
    pose = np.eye(4)
    pose[:3, 3] = (1.2, width / 2, _SENSOR_M)
    step = exp_se3(np.array([0, 0, 0.02, 0.08, 0, 0]))
    scans, poses = [], []
    for i in range(count):
        origins = np.broadcast_to(pose[:3, 3], rays.shape)
        cast = np.concatenate([origins, rays @ pose[:3, :3].T], 1).astype(np.float32)
        reach = world.cast_rays(o3d.core.Tensor(cast))["t_hit"].numpy()
        reach += rng.normal(0, _NOISE_M, len(reach))
        scans.append(Scan(i * _PERIOD_NS, "lidar", (rays * reach[:, None]).astype(np.float32)))
        poses.append(pose)
        pose = pose @ step
    return scans, poses


def measure(scans: list[Scan], poses: list[F64]) -> dict[str, float]:
    estimator = MotionEstimator("clouds", 0.1)
    errors, spent, failed = [], [], 0
    for i, scan in enumerate(scans):
        start = time.perf_counter()
        found = estimator.step(scan, None)
        spent.append((time.perf_counter() - start) * 1e3)
        if found is not None:
            true = np.linalg.inv(poses[i - 1]) @ poses[i]
            errors.append(log_se3(np.linalg.inv(true) @ found.relative))
            failed += found.source != "clouds"
    rotation, translation = np.split(np.array(errors), 2, axis=1)
    return {
        "points": int(np.median([len(scan.xyz) for scan in scans])),
        "translation_mm": round(float(np.median(np.linalg.norm(translation, axis=1))) * 1e3, 1),
        "rotation_mrad": round(float(np.median(np.linalg.norm(rotation, axis=1))) * 1e3, 2),
        "failed": failed,
        "ms": round(float(np.median(spent[1:])), 1),
    }


def forecasts(scans: list[Scan], beams: int) -> dict[str, float]:
    config = ForecastConfig(method="ours", beams=beams, device="cpu")
    table = evaluate(scans, config, methods={"ego_warp": "", "ours": ""})
    return {f"{name}_m2": round(row["chamfer_mean_m2"], 4) for name, row in table.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    places = {f"street {seed}": street(seed, options.scans) for seed in track(_STREETS, "streets")}
    sparse = street(_STREETS[0], options.scans, beams=16, columns=1024)
    places[f"street {_STREETS[0]}, 16 x 1024"] = sparse
    found = {name: measure(*place) for name, place in places.items()}
    for length, width, beams, columns in track(_ROOMS, "rooms"):
        scans, poses = room(length, width, beams, columns, options.scans)
        name = f"room {length:g} x {width:g} m, {beams} x {columns}"
        found[name] = measure(scans, poses) | forecasts(scans, beams)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
