"""What the map keeps of each keyframe, and the file it is kept in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit import storage
from robot_perception.core.revisit.features import DESCRIPTOR_DIMENSIONS
from robot_perception.core.revisit.vlad import Vocabulary, checked_vocabulary, vocabulary_hash
from robot_perception.core.types import F32, F64, I32, U8, U16

FORMAT = "robot_perception place map 5"
_THUMBNAIL_SIDE = 320
# Rows looked at at a time: a map may be larger than the memory.
_CHECKED = 65_536


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A place: super-segment `descriptors` (S, P), the `image_descriptor` (K * D,), keypoints with
    the labels they lie on, the pose in the odometry frame if known, a JPEG `thumbnail`, and a PNG
    of the label image at its size.

    `travelled_m` is the distance driven up to here, NaN without odometry. Poses and stamps of one
    `session` belong together; those of another may have another origin."""

    id: int
    stamp_ns: int
    descriptors: NDArray[np.float16]
    image_descriptor: NDArray[np.float16]
    keypoints: F32
    keypoint_descriptors: NDArray[np.int8]
    keypoint_labels: I32
    pose: F64 | None
    travelled_m: float
    size: tuple[int, int]
    thumbnail: U8
    label_png: U8
    session: int = 0


def thumbnail(rgb: U8) -> U8:
    """A JPEG (N,) of the image with a longer side of 320 pixels."""
    small = cv2.resize(rgb, _thumbnail_size(rgb.shape), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return np.asarray(jpeg, np.uint8).ravel()


def label_png(labels: NDArray[np.integer]) -> U8:
    """A PNG (N,) of the label image (H, W), of 16 bits, at the size of a thumbnail."""
    size = _thumbnail_size(labels.shape)
    small = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    _, png = cv2.imencode(".png", small)
    return np.asarray(png, np.uint8).ravel()


def _thumbnail_size(shape: tuple[int, ...]) -> tuple[int, int]:
    factor = min(1.0, _THUMBNAIL_SIDE / max(shape[:2]))
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def picture(jpeg: U8) -> U8 | None:
    """The thumbnail as RGB (h, w, 3); None if it is damaged."""
    image = _opened(jpeg)
    return None if image is None else np.array(image.convert("RGB"))


def label_image(png: U8) -> U16 | None:
    """The label image (h, w); None if it is damaged."""
    image = _opened(png)
    return None if image is None or image.mode not in ("I;16", "L") else np.array(image, np.uint16)


def _opened(data: U8) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(data.tobytes()), formats=("JPEG", "PNG"))
        # The size comes from the header: nothing larger than a thumbnail is ever decoded.
        if max(image.size) > _THUMBNAIL_SIDE:
            return None
        image.load()
    except (OSError, SyntaxError, ValueError):
        return None
    return image


def save_map(
    path: Path,
    backend: str,
    vocabulary: Vocabulary,
    keyframes: Sequence[Keyframe],
    edges: I32,
    calibration: F64 | None = None,
) -> None:
    """Save the map, crash-safe, in one file, with the numbers of the decision's calibration (4,)
    if it has one. Raises OSError."""
    segment_length = len(vocabulary.components)
    empty: dict[str, NDArray[Any]] = {
        "descriptors": np.zeros((0, segment_length), np.float16),
        "keypoints": np.zeros((0, 2), np.float32),
        "keypoint_descriptors": np.zeros((0, DESCRIPTOR_DIMENSIONS), np.int8),
        "keypoint_labels": np.zeros(0, np.int32),
        "thumbnail": np.zeros(0, np.uint8),
        "label_png": np.zeros(0, np.uint8),
    }
    arrays: dict[str, NDArray[Any] | storage.Parts] = {
        "centres": vocabulary.centres,
        "mean": vocabulary.mean,
        "components": vocabulary.components,
        "edges": edges,
        "stamp_ns": np.array([k.stamp_ns for k in keyframes], np.int64),
        "size": np.array([k.size for k in keyframes], np.int32).reshape(-1, 2),
        "session": np.array([k.session for k in keyframes], np.int32),
        "travelled_m": np.array([k.travelled_m for k in keyframes], np.float64),
        "pose": np.array(
            [np.full((4, 4), np.nan) if k.pose is None else k.pose for k in keyframes]
        ).reshape(-1, 4, 4),
        "image_descriptor": np.array([k.image_descriptor for k in keyframes], np.float16).reshape(
            len(keyframes), -1 if keyframes else vocabulary.centres.size
        ),
    }
    if calibration is not None:
        arrays["calibration"] = calibration
    for name in _RAGGED:
        parts = [getattr(k, name) for k in keyframes]
        arrays[f"{name}.count"] = np.array([len(p) for p in parts], np.int64)
        arrays[name] = parts or empty[name]
    metadata = {
        "format": FORMAT,
        "backend": backend,
        "vocabulary": vocabulary_hash(vocabulary),
        "versions": storage.versions(),
    }
    storage.write(path, arrays, metadata)


_TYPES = {
    "stamp_ns": np.int64,
    "size": np.int32,
    "session": np.int32,
    "travelled_m": np.float64,
    "pose": np.float64,
    "image_descriptor": np.float16,
    "descriptors": np.float16,
    "keypoints": np.float32,
    "keypoint_descriptors": np.int8,
    "keypoint_labels": np.int32,
    "thumbnail": np.uint8,
    "label_png": np.uint8,
}
_RAGGED = (
    "descriptors",
    "keypoints",
    "keypoint_descriptors",
    "keypoint_labels",
    "thumbnail",
    "label_png",
)


class PlaceMap(NamedTuple):
    """What a map file holds: `backend` names its features; `calibration` (4,) is that of the
    decisions in it, None for the default."""

    vocabulary: Vocabulary
    keyframes: list[Keyframe]
    edges: I32
    backend: str
    calibration: F64 | None


def load_map(
    path: Path,
    backend: str | None = None,
    expected: Vocabulary | None = None,
    mapped: bool = False,
) -> PlaceMap:
    """A map; `mapped`: its keyframes stay in the file, with the dangers that `storage.read` names.

    Raises WeightsRejected for what is no map, for another version, and for one made with other
    features than `backend` or another vocabulary than `expected`, where these are given.
    """
    arrays, metadata = storage.read(path, FORMAT, backend, mapped)
    vocabulary = checked_vocabulary(arrays, path.name)
    if vocabulary_hash(vocabulary) != metadata.get("vocabulary"):
        raise WeightsRejected(f"{path.name} is damaged: its vocabulary is not the one it names")
    if expected is not None and vocabulary_hash(expected) != vocabulary_hash(vocabulary):
        raise WeightsRejected(f"{path.name} was made with another vocabulary")
    try:
        keyframes = _keyframes(arrays, vocabulary)
        edges = arrays["edges"].astype(np.int32).reshape(-1, 2)
        if arrays["edges"].dtype != np.int32:
            raise ValueError("edges are no keyframe ids")
        calibration = arrays.get("calibration")
        if calibration is not None and (
            calibration.shape != (4,)
            or calibration.dtype != np.float64
            or not np.isfinite(calibration).all()
        ):
            raise ValueError("its calibration is none")
        if ((edges < 0) | (edges >= len(keyframes))).any():
            raise ValueError("an edge joins no keyframe")
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsRejected(f"{path.name} is damaged: {error}") from error
    made_with = str(metadata.get("backend"))
    return PlaceMap(vocabulary, keyframes, edges, made_with, calibration)


def _keyframes(arrays: storage.Arrays, vocabulary: Vocabulary) -> list[Keyframe]:
    count = len(arrays["stamp_ns"])
    shapes = {
        "size": (count, 2),
        "session": (count,),
        "travelled_m": (count,),
        "pose": (count, 4, 4),
        "image_descriptor": (count, vocabulary.centres.size),
        "descriptors": (len(arrays["descriptors"]), len(vocabulary.components)),
        "keypoints": (len(arrays["keypoints"]), 2),
        "keypoint_descriptors": (len(arrays["keypoints"]), DESCRIPTOR_DIMENSIONS),
        "keypoint_labels": (len(arrays["keypoints"]),),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
    for name, dtype in _TYPES.items():
        if arrays[name].dtype != dtype:
            raise ValueError(f"{name} is {arrays[name].dtype}, not {np.dtype(dtype)}")
    for name in ("image_descriptor", "descriptors", "keypoints"):
        array = arrays[name]
        parts = (array[i : i + _CHECKED] for i in range(0, len(array), _CHECKED))
        if not all(np.isfinite(part).all() for part in parts):
            raise ValueError(f"{name} holds values that are not finite")
    # NaN is "unknown" in these.
    if np.isinf(arrays["pose"]).any() or np.isinf(arrays["travelled_m"]).any():
        raise ValueError("a pose is infinite")
    session = arrays["session"]
    if (arrays["size"] <= 0).any() or (session < 0).any() or (session >= 2**30).any():
        raise ValueError("a size or a session is out of bounds")
    ragged = {}
    for name in _RAGGED:
        lengths = arrays[f"{name}.count"]
        fits = lengths.shape == (count,) and lengths.dtype == np.int64
        # Each by itself first: a sum of hostile numbers may wrap around.
        fits = fits and bool(((lengths >= 0) & (lengths <= len(arrays[name]))).all())
        if not fits or sum(lengths.tolist()) != len(arrays[name]):
            raise ValueError(f"{name} has another length than it claims")
        ragged[name] = np.split(arrays[name], np.cumsum(lengths)[:-1]) if count else []
    found = []
    for i in range(count):
        pose = arrays["pose"][i]
        width, height = (int(v) for v in arrays["size"][i])
        found.append(
            Keyframe(
                i,
                int(arrays["stamp_ns"][i]),
                ragged["descriptors"][i],
                arrays["image_descriptor"][i],
                ragged["keypoints"][i],
                ragged["keypoint_descriptors"][i],
                ragged["keypoint_labels"][i],
                None if np.isnan(pose).any() else pose,
                float(arrays["travelled_m"][i]),
                (width, height),
                ragged["thumbnail"][i],
                ragged["label_png"][i],
                int(arrays["session"][i]),
            )
        )
    return found
