"""ATPPNet with trained weights: range images in, range images out."""

from __future__ import annotations

import numpy as np
import torch

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.range_image import SensorModel, unproject
from robot_perception.core.types import F32, Forecast, Scan
from robot_perception.core.weights import load_into, load_state_dict, pick_device, resolve

# What begins the names of parameters in a checkpoint of the authors' own implementation.
_THEIRS = ("DownLayers.", "UpLayers.", "CNN3D_block.")


def load_atppnet(config: ForecastConfig) -> tuple[ATPPNet, torch.device]:
    """ATPPNet with the weights of `config.checkpoint`; raises WeightsRejected without them."""
    if not config.checkpoint:
        raise WeightsRejected(
            "the method atppnet needs trained weights: name them in the parameter checkpoint "
            "(robot-perception forecast train --network atppnet makes them)"
        )
    if config.beams % 8 or config.columns % 64:
        raise ValueError("ATPPNet needs beams in multiples of 8 and columns of 64")
    device = pick_device(config.device)
    model = ATPPNet(config.horizons, config.min_range_m, config.max_range_m)
    state = load_state_dict(resolve(config.checkpoint))
    if any(name.startswith(_THEIRS) for name in state):
        raise WeightsRejected(
            f"{config.checkpoint} is a checkpoint of another ATPPNet: its authors' network has "
            "other layers (attention, 3-D branch, normalisation), and its weights do not fit; "
            "train this one with robot-perception forecast train"
        )
    load_into(model, state)
    return model.to(device).eval(), device


@torch.inference_mode()
def predict_images(model: ATPPNet, device: torch.device, past: list[F32]) -> tuple[F32, F32]:
    """Range images (T, H, W), 0 where no return is more likely, and the probability of one."""
    ranges, logits = model(torch.from_numpy(np.stack(past))[None].to(device))
    probability = torch.sigmoid(logits)[0].float().cpu().numpy()
    seen = np.where(probability > 0.5, ranges[0].float().cpu().numpy(), 0.0).astype(np.float32)
    return seen, probability


class NetworkForecaster:
    """ATPPNet as a forecaster; raises WeightsRejected without weights."""

    def __init__(self, config: ForecastConfig) -> None:
        self._model, self._device = load_atppnet(config)

    def forecast(
        self, scan: Scan, past: list[F32], horizons_s: tuple[float, ...], model: SensorModel
    ) -> Forecast:
        """The scans after `scan` from the past range images (H, W), the last of them its own.

        Images and clouds are in the frames of the future sensor, as the network was trained; its
        motion is implied and not known, so the sensor poses are the identity.
        """
        seen, probability = predict_images(self._model, self._device, past)
        return Forecast(
            scan.stamp_ns,
            scan.frame_id,
            horizons_s,
            tuple(unproject(image, model) for image in seen),
            tuple(p[image > 0] for p, image in zip(probability, seen, strict=True)),
            seen,
            np.broadcast_to(np.eye(4), (len(horizons_s), 4, 4)),
            "atppnet",
        )
