"""The trained selector as a forecaster: candidates in, clouds out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.forecast import reliability
from robot_perception.core.forecast.candidates import Candidates
from robot_perception.core.forecast.choice import LEAVE_OUT, MOVE, STAND
from robot_perception.core.forecast.decide import collect, decide
from robot_perception.core.forecast.features import HORIZONS, features, network_model, sequence
from robot_perception.core.forecast.scene import Scene
from robot_perception.core.forecast.selector import COLUMNS, ROWS, Selector, folded
from robot_perception.core.forecast.sensor import image_columns
from robot_perception.core.precision import pick_dtype
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.threads import threads
from robot_perception.core.types import F32
from robot_perception.core.weights import load_into, load_state_dict, pick_device, resolve

FORMAT = "robot_perception forecast selector 1"


@dataclass(frozen=True, eq=False)
class Selected:
    """What is predicted for a horizon: `points` (N, 3) in the frame of the scan, the probability
    (N,) that a return comes within 0.3 m, which of them move (N,), and the range image (H, W) that
    the sensor would then see."""

    points: F32
    probability: F32
    moving: NDArray[np.bool_]
    image: F32


def bundled_weights() -> Path:
    """The weights in the package: trained on simulated drives alone."""
    folder = resources.files("robot_perception.core.forecast") / "weights"
    return Path(str(folder / "sim.safetensors"))


class SelectorForecaster:
    """The selector with the weights of `config.checkpoint`, else those of the package.

    Raises WeightsRejected for weights that cannot be used.
    """

    def __init__(self, config: ForecastConfig) -> None:
        if config.horizons > HORIZONS:
            raise ValueError(f"the network was trained for {HORIZONS} horizons at most")
        if config.beams % ROWS or image_columns(config) % (2 * COLUMNS):
            raise ValueError(
                f"the network needs beams in multiples of {ROWS}, columns of {2 * COLUMNS}"
            )
        path = resolve(config.checkpoint) if config.checkpoint else bundled_weights()
        self.gate = read_gate(path)
        self._device = pick_device(config.device)
        model = Selector()
        load_into(model, load_state_dict(path))
        self._dtype = pick_dtype(config.precision, self._device)
        self._model = folded(model).to(self._device, self._dtype)

    @torch.inference_mode()
    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (1, H, W / 4, T, 5, 4) float32 by patch of features (1, C, H, W), on the device of
        the network."""
        patches: torch.Tensor = self._model.patches(image.to(self._device, self._dtype))
        return patches.float()

    @torch.inference_mode()
    def logits_on_cpu(self, image: F32, states: Future[torch.Tensor]) -> torch.Tensor:
        """The same on the CPU, of features (C, H, W) and the `states`. The network's two branches
        have a thread each, and then the two halves of the image: with PyTorch's own threads, a
        forward waits for the slowest at every layer."""
        # A batch of one is told to have its channels last only if it was made one before the
        # channels went to the front.
        batch = torch.from_numpy(image.transpose(1, 2, 0))[None].permute(0, 3, 1, 2)
        fine, middle, coarse = self._model.encoded(batch.to(self._dtype))
        coarse = self._model.joined(coarse, states.result())
        rows = fine.shape[2]
        # In the middle, or as near as ROWS allow.
        half = rows // 2 // ROWS * ROWS
        upper = _elsewhere(lambda: self._model.rows(coarse, middle, fine, 0, half))
        lower = self._model.rows(coarse, middle, fine, half, rows)
        return torch.cat([upper.result(), lower], 1).float()

    def states(self, steps: F32) -> Future[torch.Tensor]:
        """Those of the recurrence over a `sequence` (P, H, W, 3), on the CPU."""

        def compute() -> torch.Tensor:
            batch = torch.from_numpy(steps)[:, None].permute(0, 1, 4, 2, 3)
            return self._model.states(batch.to(self._dtype))

        return _elsewhere(compute)

    def select(
        self, scene: Scene, found: Candidates, model: SensorModel, steps: F32 | None = None
    ) -> list[Selected]:
        """The prediction of each horizon; `steps`: the `sequence` of the past if it is known."""
        small = network_model(model)
        if steps is None:
            steps = sequence(scene.image, scene.past, small)
        states = self.states(steps)
        seen = features(scene, found, small, steps)
        logits = self.logits_on_cpu(seen.image, states)[0].numpy()
        choice, near = decide(logits, seen.pixel, found, self.gate)
        unseen = np.flatnonzero(seen.pixel < 0)

        def of(h: int) -> Selected:
            probability = _probability(near[h])
            ranges, horizon_s = found.ranges[h][unseen], found.horizons_s[h]
            probability[unseen] = reliability.of_warp(ranges, horizon_s)
            return _selected(found, h, choice[h], probability, model)

        return list(threads().map(of, range(len(choice))))


def _elsewhere(compute: Callable[[], torch.Tensor]) -> Future[torch.Tensor]:
    """What the network computes, in a thread of its own."""

    def run() -> torch.Tensor:
        # A thread learns how many threads PyTorch may start for it by asking.
        torch.get_num_threads()
        with torch.inference_mode():
            return compute()

    return threads().submit(run)


def of_geometry(found: Candidates, horizon: int, model: SensorModel) -> Selected:
    """What is visible of the scan at a horizon, where its velocity takes it."""
    usual = np.where(found.moves, MOVE, STAND).astype(np.int8)
    usual[found.observed :] = LEAVE_OUT
    choice = np.where(found.visible[horizon], usual, np.int8(LEAVE_OUT))
    probability = reliability.of_warp(found.ranges[horizon], found.horizons_s[horizon])
    return _selected(found, horizon, choice, probability, model)


def _probability(logit: F32) -> F32:
    """1 / (1 + exp(-logit)), without temporaries."""
    probability = np.negative(logit)
    np.exp(probability, out=probability)
    probability += 1
    return np.reciprocal(probability, out=probability)


def _selected(
    found: Candidates,
    horizon: int,
    choice: NDArray[np.int8],
    probability: F32,
    model: SensorModel,
) -> Selected:
    image = np.zeros((model.rows, model.columns), np.float32)
    xyz, chances, moves, stays = collect(
        found.points,
        found.velocity,
        np.float32(found.horizons_s[horizon]),
        *(choice, probability, found.moves, found.ranges[horizon], found.pixels[horizon]),
        image.reshape(-1),
    )
    if stays.any():
        inverse = np.asarray(np.linalg.inv(found.poses[horizon]), np.float64)
        look(xyz[stays], inverse, model, image=image)
    return Selected(xyz, chances, moves, image)


def read_gate(path: Path) -> float:
    """The gate that was chosen in training; raises WeightsRejected if `path` holds none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        gate = float(metadata["gate"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise WeightsRejected(f"{path.name} is no forecast network of this package") from error
    if metadata.get("format") != FORMAT or not gate >= 0:
        raise WeightsRejected(f"{path.name} is a forecast network of another version")
    return gate
