"""The one pipeline: frames in, results out, for live nodes, replay, evaluation and benchmarks."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import (
    ForecastConfig,
    RevisitConfig,
    SegmentationConfig,
    checked,
)
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.revisit.detector import RevisitDetector
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import (
    U16,
    CameraInfo,
    Forecast,
    Frame,
    ImageFrame,
    Odometry,
    Result,
    Revisit,
    Scan,
    Segmentation,
)
from robot_perception.pipeline.devices import DeviceGuard
from robot_perception.pipeline.health import Stopwatch

SEGMENTATION, REVISIT, FORECAST = "segmentation", "revisit", "forecast"
TASKS = (SEGMENTATION, REVISIT, FORECAST)

# A stamp this far behind the last one starts the recording anew; less is a message out of order.
_RESTART_NS = 500_000_000
# No sensor pauses for so long between two frames of one drive.
_LEAP_NS = 60_000_000_000
_ODOMETRY_KEPT = 1000
# Odometry of at least 10 Hz has a pose this near to any stamp.
_ODOMETRY_TOLERANCE_NS = 100_000_000


@dataclass(frozen=True)
class Tasks:
    """The stages to run; None leaves a stage out."""

    segmentation: SegmentationConfig | None = None
    revisit: RevisitConfig | None = None
    forecast: ForecastConfig | None = None


class OdometryBuffer:
    """The latest poses by stamp. Thread-safe; a backward stamp starts it anew (a bag loops)."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._poses: deque[Odometry] = deque(maxlen=_ODOMETRY_KEPT)

    def add(self, odometry: Odometry) -> None:
        with self._condition:
            if self._poses and odometry.stamp_ns <= self._poses[-1].stamp_ns:
                if self._poses[-1].stamp_ns - odometry.stamp_ns < _RESTART_NS:
                    raise InputRejected("odometry stamp is not after the previous one")
                self._poses.clear()
            self._poses.append(odometry)
            self._condition.notify_all()

    def at(self, stamp_ns: int) -> Odometry | None:
        """The pose nearest to `stamp_ns`; None if there is none within 100 ms."""
        with self._condition:
            if not self._poses:
                return None
            best = min(self._poses, key=lambda pose: abs(pose.stamp_ns - stamp_ns))
        return best if abs(best.stamp_ns - stamp_ns) <= _ODOMETRY_TOLERANCE_NS else None

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """True once a pose at or after `stamp_ns` has come."""

        def covered() -> bool:
            return bool(self._poses) and self._poses[-1].stamp_ns >= stamp_ns

        with self._condition:
            return self._condition.wait_for(covered, timeout_s)


class Pipeline:
    """The stages of `tasks` behind one `step`.

    Images, scans and the small messages may each be stepped from a thread of their own.
    `torch_threads` is set for the whole process; 0 is half of the cores. `on_device_fault`: "drop"
    or "cpu", see DeviceGuard. Raises WeightsRejected or ValueError when a stage cannot be set up.
    """

    def __init__(
        self,
        tasks: Tasks,
        clear_map_on_restart: bool = True,
        torch_threads: int = 0,
        on_device_fault: str = "drop",
    ) -> None:
        # Threads that wait for a core that another process has make a forward ten times as slow.
        torch.set_num_threads(torch_threads or max(1, (os.cpu_count() or 2) // 2))
        self.stopwatch = Stopwatch()
        self.guard = DeviceGuard(on_device_fault)
        self.odometry = OdometryBuffer()
        self.camera: CameraInfo | None = None
        self._clear_map_on_restart = clear_map_on_restart
        # The stamps of the last two frames of each kind.
        self._stamps: dict[type, tuple[int | None, int]] = {}
        self._restart_on_next: set[type] = set()
        self._backbones: dict[tuple[str, str, str], Backbone] = {}
        self.tasks = tasks
        self.segmenter: Segmenter | None = None
        self.detector: RevisitDetector | None = None
        self.forecaster: Forecaster | None = None
        if tasks.segmentation:
            self.segmenter = self._make_segmenter(checked(tasks.segmentation))
        if tasks.revisit:
            self.detector = self._make_detector(checked(tasks.revisit))
        if tasks.forecast:
            self.forecaster = Forecaster(checked(tasks.forecast))

    def step(
        self, frame: Frame, wanted: Collection[str] = TASKS, labels: U16 | None = None
    ) -> list[Result]:
        """Run the stages that `frame` concerns and that are in `wanted`.

        `labels` (H, W) uint16 are segments of an image made elsewhere. Revisit always runs: its map
        would otherwise have holes. Raises InputRejected when the frame cannot be used.
        """
        if isinstance(frame, Odometry):
            self.odometry.add(frame)
            return []
        if isinstance(frame, CameraInfo):
            self.camera = frame
            return []
        self._check_order(frame)
        if isinstance(frame, Scan):
            return self._step_scan(frame) if FORECAST in wanted else []
        return self._step_image(frame, wanted, labels)

    def warm_up(self) -> None:
        """Run each stage once on a blank frame, so that the first real one is not the slow one."""
        if self.segmenter:
            self.segmenter.step(ImageFrame(0, "", np.zeros((240, 320, 3), np.uint8)))
            self.segmenter.reset()

    def describe(self) -> dict[str, object]:
        """What runs: the name of each stage's backend."""
        parts: dict[str, object] = {}
        if self.segmenter:
            parts[SEGMENTATION] = self.segmenter.backend
        if self.detector:
            parts[REVISIT] = self.detector.backend
        if self.tasks.forecast:
            parts[FORECAST] = self.tasks.forecast.method
        return parts

    def self_scores(self) -> dict[str, object]:
        """How the forecasts did beside geometry and repeating, by horizon, where that is scored."""
        known = self.forecaster.self_scores() if self.forecaster else None
        if known is None or self.forecaster is None:
            return {}
        values: dict[str, object] = {
            f"{name} {measure} by horizon": " ".join(f"{v:.4g}" for v in row)
            for name, measures in known.items()
            for measure, row in measures.items()
        }
        values["falls back to geometry"] = str(self.forecaster.falls_back).lower()
        return values

    def expect_restart(self) -> None:
        """The clock jumped back: the next frame with a stamp that is not newer starts anew."""
        self._restart_on_next = {ImageFrame, Scan}

    def reset(self) -> None:
        """Forget everything but the weights and a map that was loaded from a file."""
        self._reset_images()
        self._reset_scans()

    def _step_image(
        self, frame: ImageFrame, wanted: Collection[str], labels: U16 | None
    ) -> list[Result]:
        results: list[Result] = []
        segmentation: Segmentation | None = None
        if self.segmenter and SEGMENTATION in wanted:
            with self.stopwatch.time(SEGMENTATION):
                segmentation = self._segment(frame)
            results.append(segmentation)
        if self.detector:
            if segmentation is not None:
                labels = segmentation.labels
            with self.stopwatch.time(REVISIT):
                revisit = self._recognise(frame, labels)
            if revisit is not None:
                results.append(revisit)
        return results

    def _step_scan(self, scan: Scan) -> list[Result]:
        if self.forecaster is None or self.tasks.forecast is None:
            return []
        with self.stopwatch.time(FORECAST):
            odometry = self.odometry.at(scan.stamp_ns)
            forecast = self._forecast(scan, odometry)
            if forecast is None:
                return []
            if self.tasks.forecast.forecast_frame == "odom":
                if odometry is None:
                    raise InputRejected("no odometry to express the forecast in")
                forecast = in_odometry_frame(forecast, odometry)
        return [forecast]

    def _segment(self, frame: ImageFrame) -> Segmentation:
        def step() -> Segmentation:
            assert self.segmenter
            return self.segmenter.step(frame)

        def to_cpu() -> None:
            assert self.tasks.segmentation
            # The tracks start anew.
            self.segmenter = self._make_segmenter(replace(self.tasks.segmentation, device="cpu"))

        def smaller_batch() -> bool:
            return self.segmenter is not None and self.segmenter.use_smaller_batch()

        return self.guard.run(SEGMENTATION, step, to_cpu, smaller_batch)

    def _recognise(self, frame: ImageFrame, labels: U16 | None) -> Revisit | None:
        odometry = self.odometry.at(frame.stamp_ns)

        def step() -> Revisit | None:
            assert self.detector
            return self.detector.step(frame, labels, odometry, self.camera)

        def to_cpu() -> None:
            assert self.detector and self.tasks.revisit
            config = replace(self.tasks.revisit, device="cpu")
            self.detector.change_device("cpu", make_backbone(config, self._backbone))

        return self.guard.run(REVISIT, step, to_cpu)

    def _forecast(self, scan: Scan, odometry: Odometry | None) -> Forecast | None:
        def step() -> Forecast | None:
            assert self.forecaster
            return self.forecaster.step(scan, odometry)

        def to_cpu() -> None:
            assert self.tasks.forecast
            # The history starts anew.
            self.forecaster = Forecaster(replace(self.tasks.forecast, device="cpu"))

        return self.guard.run(FORECAST, step, to_cpu)

    def _make_segmenter(self, config: SegmentationConfig) -> Segmenter:
        backbone = None
        if config.backbone != "none":
            backbone = self._backbone(config.backbone, config.backbone_checkpoint, config.device)
        return Segmenter(config, backbone)

    def _check_order(self, frame: ImageFrame | Scan) -> None:
        kind, stamp = type(frame), frame.stamp_ns
        before: int | None
        last: int | None
        before, last = self._stamps.get(kind, (None, None))
        if last is not None and stamp <= last:
            expected = kind in self._restart_on_next
            if not expected:
                if last - stamp < _RESTART_NS:
                    raise InputRejected("stamp is not after the previous one")
                if stamp == 0:
                    raise InputRejected("stamp is zero: it was not set")
            # One frame of the far future between two of now is no restart: it was the wrong one.
            goes_on = before is not None and before < stamp < before + _LEAP_NS < last
            if expected or not goes_on:
                self._reset_scans() if kind is Scan else self._reset_images()
                last = None
        self._restart_on_next.discard(kind)
        self._stamps[kind] = (last, stamp)

    def _reset_images(self) -> None:
        self._stamps.pop(ImageFrame, None)
        if self.segmenter:
            self.segmenter.reset()
        if self.detector and self.tasks.revisit:
            if self._clear_map_on_restart:
                self.detector.reset()
                _load_map(self.detector, self.tasks.revisit.map_path)
            else:
                self.detector.restart()

    def _reset_scans(self) -> None:
        self._stamps.pop(Scan, None)
        if self.forecaster:
            self.forecaster.reset()

    def _make_detector(self, config: RevisitConfig) -> RevisitDetector:
        backbone = make_backbone(config, self._backbone)
        # Used only where no labels come with the image: the revisit node on its own.
        segmenter = Segmenter(SegmentationConfig(device=config.device))
        detector = RevisitDetector(config, backbone, lambda frame: segmenter.step(frame).labels)
        _load_map(detector, config.map_path)
        return detector

    def _backbone(self, name: str, checkpoint: str, device: str) -> Backbone:
        """One backbone for all stages that name the same one: its forward is shared."""
        key = (name, checkpoint, device)
        if key not in self._backbones:
            self._backbones[key] = Backbone(name, checkpoint, device)
        return self._backbones[key]


def make_backbone(
    config: RevisitConfig, make: Callable[[str, str, str], Backbone] = Backbone
) -> Backbone | None:
    """The backbone that `config` asks for, if any; raises WeightsRejected."""
    if config.backend != "dino":
        return None
    return make(config.backbone, config.backbone_checkpoint, config.device)


def in_odometry_frame(forecast: Forecast, odometry: Odometry) -> Forecast:
    """The same forecast with clouds and sensor poses in the odometry's fixed frame."""
    rotation, translation = odometry.pose[:3, :3], odometry.pose[:3, 3]
    clouds = tuple((c @ rotation.T + translation).astype(np.float32) for c in forecast.clouds)
    poses = odometry.pose @ forecast.sensor_poses
    return replace(forecast, frame_id=odometry.frame_id, clouds=clouds, sensor_poses=poses)


def _load_map(detector: RevisitDetector, path: str) -> None:
    """Load the map at `path`; a path where no map has been saved yet is where one will be."""
    if path and Path(path).exists():
        detector.load(Path(path))
