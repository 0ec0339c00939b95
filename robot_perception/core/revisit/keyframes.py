"""What the map keeps of each keyframe, and the file it is kept in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit.vlad import Vocabulary
from robot_perception.core.types import F32, F64, I32, U8

FORMAT = "robot_perception place map 1"
_THUMBNAIL_SIDE = 320


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A place: super-segment `descriptors` (S, P), the `image_descriptor` (K * D,), keypoints with
    the labels they lie on, the pose in the odometry frame if known, and a JPEG thumbnail.

    `travelled_m` is the distance driven up to here, NaN without odometry."""

    id: int
    stamp_ns: int
    descriptors: NDArray[np.float16]
    image_descriptor: NDArray[np.float16]
    keypoints: F32
    keypoint_descriptors: NDArray[np.float16]
    keypoint_labels: I32
    pose: F64 | None
    travelled_m: float
    size: tuple[int, int]
    thumbnail: U8


def thumbnail(rgb: U8) -> U8:
    """A JPEG (N,) of the image with a longer side of 320 pixels."""
    factor = min(1.0, _THUMBNAIL_SIDE / max(rgb.shape[:2]))
    size = (max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
    return np.asarray(jpeg, np.uint8).ravel()


def picture(jpeg: U8) -> U8:
    """The thumbnail as RGB (h, w, 3)."""
    bgr = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if bgr is None:
        raise WeightsRejected("the thumbnail of a keyframe in the map is damaged")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """What two vocabularies have in common only if they are the same."""
    digest = hashlib.sha256()
    for array in (vocabulary.centres, vocabulary.mean, vocabulary.components):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_map(
    path: Path, backend: str, vocabulary: Vocabulary, keyframes: Sequence[Keyframe], edges: I32
) -> None:
    """Write the map aside, flush it to the disk, and rename it: the old one stays until the end.

    One safetensors file, so nothing in it can run when it is read.
    """
    arrays: dict[str, NDArray[np.generic]] = {
        "centres": vocabulary.centres,
        "mean": vocabulary.mean,
        "components": vocabulary.components,
        "edges": edges,
        "stamp_ns": np.array([k.stamp_ns for k in keyframes], np.int64),
        "id": np.array([k.id for k in keyframes], np.int64),
        "size": np.array([k.size for k in keyframes], np.int32).reshape(-1, 2),
        "travelled_m": np.array([k.travelled_m for k in keyframes], np.float64),
        "pose": np.array(
            [np.full((4, 4), np.nan) if k.pose is None else k.pose for k in keyframes]
        ).reshape(-1, 4, 4),
        "image_descriptor": np.array([k.image_descriptor for k in keyframes], np.float16),
    }
    for name in _RAGGED:
        parts = [getattr(k, name) for k in keyframes]
        arrays[f"{name}.count"] = np.array([len(p) for p in parts], np.int64)
        arrays[name] = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    metadata = {"format": FORMAT, "backend": backend, "vocabulary": vocabulary_hash(vocabulary)}
    data = save(arrays, {"robot_perception": json.dumps(metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


_RAGGED = ("descriptors", "keypoints", "keypoint_descriptors", "keypoint_labels", "thumbnail")


def load_map(path: Path, backend: str) -> tuple[Vocabulary, list[Keyframe], I32]:
    """The vocabulary, keyframes and edges of a map; raises WeightsRejected for what is none, for
    another version, and for one made with other features than `backend`."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = json.loads((file.metadata() or {}).get("robot_perception", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise WeightsRejected(f"there is no map {path}") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsRejected(f"{path.name} cannot be read as a map: {error}") from error
    if metadata.get("format") != FORMAT:
        raise WeightsRejected(f"{path.name} is no map of this version ({FORMAT})")
    if metadata.get("backend") != backend:
        made = metadata.get("backend")
        raise WeightsRejected(f"{path.name} was made with {made}, not with {backend}")
    try:
        vocabulary = Vocabulary(arrays["centres"], arrays["mean"], arrays["components"])
        if vocabulary_hash(vocabulary) != metadata.get("vocabulary"):
            raise WeightsRejected(f"{path.name} is damaged: its vocabulary is not the one it names")
        keyframes = _keyframes(arrays)
        edges = arrays["edges"].astype(np.int32).reshape(-1, 2)
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, WeightsRejected):
            raise
        raise WeightsRejected(f"{path.name} is damaged: {error}") from error
    return vocabulary, keyframes, edges


def _keyframes(arrays: dict[str, NDArray[Any]]) -> list[Keyframe]:
    count = len(arrays["id"])
    ragged = {}
    for name in _RAGGED:
        lengths = arrays[f"{name}.count"]
        if len(lengths) != count or lengths.sum() != len(arrays[name]) or (lengths < 0).any():
            raise ValueError(f"{name} has another length than it claims")
        ragged[name] = np.split(arrays[name], np.cumsum(lengths)[:-1]) if count else []
    found = []
    for i in range(count):
        pose = arrays["pose"][i]
        width, height = (int(v) for v in arrays["size"][i])
        found.append(
            Keyframe(
                int(arrays["id"][i]),
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
            )
        )
    return found
