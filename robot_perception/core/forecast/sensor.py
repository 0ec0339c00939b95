"""Finds the model of the LiDAR from its first scans."""

from __future__ import annotations

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.range_image import SensorModel, calibrate_elevations
from robot_perception.core.types import Scan
from robot_perception.core.weights import pick_device

# The robot pitches: what is just outside of the image now may be inside then.
_MARGIN_RAD = float(np.deg2rad(1.0))
GPU_COLUMNS, CPU_COLUMNS = 2048, 1024


def image_columns(config: ForecastConfig) -> int:
    """The columns of the range image: on a CPU half of what a GPU has time for, unless set."""
    if config.columns:
        return config.columns
    return GPU_COLUMNS if pick_device(config.device).type == "cuda" else CPU_COLUMNS


class SensorFinder:
    """The sensor as configured, else as the first scan shows it."""

    def __init__(self, config: ForecastConfig) -> None:
        self._config = config
        self.found: SensorModel | None = None

    def reset(self) -> None:
        self.found = None

    def model(self, scan: Scan) -> SensorModel:
        """The sensor model; raises InputRejected where the points show none."""
        if self.found is None:
            config = self._config
            elevations = np.array(config.elevations_rad)
            if not len(elevations):
                elevations = calibrate_elevations(scan.xyz, config.beams, scan.ring)
            limits = (config.min_range_m, config.max_range_m)
            self.found = SensorModel(elevations, image_columns(config), *limits, _MARGIN_RAD)
        return self.found
