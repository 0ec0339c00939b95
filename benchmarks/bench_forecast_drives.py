r"""Forecasts on simulated drives that no network has seen, many short ones of different sensors.

    python benchmarks/bench_forecast_drives.py [--drives 12] [--weights FILE] [--json FILE]
    python benchmarks/bench_forecast_drives.py --drives 3 --first 920001 --scans 30 --stride 5 \
        --beams 16 --columns 1024

Training takes seeds from 0 and validates from 900000; these begin at 910000. Scans of one drive are
alike, so the intervals are of drives: each counts once, by the mean of its scans.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.evaluate import evaluate
from robot_perception.pipeline.simulator.variety import scans, varied

FIRST_SEED = 910_000
_RESAMPLES = 10_000
_BASELINE = "ego_warp"
_MORE_IS_BETTER = ("mask_iou",)


def measures(row: dict[str, Any]) -> dict[str, float]:
    """What is compared, of one method on one drive."""
    found = {
        "chamfer_m2": row["chamfer_mean_m2"],
        "chamfer_last_two_m2": float(np.mean(row["chamfer_m2"][-2:])),
        "moving_m2": row["chamfer_dynamic_m2"],
        "newly_seen_m2": row["true_to_predicted_m2"]["new"],
        "range_l1_m": row["range_l1_mean_m"],
        "range_l1_beyond_ego_warp_m": row["range_l1_beyond_ego_warp_m"],
        "mask_iou": row["mask_iou"],
    }
    return {name: round(value, 4) for name, value in found.items()}


def interval(values: NDArray[np.float64]) -> list[float]:
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    return [round(float(p), 4) for p in np.percentile(values[draws].mean(axis=1), (2.5, 97.5))]


def compared(drives: list[dict[str, Any]]) -> dict[str, Any]:
    """By method and measure: the mean of the drives, and the difference to the baseline."""
    found: dict[str, Any] = {}
    for name in (n for n in drives[0] if n not in ("seed", "drive")):
        found[name] = {}
        for key in drives[0][name]:
            own = np.array([d[name][key] for d in drives], float)
            base = np.array([d[_BASELINE][key] for d in drives], float)
            known = np.isfinite(own) & np.isfinite(base)
            beyond = (own - base)[known]
            better = beyond > 0 if key in _MORE_IS_BETTER else beyond < 0
            found[name][key] = {
                "mean": round(float(own[known].mean()), 4),
                "beyond_ego_warp_ci95": interval(beyond),
                "drives_better": int(better.sum()),
                "drives": int(known.sum()),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drives", type=int, default=12)
    parser.add_argument("--weights", default="", help="for ours; else those of the package")
    parser.add_argument("--first", type=int, default=FIRST_SEED, help="seed of the first drive")
    parser.add_argument("--scans", type=int, default=46, help="of each drive")
    parser.add_argument("--stride", type=int, default=6)
    parser.add_argument("--beams", type=int, help="of the sensor; else the drive's own")
    parser.add_argument("--columns", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    methods = dict.fromkeys(("repeat", _BASELINE, "scene_flow", "ours"), "")
    methods["ours"] = arguments.weights
    drives = []
    sensor_of = {"beams": arguments.beams, "columns": arguments.columns}
    fixed = {name: value for name, value in sensor_of.items() if value}
    for seed in track(range(arguments.first, arguments.first + arguments.drives), "drives"):
        drive = replace(varied(seed), **fixed)
        config = ForecastConfig(beams=drive.beams, columns=drive.columns)
        table = evaluate(scans(drive, arguments.scans), config, arguments.stride, methods)
        sensor = f"{drive.beams} x {drive.columns}, {drive.speed_mps:.1f} m/s"
        drives.append({"seed": seed, "drive": sensor, **{m: measures(r) for m, r in table.items()}})
    found = compared(drives)
    result = {"methods": found, "drives": drives}
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
