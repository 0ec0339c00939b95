"""Ways to predict the next scans, all from one state, so that they can be compared fairly."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.atppnet import STEPS, ATPPNet
from robot_perception.core.forecast.candidates import Candidates, candidates
from robot_perception.core.forecast.features import CHANNELS, network_model
from robot_perception.core.forecast.network import load_atppnet, predict_images
from robot_perception.core.forecast.scene import Scene
from robot_perception.core.forecast.selection import SelectorForecaster
from robot_perception.core.forecast.selector import Selector
from robot_perception.core.forecast.sensor import image_columns
from robot_perception.core.forecast.warp import transform
from robot_perception.core.range_image import SensorModel, project, unproject
from robot_perception.core.types import F32, F64

GEOMETRY = ("repeat", "ego_warp", "ego_warp_oracle", "raytrace", "scene_flow")
NETWORKS = ("atppnet", "atppnet_warped", "ours")


@dataclass(frozen=True, eq=False)
class State:
    """What is known when a forecast is made; `truth_poses` (T, 4, 4) is for the oracle alone."""

    scene: Scene
    found: Candidates
    model: SensorModel
    truth_poses: F64 | None = None


Predict: TypeAlias = Callable[[State], list[F32]]
"""The predicted cloud (N, 3) of each horizon, in the frame of the sensor at that horizon."""


def method(name: str, config: ForecastConfig, checkpoint: str) -> Predict:
    """The method called `name`; raises WeightsRejected where it needs weights and has none."""
    if name in _GEOMETRY:
        return _GEOMETRY[name]
    if name == "ours":
        return _ours(SelectorForecaster(replace(config, checkpoint=checkpoint)))
    return _atppnet(replace(config, checkpoint=checkpoint), name == "atppnet_warped")


def gmac(name: str, config: ForecastConfig) -> float:
    """Multiply-accumulates of the method's network, in 10^9, for one forecast."""
    rows, columns = config.beams, image_columns(config) // 2
    model: torch.nn.Module
    if name == "ours":
        model, inputs = Selector(), torch.zeros(1, CHANNELS, rows, columns)
    elif name in NETWORKS:
        model = ATPPNet(config.min_range_m, config.max_range_m)
        inputs = torch.zeros(1, STEPS, rows, columns)
    else:
        return 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    return float(counter.get_total_flops() / 2e9)


def timed(predict: Predict, state: State) -> tuple[list[F32], float]:
    """The prediction, and how many milliseconds it took."""
    start = time.perf_counter()
    clouds = predict(state)
    return clouds, (time.perf_counter() - start) * 1e3


def _repeat(state: State) -> list[F32]:
    return [state.scene.xyz] * len(state.found.poses)


def _standing(state: State) -> list[F32]:
    found = state.found
    shown = [found.points[: found.observed][v[: found.observed]] for v in found.visible]
    return _seen_then(shown, found.poses)


def _oracle(state: State) -> list[F32]:
    assert state.truth_poses is not None
    rests = np.zeros_like(state.scene.velocity), np.zeros_like(state.scene.moves)
    still = replace(state.scene, velocity=rests[0], moves=rests[1])
    found = candidates(still, state.truth_poses, state.found.horizons_s, state.model)
    return _standing(replace(state, found=found))


def _raytrace(state: State) -> list[F32]:
    past = [transform(p.xyz, p.pose) for p in state.scene.past]
    everything = np.concatenate([state.scene.xyz, *past])
    clouds = []
    for pose in state.found.poses:
        moved = transform(everything, np.linalg.inv(pose))
        _, index = project(moved, state.model)
        clouds.append(moved[index[index >= 0]])
    return clouds


def _scene_flow(state: State) -> list[F32]:
    found = state.found
    shown = [
        found.at(h)[: found.observed][v[: found.observed]] for h, v in enumerate(found.visible)
    ]
    return _seen_then(shown, found.poses)


_GEOMETRY: dict[str, Predict] = {
    "repeat": _repeat,
    "ego_warp": _standing,
    "ego_warp_oracle": _oracle,
    "raytrace": _raytrace,
    "scene_flow": _scene_flow,
}


def _ours(network: SelectorForecaster) -> Predict:
    def predict(state: State) -> list[F32]:
        selected = network.select(state.scene, state.found, state.model)
        return _seen_then([s.points for s in selected], state.found.poses)

    return predict


def _atppnet(config: ForecastConfig, warped: bool) -> Predict:
    # Of the size that `network_model` makes.
    network, device = load_atppnet(replace(config, columns=image_columns(config) // 2))

    def predict(state: State) -> list[F32]:
        model = network_model(state.model)
        past = list(state.scene.past[1 - config.past :])
        clouds = [transform(p.xyz, p.pose) if warped else p.xyz for p in past]
        images = [project(xyz, model)[0] for xyz in [*clouds, state.scene.xyz]]
        ranges, _ = predict_images(network, device, images)
        return [unproject(image, model) for image in ranges]

    return predict


def _seen_then(clouds: list[F32], poses: F64) -> list[F32]:
    return [transform(c, np.linalg.inv(p)) for c, p in zip(clouds, poses, strict=True)]
