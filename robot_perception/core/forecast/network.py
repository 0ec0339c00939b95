"""ATPPNet with trained weights: range images in, range images out."""

from __future__ import annotations

import numpy as np
import torch

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.forecast.atppnet import COLUMNS, ROWS, STEPS, ATPPNet
from robot_perception.core.forecast.atppnet_weights import load_weights
from robot_perception.core.forecast.sensor import image_columns
from robot_perception.core.range_image import SensorModel, unproject
from robot_perception.core.types import F32, Forecast, Scan
from robot_perception.core.weights import pick_device, resolve


def load_atppnet(config: ForecastConfig) -> tuple[ATPPNet, torch.device]:
    """ATPPNet with the weights of `config.checkpoint`, for images of the configured size.

    Raises WeightsRejected without weights of it, ValueError for a size or for steps that it does
    not take.
    """
    if not config.checkpoint:
        raise WeightsRejected(
            "the method atppnet needs trained weights: name them in the parameter checkpoint "
            "(a checkpoint of its authors, or one of robot-perception forecast train --network "
            "atppnet)"
        )
    check_steps(config)
    rows, columns = len(config.elevations_rad) or config.beams, image_columns(config)
    if rows % ROWS or columns % COLUMNS:
        raise ValueError(
            f"ATPPNet needs beams in multiples of {ROWS} and columns of {COLUMNS}: its range image "
            f"would be {rows} x {columns}"
        )
    device = pick_device(config.device)
    model = ATPPNet(config.min_range_m, config.max_range_m)
    load_weights(model, resolve(config.checkpoint))
    return model.to(device).eval(), device


def check_steps(config: ForecastConfig) -> None:
    """Raise ValueError unless ATPPNet takes and predicts as many scans as are configured."""
    if (config.past, config.horizons) != (STEPS, STEPS):
        raise ValueError(
            f"ATPPNet sees {STEPS} scans and predicts {STEPS}: past and horizons cannot be "
            f"{config.past} and {config.horizons}"
        )


@torch.inference_mode()
def predict_images(model: ATPPNet, device: torch.device, past: list[F32]) -> tuple[F32, F32]:
    """Range images (T, H, W), 0 where no return is more likely, and the probability of one."""
    ranges, logits = model(torch.from_numpy(np.stack(past))[None].to(device))
    probability = torch.sigmoid(logits)[0].float().cpu().numpy()
    seen = np.where(probability >= 0.5, ranges[0].float().cpu().numpy(), 0.0).astype(np.float32)
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
