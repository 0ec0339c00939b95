"""The next scans from the last ones."""

from __future__ import annotations

import copy
from collections import deque

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast import reliability
from robot_perception.core.forecast.motion import Motion, MotionEstimator
from robot_perception.core.forecast.network import NetworkForecaster
from robot_perception.core.forecast.warp import predicted_poses, warp
from robot_perception.core.range_image import SensorModel, calibrate_elevations, project
from robot_perception.core.types import F32, F64, Forecast, Odometry, Scan

_MIN_POINTS = 100
# A longer silence than this many periods ends the history: its velocity is no longer that of now.
_MAX_GAP_PERIODS = 5


class Forecaster:
    """Forecasts from a stream of scans; `method` of the configuration says how.

    Raises WeightsRejected where the method needs weights that cannot be had.
    """

    def __init__(self, config: ForecastConfig) -> None:
        self._config = config
        self._horizons = tuple(config.period_s * (i + 1) for i in range(config.horizons))
        self._network = NetworkForecaster(config) if config.method == "atppnet" else None
        self._model: SensorModel | None = None
        if config.elevations_rad:
            self._model = self._sensor_model(np.array(config.elevations_rad))
        self._motion = MotionEstimator(config.ego_motion, config.standstill_mps)
        self._past: deque[F32] = deque(maxlen=config.past)
        self._last: Scan | None = None

    @property
    def sensor_model(self) -> SensorModel | None:
        """The sensor as configured or found; None before the first scan."""
        return self._model

    def reset(self) -> None:
        """Forget all scans; elevations found from the clouds are found anew."""
        self._motion.reset()
        self._past.clear()
        self._last = None
        if not self._config.elevations_rad:
            self._model = None

    def step(self, scan: Scan, odometry: Odometry | None = None) -> Forecast | None:
        """The forecast after `scan`; None until its motion is known (one scan; `past` of them for
        a network). Raises InputRejected for a scan that cannot be used. A step that fails leaves
        no trace, so that it can be tried again."""
        before = self._last, self._model, copy.copy(self._motion), self._past.copy()
        try:
            return self._step(scan, odometry)
        except Exception:
            self._last, self._model, self._motion, self._past = before
            raise

    def _step(self, scan: Scan, odometry: Odometry | None) -> Forecast | None:
        if len(scan.xyz) < _MIN_POINTS:
            raise InputRejected(f"a cloud of {len(scan.xyz)} points is too small to forecast from")
        if self._last is not None and self._starts_anew(scan, self._last):
            self.reset()
        if self._model is None:
            self._model = self._sensor_model(
                calibrate_elevations(scan.xyz, self._config.beams, scan.ring)
            )
        motion = self._motion.step(scan, odometry)
        self._last = scan
        if self._network is not None:
            self._past.append(project(scan.xyz, self._model)[0])
        if motion is None:
            return None
        if self._network is None:
            return self._warped(scan, motion, self._model)
        if len(self._past) < self._config.past:
            return None
        return self._network.forecast(scan, list(self._past), self._horizons, self._model)

    def _warped(self, scan: Scan, motion: Motion, model: SensorModel) -> Forecast:
        poses = predicted_poses(motion.twist, self._horizons)
        clouds, images = warp(scan.xyz, poses, model)
        return Forecast(
            scan.stamp_ns,
            scan.frame_id,
            self._horizons,
            clouds,
            tuple(
                reliability.of_warp(np.linalg.norm(cloud, axis=1), horizon)
                for cloud, horizon in zip(clouds, self._horizons, strict=True)
            ),
            images,
            poses,
            "ego_warp",
        )

    def _starts_anew(self, scan: Scan, last: Scan) -> bool:
        ahead = (scan.stamp_ns - last.stamp_ns) * 1e-9
        if ahead == 0:
            raise InputRejected("the stamp is that of the previous scan")
        too_long = ahead > _MAX_GAP_PERIODS * self._config.period_s
        return ahead < 0 or too_long or scan.frame_id != last.frame_id

    def _sensor_model(self, elevations: F64) -> SensorModel:
        config = self._config
        return SensorModel(elevations, config.columns, config.min_range_m, config.max_range_m)
