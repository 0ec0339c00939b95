"""The one pipeline: frames in, results out, for live nodes, replay, evaluation and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from robot_perception.core.threads import limit_threads
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
    Transforms,
)
from robot_perception.pipeline.devices import DeviceGuard
from robot_perception.pipeline.health import Stopwatch
from robot_perception.pipeline.odometry import RESTART_NS, in_odometry_frame
from robot_perception.pipeline.sensor_poses import SensorPoses

SEGMENTATION, REVISIT, FORECAST = "segmentation", "revisit", "forecast"
TASKS = (SEGMENTATION, REVISIT, FORECAST)

# No sensor pauses for so long between two frames of one drive.
_LEAP_NS = 60_000_000_000


@dataclass(frozen=True)
class Tasks:
    """The stages to run; None leaves a stage out."""

    segmentation: SegmentationConfig | None = None
    revisit: RevisitConfig | None = None
    forecast: ForecastConfig | None = None


class Pipeline:
    """The stages of `tasks` behind one `step`.

    Images, scans and the small messages may each be stepped from a thread of their own.
    `torch_threads` is set for the whole process; 0 is half of the cores. `on_device_fault`: "drop"
    or "cpu", see DeviceGuard. `odom_frame`: where tf has the robot's way. Raises WeightsRejected or
    ValueError when a stage cannot be set up.
    """

    def __init__(
        self,
        tasks: Tasks,
        clear_map_on_restart: bool = True,
        torch_threads: int = 0,
        on_device_fault: str = "drop",
        odom_frame: str = "odom",
    ) -> None:
        self.stopwatch = Stopwatch()
        self.guard = DeviceGuard(on_device_fault)
        self.poses = SensorPoses(odom_frame)
        self.camera: CameraInfo | None = None
        self.last_image: ImageFrame | None = None
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
        # Now that the libraries of all stages are there.
        limit_threads(torch_threads)

    def step(
        self, frame: Frame, wanted: Collection[str] = TASKS, labels: U16 | None = None
    ) -> list[Result]:
        """Run the stages that `frame` concerns and that are in `wanted`.

        `labels` (H, W) uint16 are segments of an image made elsewhere. Revisit always runs: its map
        would otherwise have holes. Raises InputRejected when the frame cannot be used.
        """
        if isinstance(frame, Odometry):
            self.poses.odometry.add(frame)
            return []
        if isinstance(frame, Transforms):
            self.poses.transforms.add(frame)
            return []
        if isinstance(frame, CameraInfo):
            self.camera = frame
            return []
        self._check_order(frame)
        if isinstance(frame, Scan):
            return self._step_scan(frame) if FORECAST in wanted else []
        return self._step_image(frame, wanted, labels)

    def prompt(self, frame: ImageFrame, x: float, y: float) -> NDArray[np.bool_]:
        """The mask (H, W) of what is at a pixel of `frame`, which is encoded only once.

        Not while `step` runs in another thread. Raises InputRejected for a pixel outside.
        """
        if self.segmenter is None:
            raise InputRejected("no segmentation runs")
        with self.stopwatch.time("prompt"):
            found = self.segmenter.prompt(frame, np.array([[x, y]], np.float32))
        mask: NDArray[np.bool_] = found.masks[0]
        return mask

    def warm_up(self) -> None:
        """Run each stage once on a blank frame, so that the first real one is not the slow one."""
        if self.segmenter:
            self.segmenter.step(ImageFrame(0, "", np.zeros((240, 320, 3), np.uint8)))
            self.segmenter.reset()
        if self.forecaster:
            self.forecaster.warm_up()

    def describe(self) -> dict[str, object]:
        """What runs: the name of each stage's backend."""
        parts: dict[str, object] = {}
        if self.segmenter:
            parts[SEGMENTATION] = self.segmenter.backend
            if self.segmenter.notice:
                parts["segmentation notice"] = self.segmenter.notice
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
        self.last_image = frame
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
            odometry = self.poses.of(scan)
            forecast = self._forecast(scan, odometry)
            if forecast is None:
                return []
            if self.tasks.forecast.forecast_frame == "odom":
                if odometry is None or odometry.child_frame_id != scan.frame_id:
                    raise InputRejected(f"no odometry or tf of {scan.frame_id!r} for the forecast")
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
        odometry = self.poses.of(frame)

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
                if last - stamp < RESTART_NS:
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
        self.last_image = None
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


def _load_map(detector: RevisitDetector, path: str) -> None:
    """Load the map at `path`; a path where no map has been saved yet is where one will be."""
    if path and Path(path).exists():
        detector.load(Path(path))
