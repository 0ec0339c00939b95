"""Every parameter, once: its default, unit, bounds and description.

ROS parameter descriptors, `config/*.yaml`, the command line and docs/parameters.md come from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


def param(
    default: Any,
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that knows what people need to know about it."""
    meta = {"description": description, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=meta)


def device_param() -> Any:
    return param("auto", "torch device: auto (CUDA where there is one), cpu, cuda or cuda:N")


@dataclass(frozen=True)
class SegmentationConfig:
    """Segment anything."""

    backend: str = param(
        "embedded",
        "what makes the masks; embedded needs no weights",
        choices=("embedded", "sam", "sam2"),
    )
    model: str = param(
        "vit_b",
        "variant: vit_t (MobileSAM), vit_b, vit_l, vit_h (sam); tiny, small, base_plus, large "
        "(SAM 2.1, backend sam2)",
        choices=("vit_t", "vit_b", "vit_l", "vit_h", "tiny", "small", "base_plus", "large"),
    )
    checkpoint: str = param("", "path or registered name of the backend's official checkpoint")
    device: str = device_param()
    precision: str = param(
        "float32",
        "arithmetic of encoder and decoder (sam, sam2)",
        choices=("float32", "bfloat16", "float16"),
    )
    compile: bool = param(
        False, "compile the encoder at start, with torch.compile: takes minutes (sam)"
    )
    points_per_side: int = param(32, "side of the prompt grid (sam, sam2)", low=1, high=128)
    decoder_batch: int = param(256, "prompts in one mask decoder pass", low=1, high=4096)
    decoder: str = param(
        "folded",
        "mask decoder of segment-everything (sam): folded, the same result in fewer operations, or "
        "as published",
        choices=("folded", "published"),
    )
    pred_iou_thresh: float = param(0.88, "least predicted IoU of a mask (sam)", low=0.0, high=1.0)
    stability_score_thresh: float = param(
        0.95, "least stability of a mask under a shift of its threshold (sam)", low=0.0, high=1.0
    )
    box_nms_thresh: float = param(
        0.7, "box IoU above which masks are duplicates (sam)", low=0.0, high=1.0
    )
    min_area: int = param(100, "least area of a segment", unit="px", low=0)
    max_segments: int = param(256, "most segments kept in a frame, by area", low=1, high=65535)
    max_side: int = param(480, "longer image side the embedded backend works at", unit="px", low=64)
    adverse: bool = param(
        False,
        "before segmenting, choose white balance, gamma, contrast, sharpening and dehazing by the "
        "image",
    )
    backbone: str = param("none", "timm name of the DINO/DINOv2 backbone for descriptors, or none")
    backbone_checkpoint: str = param("", "path or registered name of the backbone's checkpoint")
    track_iou: float = param(0.3, "least mask IoU for an id to go on", low=0.0, high=1.0)
    track_motion: bool = param(
        True, "move the last frame's masks by optical flow before they are compared (embedded, sam)"
    )
    memory_segments: int = param(
        32,
        "segments that SAM 2's memory follows, the largest first; 0: by overlap only (sam2)",
        low=0,
        high=1000,
    )
    track_max_age: int = param(5, "frames for which a lost id is remembered", low=0, high=1000)


@dataclass(frozen=True)
class RevisitConfig:
    """Know a place again."""

    backend: str = param(
        "embedded", "local features; embedded needs no download", choices=("embedded", "dino")
    )
    backbone: str = param(
        "vit_small_patch14_dinov2", "timm name of the DINO/DINOv2 backbone (backend dino)"
    )
    backbone_checkpoint: str = param("", "path or registered name of the backbone's checkpoint")
    backbone_block: int = param(
        -1, "transformer block whose features are used; -1 is the last", low=-100, high=100
    )
    backbone_facet: str = param(
        "token",
        "which of the block's features: its output, or its attention's key, query or value",
        choices=("token", "key", "query", "value"),
    )
    device: str = device_param()
    vocabulary: str = param("", "vocabulary file; empty: fitted during the first keyframes")
    vocabulary_size: int = param(32, "centres of the VLAD vocabulary", low=2, high=1024)
    fit_keyframes: int = param(10, "keyframes the vocabulary is fitted on, if none is given", low=1)
    regions: str = param(
        "segments",
        "what is described: segments, or the cells of a grid, which cost no segmentation",
        choices=("segments", "cells"),
    )
    neighbour_order: int = param(1, "neighbourhood order of a super-segment", low=0, high=3)
    prune_iou: float = param(
        1.0,
        "overlap (IoU) above which a super-segment repeats another; 1 keeps all",
        low=0.0,
        high=1.0,
    )
    keyframe_period_s: float = param(0.5, "least time between keyframes", unit="s", low=0.0)
    keyframe_distance_m: float = param(
        0.5, "least motion between keyframes where odometry is known", unit="m", low=0.0
    )
    keyframe_angle_rad: float = param(
        0.26, "turn that makes a keyframe without motion", unit="rad", low=0.0
    )
    exclude_recent_s: float = param(10.0, "youngest age of a place to revisit", unit="s", low=0.0)
    exclude_recent_m: float = param(
        0.0, "least distance travelled since a place, where odometry is known", unit="m", low=0.0
    )
    shortlist: int = param(10, "keyframes kept for the geometric check", low=1, high=1000)
    min_inliers: int = param(20, "least geometric inliers of a revisit", low=8)
    min_probability: float = param(
        0.0,
        "least probability of a revisit; 0: the vocabulary file's, 0.9 without one",
        low=0.0,
        high=1.0,
    )
    consecutive: int = param(1, "keyframes in a row that must agree", low=1, high=10)
    map_path: str = param("", "map file loaded at start, and saved to on request; empty: none")
    map_on_disk: bool = param(
        False,
        "read a loaded map's pictures when needed; its file must not change meanwhile",
    )


@dataclass(frozen=True)
class ForecastConfig:
    """See the next half second."""

    method: str = param(
        "ours",
        "what predicts: constant-velocity ego-warp, the same with moving things, the network that "
        "chooses among what these propose, or ATPPNet",
        choices=("ego_warp", "scene_flow", "ours", "atppnet"),
    )
    checkpoint: str = param(
        "", "path or registered name of the network's weights; empty: those in the package (ours)"
    )
    device: str = device_param()
    precision: str = param(
        "auto",
        "number format of the network; auto: bfloat16 where the hardware computes in it",
        choices=("auto", "float32", "bfloat16"),
    )
    horizons: int = param(5, "number of future scans", low=1, high=50)
    period_s: float = param(0.1, "time between the predicted scans", unit="s", low=0.01, high=1.0)
    past: int = param(5, "scans the network looks back on", low=1, high=50)
    beams: int = param(64, "rows of the range image", low=4, high=256)
    columns: int = param(
        0, "columns of the range image; 0: 2048 on a GPU, 1024 on a CPU", low=0, high=8192
    )
    elevations_rad: tuple[float, ...] = param(
        (), "elevation of each row, top first; empty: found in the first scans", unit="rad"
    )
    min_range_m: float = param(1.0, "nearest range used", unit="m", low=0.0)
    max_range_m: float = param(85.0, "farthest range used", unit="m", low=1.0)
    ego_motion: str = param(
        "auto",
        "auto: odom or tf where it comes, else from the clouds",
        choices=("auto", "odom", "clouds"),
    )
    motion_model: str = param(
        "ground",
        "what of the ego-motion goes on: ground: yaw and horizontal velocity, free: all of it",
        choices=("ground", "free"),
    )
    standstill_mps: float = param(0.1, "speed below which the robot stands", unit="m/s", low=0.0)
    forecast_frame: str = param(
        "sensor",
        "sensor: the last scan's frame; else the fixed frame of the odometry",
        choices=("sensor", "odom"),
    )


@dataclass(frozen=True)
class RunConfig:
    """How a node or a replay runs the stages."""

    inbox_size: int = param(2, "frames of one sensor that wait at most; the oldest goes", low=1)
    image_transport: str = param("raw", "type of the image topic", choices=("raw", "compressed"))
    max_message_mb: int = param(256, "largest message that is decoded", unit="MB", low=1)
    diagnostics_period_s: float = param(0.5, "time between diagnostics", unit="s", low=0.1)
    stale_after_s: float = param(1.4, "silence after which an input is stale", unit="s", low=0.1)
    odom_wait_s: float = param(
        0.1, "longest wait for a frame's odometry, where it is published", unit="s", low=0.0
    )
    odom_frame: str = param("odom", "the fixed frame in which tf has the robot's way")
    labels_wait_s: float = param(
        0.0,
        "longest wait for segmentation labels at an image's stamp (revisit); 0: takes no labels",
        unit="s",
        low=0.0,
    )
    autostart: bool = param(True, "configure and activate at start, without a lifecycle manager")
    on_device_fault: str = param(
        "drop",
        "where freeing memory and a smaller batch do not help: drop the frame, or go on on the CPU",
        choices=("drop", "cpu"),
    )
    torch_threads: int = param(0, "CPU threads of torch; 0: half of the cores", low=0)


def checked(config: T) -> T:
    """Return `config` itself; raise ValueError naming the first field outside its bounds."""
    for f in fields(config):  # type: ignore[arg-type]
        value, m = getattr(config, f.name), f.metadata
        if not m:
            continue
        if m["choices"] and value not in m["choices"]:
            raise ValueError(f"{f.name} is {value!r}, not one of {', '.join(m['choices'])}")
        if isinstance(value, (int, float)):
            if not math.isfinite(value):
                raise ValueError(f"{f.name} is {value}")
            if m["low"] is not None and value < m["low"]:
                raise ValueError(f"{f.name} is {value}, below {m['low']}")
            if m["high"] is not None and value > m["high"]:
                raise ValueError(f"{f.name} is {value}, above {m['high']}")
    return config
