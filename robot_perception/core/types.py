"""What flows through the package: frames in, results out.

Stamps are integer nanoseconds (a float64 second loses 200 ns at today's epoch). Lengths are metres,
angles radians. Sensor frames follow REP-103 (x forward, y left, z up); camera optical frames have
z forward, x right, y down. Arrays are never written to once they are in one of these objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
I32: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class ImageFrame:
    """A colour image: `rgb` (H, W, 3) uint8 in R, G, B order."""

    stamp_ns: int
    frame_id: str
    rgb: U8


@dataclass(frozen=True, eq=False, slots=True)
class Scan:
    """One LiDAR revolution: `xyz` (N, 3) float32, finite, in the sensor frame at `stamp_ns`.

    `intensity` (N,) as the driver gives it; `ring` (N,) beam number; `time_s` (N,) seconds relative
    to `stamp_ns`. Each is None where the sensor does not tell. `dropped` counts the points of the
    message that had no finite position (REP-117: no return).
    """

    stamp_ns: int
    frame_id: str
    xyz: F32
    intensity: F32 | None = None
    ring: U16 | None = None
    time_s: F32 | None = None
    dropped: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class CameraInfo:
    """Pinhole intrinsics: `k` (3, 3) in pixels, `d` coefficients of `distortion_model`."""

    stamp_ns: int
    frame_id: str
    width: int
    height: int
    k: F64
    d: F64
    distortion_model: str = "plumb_bob"


@dataclass(frozen=True, eq=False, slots=True)
class Odometry:
    """Pose of `child_frame_id` in `frame_id`: `pose` (4, 4) float64 rigid transform."""

    stamp_ns: int
    frame_id: str
    child_frame_id: str
    pose: F64


@dataclass(frozen=True, eq=False, slots=True)
class Transforms:
    """Poses of frames in their parents, as tf tells them; `static` ones hold at all times.

    `stamp_ns` is that of the latest.
    """

    stamp_ns: int
    poses: tuple[Odometry, ...]
    static: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Segment:
    """A row of the segment table. `box` is x0, y0, x1, y1 in pixels, the far edge excluded."""

    id: int
    area: int
    box: tuple[int, int, int, int]
    predicted_iou: float
    stability: float


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """Masks of one image as a label image.

    `labels` (H, W) uint16: 0 unlabelled, otherwise the tracked id. `confidence` (H, W) float32 in
    0..1. `descriptors` (len(segments), D) float32, unit length, in the order of `segments`; None
    without a backbone. `backend` names what made the masks.
    """

    stamp_ns: int
    frame_id: str
    labels: U16
    confidence: F32
    segments: tuple[Segment, ...]
    backend: str
    descriptors: F32 | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Revisit:
    """The decision about one keyframe: a revisit of `match_id`, or (None) "not been here".

    `probability` that the best candidate is the same place. `keypoints` (M, 4) float32 inlier pixel
    pairs u, v in this image and u, v in the matched one; `segment_pairs` (P, 2) int32 label values
    in this and in the matched keyframe. `relative_pose` (4, 4): this camera in the matched camera's
    optical frame, translation of unit length when `scale_known` is False. `keyframe_positions`
    (K, 3) in `odom_frame_id` (NaN without odometry) and `edges` (E, 2) keyframe ids are the whole
    graph so far. `match_rgb` is the matched keyframe's thumbnail and `match_size` its
    original width and height in pixels. `labels` and `match_labels` (h, w) are the segments of both
    at the size of thumbnails.
    """

    stamp_ns: int
    frame_id: str
    keyframe_id: int
    backend: str
    probability: float
    candidate_id: int | None = None
    match_id: int | None = None
    match_stamp_ns: int | None = None
    inliers: int = 0
    keypoints: F32 = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    segment_pairs: I32 = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    relative_pose: F64 | None = None
    scale_known: bool = False
    covariance: F64 | None = None
    match_rgb: U8 | None = None
    match_size: tuple[int, int] | None = None
    labels: U16 | None = None
    match_labels: U16 | None = None
    odom_frame_id: str = ""
    keyframe_positions: F32 = field(default_factory=lambda: np.zeros((0, 3), np.float32))
    edges: I32 = field(default_factory=lambda: np.zeros((0, 2), np.int32))


@dataclass(frozen=True, eq=False, slots=True)
class Forecast:
    """Predicted scans: one cloud a horizon, all in `frame_id`.

    Entry t of each tuple belongs to `horizons_s[t]` seconds after `stamp_ns` (the last observed
    scan). `clouds` (N_t, 3) float32; `probabilities` (N_t,) float32 that the point is there;
    `range_images` (T, H, W) float32 metres, 0 where nothing is predicted, each seen from where the
    sensor will be at that horizon. `sensor_poses` (T, 4, 4): the predicted sensor pose at each
    horizon in the sensor frame of the last scan. `method` names what made it. `moving` (N_t,):
    which points move by themselves, where that is known.
    """

    stamp_ns: int
    frame_id: str
    horizons_s: tuple[float, ...]
    clouds: tuple[F32, ...]
    probabilities: tuple[F32, ...]
    range_images: F32
    sensor_poses: F64
    method: str
    moving: tuple[NDArray[np.bool_], ...] | None = None


Frame: TypeAlias = ImageFrame | Scan | CameraInfo | Odometry | Transforms
Result: TypeAlias = Segmentation | Revisit | Forecast
