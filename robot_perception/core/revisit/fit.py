"""Fitting the vocabulary, and the file it is kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.revisit import storage, vlad
from robot_perception.core.revisit.decision import Calibration
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.view import View, see, super_segments
from robot_perception.core.types import ImageFrame

FORMAT = "robot_perception vocabulary 2"
COMPONENTS = 256
_PATCHES_TO_FIT = 2000


def fit_views(views: Sequence[View], config: RevisitConfig) -> vlad.Vocabulary:
    """Vocabulary and PCA of keyframes; the same for the same input. Raises ValueError for none."""
    if not views:
        raise ValueError("a vocabulary needs at least one image")
    patches = [v.features.dense.reshape(-1, v.features.dense.shape[2]) for v in views]
    # Evenly spread ones, the same at every run.
    chosen = [p[:: max(1, len(p) // _PATCHES_TO_FIT)] for p in patches]
    centres = vlad.fit_centres(np.concatenate(chosen), config.vocabulary_size)
    segments = [super_segments(v, centres, config.neighbour_order) for v in views]
    mean, components = vlad.fit_components(np.concatenate(segments), COMPONENTS)
    return vlad.Vocabulary(centres, mean, components)


def fit_frames(
    frames: Iterable[ImageFrame],
    config: RevisitConfig,
    backbone: Backbone | None = None,
    segment: Callable[[ImageFrame], NDArray[np.integer]] | None = None,
) -> tuple[vlad.Vocabulary, str]:
    """A vocabulary of all `frames` (about 1 MB of memory each) and the name of its features."""
    extract = FeatureExtractor(config, backbone)
    views = [see(extract, frame, segment(frame) if segment else None) for frame in frames]
    return fit_views(views, config), extract.name


def save_vocabulary(
    path: Path,
    backend: str,
    vocabulary: vlad.Vocabulary,
    calibration: Calibration | None = None,
) -> None:
    """Save for the parameter `vocabulary`, with the decision's calibration if there is one.

    Crash-safe. The file names features, sizes, hash and the versions it was made with.
    """
    arrays: storage.Arrays = {
        "centres": vocabulary.centres,
        "mean": vocabulary.mean,
        "components": vocabulary.components,
    }
    if calibration is not None:
        arrays["calibration"] = calibration.numbers()
    metadata = {
        "format": FORMAT,
        "backend": backend,
        "centres": len(vocabulary.centres),
        "feature_dimensions": int(vocabulary.centres.shape[1]),
        "descriptor_dimensions": len(vocabulary.components),
        "hash": vlad.vocabulary_hash(vocabulary),
        "versions": storage.versions(),
    }
    storage.write(path, arrays, metadata)


def load_vocabulary(
    path: Path, extract: FeatureExtractor
) -> tuple[vlad.Vocabulary, Calibration | None]:
    """What `save_vocabulary` saved; raises WeightsRejected, also for one of other features."""
    arrays, _ = storage.read(path, FORMAT, extract.name)
    vocabulary = vlad.checked_vocabulary(arrays, path.name, extract.dimensions)
    if "calibration" not in arrays:
        return vocabulary, None
    values = arrays["calibration"]
    if values.shape != (4,) or not np.isfinite(values).all():
        raise WeightsRejected(f"{path.name} holds no usable calibration")
    return vocabulary, Calibration(*(float(v) for v in values))
