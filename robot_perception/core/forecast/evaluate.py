"""Forecasts against the scans that came, for all methods on the same frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.candidates import candidates
from robot_perception.core.forecast.dataset import aligned
from robot_perception.core.forecast.measures import Measures, drawn, measure, truth
from robot_perception.core.forecast.methods import Predict, State, gmac, method, timed
from robot_perception.core.forecast.motion import motion_estimator
from robot_perception.core.forecast.scene import SceneBuilder, observe
from robot_perception.core.forecast.sensor import SensorFinder
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.types import F32, F64, Odometry, Scan

_RESAMPLES = 2000
# Upper bounds of the classes of speed, m/s.
_SPEEDS = (1.0, 5.0, 10.0, float("inf"))
_BASELINE = "ego_warp"


@dataclass(frozen=True, eq=False)
class _Open:
    """A forecast whose future is still to come."""

    state: State
    image: F32
    predicted: dict[str, list[F32]]


def evaluate(
    frames: Iterable[Scan | Odometry],
    config: ForecastConfig,
    stride: int = 1,
    methods: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Scores by method and horizon, on the same frames.

    `methods`: names, each with the file of its weights or "". Chamfer distance (m^2) as TCNet and
    ATPPNet compute it, on full clouds between `min_range_m` and `max_range_m`, with what
    `Measures` has. Every `stride`-th scan with a full past and future is scored. `ci95` is the
    bootstrap interval of the mean, `vs_ego_warp_ci95` that of the paired difference.
    """
    chosen = {n: method(n, config, w) for n, w in (methods or dict.fromkeys(_DEFAULT, "")).items()}
    rows: dict[str, list[list[Measures]]] = {name: [] for name in chosen}
    ms: dict[str, list[float]] = {name: [] for name in chosen}
    speeds: list[float] = []
    motion = motion_estimator(config)
    builder, finder = SceneBuilder(config.past), SensorFinder(config)
    window: deque[tuple[Scan, F64, _Open | None]] = deque(maxlen=config.horizons + 1)
    horizons = tuple(config.period_s * (i + 1) for i in range(config.horizons))
    for count, (scan, odometry) in enumerate(aligned(frames)):
        model = finder.model(scan)
        moved = motion.step(scan, odometry)
        scene = builder.step(observe(scan, model), moved)
        made = None
        if moved is not None and len(scene.past) >= config.past - 1 and count % stride == 0:
            poses = predicted_poses(scene.twist, horizons)
            state = State(scene, candidates(scene, poses, horizons, model), model)
            made = _predict(state, chosen, ms)
        window.append((scan, np.eye(4) if moved is None else moved.relative, made))
        first = window[0][2]
        if len(window) <= config.horizons or first is None:
            continue
        true_poses = np.stack(list(_chain([w[1] for w in window][1:])))
        future = [w[0] for w in window][1:]
        _score(first, true_poses, future, chosen, rows, ms)
        speeds.append(float(np.linalg.norm(first.state.scene.twist[3:])))
    if not speeds:
        return {}
    base = rows.get(_BASELINE)
    return {
        name: {
            **_summary(scores, base, np.array(speeds)),
            "gmac": gmac(name, config),
            "ms": float(np.median(ms[name])),
        }
        for name, scores in rows.items()
    }


_DEFAULT = ("repeat", "ego_warp", "ego_warp_oracle", "raytrace", "scene_flow", "ours")


def _predict(state: State, methods: dict[str, Predict], ms: dict[str, list[float]]) -> _Open:
    predicted = {}
    for name, predict in methods.items():
        if name != "ego_warp_oracle":
            predicted[name], spent = timed(predict, state)
            ms[name].append(spent)
    return _Open(state, state.scene.image, predicted)


def _chain(relative: list[F64]) -> Iterable[F64]:
    pose = np.eye(4)
    for step in relative:
        pose = pose @ step
        yield pose


def _score(
    made: _Open,
    poses: F64,
    future: list[Scan],
    methods: dict[str, Predict],
    rows: dict[str, list[list[Measures]]],
    ms: dict[str, list[float]],
) -> None:
    model = made.state.model
    predicted = dict(made.predicted)
    if "ego_warp_oracle" in methods:
        state = replace(made.state, truth_poses=poses)
        predicted["ego_warp_oracle"], spent = timed(methods["ego_warp_oracle"], state)
        ms["ego_warp_oracle"].append(spent)
    scored: dict[str, list[Measures]] = {name: [] for name in predicted}
    for h, (scan, pose) in enumerate(zip(future, poses, strict=True)):
        true = truth(scan.xyz, made.image, pose, model)
        base = drawn(predicted[_BASELINE][h], model) if _BASELINE in predicted else None
        for name, clouds in predicted.items():
            scored[name].append(measure(clouds[h], true, model, base))
    for name, measures in scored.items():
        rows[name].append(measures)


def _summary(
    scores: list[list[Measures]], base: list[list[Measures]] | None, speeds: NDArray[np.float64]
) -> dict[str, Any]:
    table = _table(scores)
    chamfer = table["forward"] + table["backward"]
    summary: dict[str, Any] = {
        "frames": len(chamfer),
        "chamfer_m2": np.nanmean(chamfer, axis=0).tolist(),
        "chamfer_mean_m2": float(np.nanmean(chamfer)),
        "ci95": _interval(chamfer.mean(axis=1)),
        "range_l1_m": np.nanmean(table["range_l1_m"], axis=0).tolist(),
        "range_l1_mean_m": float(np.nanmean(table["range_l1_m"])),
        "range_median_m": float(np.nanmean(table["range_median_m"])),
        "range_l1_beyond_ego_warp_m": _nanmean(table["range_l1_beyond_m"]),
        "abs_rel": float(np.nanmean(table["abs_rel"])),
        "mask_iou": float(np.nanmean(table["mask_iou"])),
        "chamfer_dynamic_m2": _nanmean(table["dynamic"]),
        "true_to_predicted_m2": {
            group: _nanmean(table[group]) for group in ("static", "moving", "new")
        },
        "chamfer_by_speed_m2": _by_speed(chamfer.mean(axis=1), speeds),
    }
    if base is not None:
        other = _table(base)
        pairs = {
            "chamfer_mean_m2": chamfer - (other["forward"] + other["backward"]),
            "range_l1_mean_m": table["range_l1_m"] - other["range_l1_m"],
            "range_l1_same_pixels_m": table["range_l1_beyond_m"],
            "chamfer_dynamic_m2": table["dynamic"] - other["dynamic"],
        }
        with np.errstate(all="ignore"):
            summary["vs_ego_warp_ci95"] = {
                name: _interval(np.nanmean(difference, axis=1))
                for name, difference in pairs.items()
            }
            last = pairs["chamfer_mean_m2"][:, -2:]
            summary["vs_ego_warp_ci95"]["chamfer_last_two_m2"] = _interval(last.mean(axis=1))
    return summary


def _table(scores: list[list[Measures]]) -> dict[str, NDArray[np.float64]]:
    """Each measure as (frames, horizons)."""
    names = asdict(scores[0][0])
    return {n: np.array([[getattr(m, n) for m in row] for row in scores]) for n in names}


def _nanmean(values: NDArray[np.float64]) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    """95 % bootstrap interval of the mean over frames; None without values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return [float(low), float(high)]


def _by_speed(chamfer: NDArray[np.float64], speeds: NDArray[np.float64]) -> dict[str, float]:
    found, low = {}, 0.0
    for high in _SPEEDS:
        inside = (speeds >= low) & (speeds < high)
        if inside.any():
            found[f"{low:g}..{high:g} m/s"] = float(np.nanmean(chamfer[inside]))
        low = high
    return found
