"""What the report shows of a replay: pictures of sampled moments, every revisit decision."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.spatial import cKDTree

from robot_perception.core.forecast.warp import cloud_at_horizon
from robot_perception.core.types import (
    F32,
    I32,
    U8,
    Forecast,
    Frame,
    ImageFrame,
    Result,
    Revisit,
    Scan,
    Segmentation,
)
from robot_perception.pipeline import draw

CAMERA, EVIDENCE, ABOVE, AHEAD, ERROR = "camera", "evidence", "above", "ahead", "error"
ERROR_SCALE_M = 1.0

_CAMERA_WIDTH = 900
_ABOVE_SIZE = 540
_QUALITY = 72
_HALF_EXTENT_M = 36.0
_ERROR_POINTS = 30_000
# A scan counts as the future of a horizon if it came within this share of the scan period.
_TOLERANCE = 0.3
_OBSERVED = np.array((205, 212, 222), np.uint8)
_QUIET = np.array((84, 93, 108), np.uint8)


@dataclass(frozen=True)
class Sample:
    """Pictures of one moment (JPEG by panel) and a line of text under each."""

    order: int
    stamp_ns: int
    pictures: dict[str, bytes]
    captions: dict[str, str]


class Track:
    """Evenly spaced samples of a stream of unknown length, within bounds of number and bytes."""

    def __init__(self, max_samples: int, max_bytes: int) -> None:
        self.samples: list[Sample] = []
        self._limits = (max_samples, max_bytes)
        self._seen = 0
        self._stride = 1

    def wants_next(self) -> bool:
        """Count one more moment; True if it is to be added."""
        self._seen += 1
        return (self._seen - 1) % self._stride == 0

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        while len(self.samples) > 1 and self._too_much():
            self.samples = self.samples[::2]
            self._stride *= 2

    def _too_much(self) -> bool:
        size = sum(len(jpeg) for sample in self.samples for jpeg in sample.pictures.values())
        return len(self.samples) > self._limits[0] or size > self._limits[1]


@dataclass(frozen=True)
class Decision:
    """What was decided about one keyframe."""

    stamp_ns: int
    keyframe_id: int
    match_id: int | None
    match_stamp_ns: int | None
    probability: float
    inliers: int


@dataclass(frozen=True, eq=False)
class _Expected:
    """The last horizon of a forecast, waiting for its scan."""

    due_ns: int
    tolerance_ns: float
    horizon_s: float
    xyz: F32


@dataclass(eq=False)
class _Best:
    """The most telling picture of a kind so far."""

    merit: float
    rgb: U8


@dataclass(eq=False)
class ReportBuilder:
    """Looks on while a recording is replayed; bounded memory whatever the recording's length.

    Pass `observe` to `replay`. Pictures take at most about 10 MB; what grows is one small record a
    keyframe.
    """

    camera: Track = field(default_factory=lambda: Track(120, 3_200_000))
    evidence: Track = field(default_factory=lambda: Track(40, 1_200_000))
    lidar: Track = field(default_factory=lambda: Track(120, 6_200_000))
    decisions: list[Decision] = field(default_factory=list)
    keyframe_positions: F32 = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    edges: I32 = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    images: int = 0
    scans: int = 0
    segments: list[int] = field(default_factory=lambda: [0, 0])
    first_ns: int | None = None
    last_ns: int | None = None
    best: dict[str, _Best] = field(default_factory=dict)
    _order: int = 0
    _expected: deque[_Expected] = field(default_factory=lambda: deque(maxlen=64))

    def observe(self, frame: Frame, results: list[Result]) -> None:
        """Take note of an image or a scan and what was made of it."""
        self._order += 1
        self.first_ns = frame.stamp_ns if self.first_ns is None else self.first_ns
        self.last_ns = max(frame.stamp_ns, self.last_ns or frame.stamp_ns)
        if isinstance(frame, ImageFrame):
            self._observe_image(frame, results)
        elif isinstance(frame, Scan):
            forecast = next((r for r in results if isinstance(r, Forecast)), None)
            self._observe_scan(frame, forecast)

    def _observe_image(self, frame: ImageFrame, results: list[Result]) -> None:
        self.images += 1
        segmentation = next((r for r in results if isinstance(r, Segmentation)), None)
        revisit = next((r for r in results if isinstance(r, Revisit)), None)
        if segmentation is not None:
            self.segments[0] += 1
            self.segments[1] += len(segmentation.segments)
        if revisit is not None:
            self._observe_revisit(frame, revisit)
        if self.camera.wants_next():
            rgb, caption, merit = frame.rgb, "no segmentation", -1.0
            if segmentation is not None:
                rgb = draw.overlay(frame.rgb, segmentation.labels, 0.45)
                merit = float(len(segmentation.segments))
                caption = f"{len(segmentation.segments)} segments · {segmentation.backend}"
            self._keep_best(CAMERA, merit, rgb)
            jpeg = encode_jpeg(_fit_width(rgb, _CAMERA_WIDTH))
            self.camera.add(Sample(self._order, frame.stamp_ns, {CAMERA: jpeg}, {CAMERA: caption}))

    def _observe_revisit(self, frame: ImageFrame, revisit: Revisit) -> None:
        self.decisions.append(
            Decision(
                revisit.stamp_ns,
                revisit.keyframe_id,
                revisit.match_id,
                revisit.match_stamp_ns,
                revisit.probability,
                revisit.inliers,
            )
        )
        self.keyframe_positions, self.edges = revisit.keyframe_positions, revisit.edges
        if revisit.match_id is None or not self.evidence.wants_next():
            return
        wide = frame.rgb.shape[1] > 2 * frame.rgb.shape[0]
        rgb = draw.evidence(frame, revisit, 270 if wide else 300, stacked=wide)
        caption = (
            f"keyframe {revisit.keyframe_id} is keyframe {revisit.match_id} again · "
            f"p = {revisit.probability:.2f} · {revisit.inliers} inliers"
        )
        self._keep_best(EVIDENCE, revisit.inliers, rgb)
        jpeg = encode_jpeg(_fit_width(rgb, _CAMERA_WIDTH))
        pictures, captions = {EVIDENCE: jpeg}, {EVIDENCE: caption}
        self.evidence.add(Sample(self._order, frame.stamp_ns, pictures, captions))

    def _observe_scan(self, scan: Scan, forecast: Forecast | None) -> None:
        self.scans += 1
        if self.lidar.wants_next():
            self._sample_scan(scan, forecast)
        if forecast is not None and len(forecast.clouds):
            horizon, period = forecast.horizons_s[-1], forecast.horizons_s[0]
            self._expected.append(
                _Expected(
                    forecast.stamp_ns + round(horizon * 1e9),
                    period * _TOLERANCE * 1e9,
                    horizon,
                    draw.thin(cloud_at_horizon(forecast, len(forecast.clouds) - 1), _ERROR_POINTS),
                )
            )

    def _sample_scan(self, scan: Scan, forecast: Forecast | None) -> None:
        now = (scan.xyz, _OBSERVED)
        layers, caption = [now], f"{len(scan.xyz):,} points observed"
        merit = 0.0
        if forecast is not None and len(forecast.clouds):
            count = len(forecast.clouds)
            colours = draw.horizon_colours(count)
            # Each horizon as the sensor will see it then, the farthest lowest and what was observed
            # on top: motion relative to the sensor shows as a streak into the future.
            clouds = [cloud_at_horizon(forecast, i) for i in range(count)]
            layers = [*((clouds[i], colours[i]) for i in reversed(range(count))), now]
            caption = f"{count} scans ahead to {forecast.horizons_s[-1]:.1f} s · {forecast.method}"
            merit = float(np.linalg.norm(forecast.sensor_poses[-1, :3, 3]))
        above = draw.from_above(layers, _HALF_EXTENT_M, _ABOVE_SIZE)
        self._keep_best(ABOVE, merit, above)
        pictures, captions = {ABOVE: above}, {ABOVE: caption}
        by_height = (scan.xyz, draw.by_height(scan.xyz))
        predicted = layers[0:1] if len(layers) > 1 else []
        pictures[AHEAD] = draw.perspective([*predicted, by_height])
        captions[AHEAD] = "observed points by height" + (
            ", last horizon in violet" if predicted else ""
        )
        self._keep_best(AHEAD, merit, pictures[AHEAD])
        expected = self._expected_at(scan.stamp_ns)
        if expected is not None and len(scan.xyz) and len(expected.xyz):
            distance = cKDTree(scan.xyz).query(expected.xyz)[0].astype(np.float32)
            colour = error_colours(distance)
            # Large errors are few: they go on top.
            order = np.argsort(distance)
            pictures[ERROR] = draw.from_above(
                [(scan.xyz, _QUIET), (expected.xyz[order], colour[order])],
                _HALF_EXTENT_M,
                _ABOVE_SIZE,
            )
            captions[ERROR] = (
                f"predicted {expected.horizon_s:.1f} s before · median "
                f"{np.median(distance) * 100:.0f} cm off · "
                f"{np.mean(distance < 0.5) * 100:.0f} % within 50 cm"
            )
            self._keep_best(ERROR, merit, pictures[ERROR])
        jpegs = {panel: encode_jpeg(rgb) for panel, rgb in pictures.items()}
        self.lidar.add(Sample(self._order, scan.stamp_ns, jpegs, captions))

    def _expected_at(self, stamp_ns: int) -> _Expected | None:
        due = [e for e in self._expected if abs(e.due_ns - stamp_ns) <= e.tolerance_ns]
        return min(due, key=lambda e: abs(e.due_ns - stamp_ns)) if due else None

    def _keep_best(self, panel: str, merit: float, rgb: U8) -> None:
        if panel not in self.best or merit > self.best[panel].merit:
            self.best[panel] = _Best(merit, rgb)


def error_colours(distance_m: F32) -> U8:
    """A colour (N, 3) for each distance: cyan is right, red is ERROR_SCALE_M off or more."""
    return draw.coloured_by(distance_m, -0.4 * ERROR_SCALE_M, 1.08 * ERROR_SCALE_M)


def encode_jpeg(rgb: U8) -> bytes:
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def _fit_width(rgb: U8, width: int) -> U8:
    if rgb.shape[1] <= width:
        return rgb
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
