"""The next scans from the last ones."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import replace

import numpy as np

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.candidates import candidates
from robot_perception.core.forecast.motion import Motion, motion_estimator
from robot_perception.core.forecast.network import NetworkForecaster
from robot_perception.core.forecast.scene import alone
from robot_perception.core.forecast.selection import Selected, SelectorForecaster, of_geometry
from robot_perception.core.forecast.selfscore import SelfScorer
from robot_perception.core.forecast.sensor import SensorFinder, image_columns
from robot_perception.core.forecast.steps import Loops, Proposal, Steps
from robot_perception.core.forecast.tensors.steps import TensorSteps
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.range_image import SensorModel, project, unproject
from robot_perception.core.types import F32, F64, Forecast, Odometry, Scan
from robot_perception.core.weights import pick_device

_MIN_POINTS = 100
# A longer silence than this many periods ends the history: its velocity is no longer that of now.
_MAX_GAP_PERIODS = 5
# What this process has warmed up for.
_WARM: set[ForecastConfig] = set()


def steps_of(config: ForecastConfig) -> Steps:
    """The steps of a forecast on the device of `config`; raises WeightsRejected."""
    network = SelectorForecaster(config) if config.method == "ours" else None
    device = pick_device(config.device)
    if device.type == "cpu":
        return Loops(config.past, network)
    return TensorSteps(config.past, network, device)


class Forecaster:
    """Forecasts from a stream of scans; `method` of the configuration says how.

    Raises WeightsRejected where the method needs weights that cannot be had.
    """

    def __init__(self, config: ForecastConfig) -> None:
        self._config = config
        self._horizons = tuple(config.period_s * (i + 1) for i in range(config.horizons))
        self._network = NetworkForecaster(config) if config.method == "atppnet" else None
        self._learned = config.method == "ours"
        self._steps = steps_of(config) if config.method in ("ours", "scene_flow") else None
        self._sensor = SensorFinder(config)
        self._motion = motion_estimator(config)
        self._past: deque[F32] = deque(maxlen=config.past)
        self._last: Scan | None = None
        self._scorer = SelfScorer(self._horizons)

    @property
    def sensor_model(self) -> SensorModel | None:
        """The sensor as configured or found; None before the first scan."""
        return self._sensor.found

    def self_scores(self) -> dict[str, dict[str, list[float]]] | None:
        """How the network did so far beside geometry and repeating, by horizon; None without it."""
        return self._scorer.means() if self._learned else None

    @property
    def falls_back(self) -> bool:
        """Whether geometry answers instead of the network, which has been the worse one here."""
        return self._scorer.falls_back

    def warm_up(self) -> None:
        """Compile and load what steps need, on a round room with a thing that moves; `reset`."""
        if self._config in _WARM:
            return
        beams, columns = self._config.beams, image_columns(self._config)
        low, high = np.deg2rad([-25.0, 2.0])
        room = SensorModel(np.linspace(high, low, beams), columns, 0.0, np.inf)
        for i in range(self._config.past + 1):
            ranges = np.full((beams, columns), 12.0, np.float32)
            ranges[: beams // 2, columns // 2 + i * columns // 50 :][:, : columns // 16] = 8.0
            stamp_ns = round((i + 1) * self._config.period_s * 1e9)
            self.step(Scan(stamp_ns, "", unproject(ranges, room)))
        self.reset()
        _WARM.add(self._config)

    def reset(self) -> None:
        """Forget all scans; elevations found from the clouds are found anew."""
        self._scorer.reset()
        self._motion.reset()
        self._past.clear()
        self._last = None
        self._sensor.reset()
        if self._steps is not None:
            self._steps.reset()

    def step(self, scan: Scan, odometry: Odometry | None = None) -> Forecast | None:
        """The forecast after `scan`; None until its motion is known (one scan; `past` of them for
        ATPPNet). Raises InputRejected for a scan that cannot be used. A step that fails leaves no
        trace, so that it can be tried again."""
        names = ("_last", "_past", "_sensor", "_motion", "_steps", "_scorer")
        before = {name: copy.copy(getattr(self, name)) for name in names}
        try:
            return self._step(scan, odometry)
        except Exception:
            vars(self).update(before)
            raise

    def _step(self, scan: Scan, odometry: Odometry | None) -> Forecast | None:
        if len(scan.xyz) < _MIN_POINTS:
            raise InputRejected(f"a cloud of {len(scan.xyz)} points is too small to forecast from")
        if self._last is not None and self._starts_anew(scan, self._last):
            self.reset()
        model = self._sensor.model(scan)
        if self._steps is not None:
            self._steps.begin(scan, model)
            motion = self._motion.step(scan, odometry)
            by_network = self._learned and self._scorer.asks
            proposed = self._steps.propose(motion, self._horizons, by_network)
            self._last = scan
            return None if proposed is None else self._selected(scan, proposed, model)
        motion = self._motion.step(scan, odometry)
        self._last = scan
        if self._network is None:
            return None if motion is None else self._warped(scan, motion, model)
        self._past.append(project(scan.xyz, model)[0])
        if len(self._past) < self._config.past:
            return None
        return self._network.forecast(scan, list(self._past), self._horizons, model)

    def _selected(self, scan: Scan, proposed: Proposal, model: SensorModel) -> Forecast:
        """By the network, unless there is none or it has been worse than geometry."""
        poses, scorer = proposed.poses, self._scorer
        if not self._learned:
            return self._chosen(scan, poses, proposed.by_geometry(), "scene_flow")
        scorer.add_scan(scan, model)
        if not scorer.asks:
            scorer.skip()
            return self._chosen(scan, poses, proposed.by_geometry(), "scene_flow")
        selected = proposed.by_network()
        if not scorer.due:
            scorer.skip()
            return self._chosen(scan, poses, selected, "ours")
        h = scorer.horizon
        scorer.add_forecast(scan, selected[h].points, proposed.points_of_geometry(h), poses[h])
        if scorer.falls_back:
            return self._chosen(scan, poses, proposed.by_geometry(), "scene_flow")
        return self._chosen(scan, poses, selected, "ours")

    def _warped(self, scan: Scan, motion: Motion, model: SensorModel) -> Forecast:
        poses = predicted_poses(motion.twist, self._horizons)
        found = candidates(alone(scan, motion, model), poses, self._horizons, model)
        selected = [of_geometry(found, h, model) for h in range(len(poses))]
        forecast = self._chosen(scan, poses, selected, "ego_warp")
        # Nothing was asked about what moves.
        return replace(forecast, moving=None)

    def _chosen(self, scan: Scan, poses: F64, selected: list[Selected], name: str) -> Forecast:
        return Forecast(
            scan.stamp_ns,
            scan.frame_id,
            self._horizons,
            tuple(s.points for s in selected),
            tuple(s.probability for s in selected),
            np.stack([s.image for s in selected]),
            poses,
            name,
            tuple(s.moving for s in selected),
        )

    def _starts_anew(self, scan: Scan, last: Scan) -> bool:
        ahead = (scan.stamp_ns - last.stamp_ns) * 1e-9
        if ahead == 0:
            raise InputRejected("the stamp is that of the previous scan")
        too_long = ahead > _MAX_GAP_PERIODS * self._config.period_s
        return ahead < 0 or too_long or scan.frame_id != last.frame_id
