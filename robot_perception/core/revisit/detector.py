"""Online revisit detection: keyframes in, a decision about each out, a map that grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.revisit import vlad
from robot_perception.core.revisit.choice import KeyframeChooser
from robot_perception.core.revisit.features import FeatureExtractor, Features
from robot_perception.core.revisit.geometry import Verification, match, verify
from robot_perception.core.revisit.index import SegmentIndex
from robot_perception.core.revisit.keyframes import (
    Keyframe,
    load_map,
    picture,
    save_map,
    thumbnail,
)
from robot_perception.core.types import (
    F32,
    F64,
    I32,
    CameraInfo,
    ImageFrame,
    Odometry,
    Revisit,
)

_COMPONENTS = 256
# Candidates of keyframes in a row agree when they are this many keyframes apart at most.
_AGREE = 5
_PATCHES_TO_FIT = 2000
_MIN_PAIR_INLIERS = 3
# Logistic in the share of matches that are inliers. On 36 keyframes of 7-Scenes' red kitchen and 53
# of a simulated street, other places had a share of at most 0.28, the same within 0.5 m and 30
# degrees (5 m in the street) one of at least 0.40.
_SLOPE, _MIDDLE = 25.0, 0.42


@dataclass(frozen=True, eq=False)
class _View:
    """A keyframe on its way into the map."""

    frame: ImageFrame
    features: Features
    masks: vlad.SegmentMasks
    keypoint_labels: I32
    pose: F64 | None
    travelled_m: float
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Candidate:
    keyframe: Keyframe
    verification: Verification
    probability: float


class RevisitDetector:
    """SegVLAD online. The vocabulary comes from a map or from the first keyframes of the run.

    `segment` makes a label image (H, W) where none comes with the frame; without it, a grid of
    cells does. Raises WeightsRejected when the backend's weights cannot be used.
    """

    def __init__(
        self,
        config: RevisitConfig,
        backbone: Backbone | None = None,
        segment: Callable[[ImageFrame], NDArray[np.integer]] | None = None,
    ) -> None:
        self._config = config
        self._segment = segment
        self._extract = FeatureExtractor(config.device, backbone)
        self.reset()

    @property
    def backend(self) -> str:
        return self._extract.name

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        return tuple(self._keyframes)

    def reset(self) -> None:
        """Forget the map and everything else."""
        self._vocabulary: vlad.Vocabulary | None = None
        self._index: SegmentIndex | None = None
        self._keyframes: list[Keyframe] = []
        self._edges: list[tuple[int, int]] = []
        self._waiting: list[_View] = []
        self._odom_frame = ""
        self._own_from = 0
        self.restart()

    def restart(self) -> None:
        """Keep the map, but take what comes as a new session: all of the map can be revisited."""
        self._own_from = len(self._keyframes)
        self._chooser = KeyframeChooser(self._config)
        self._recent: list[int] = []

    def step(
        self,
        frame: ImageFrame,
        labels: NDArray[np.integer] | None = None,
        odometry: Odometry | None = None,
        camera: CameraInfo | None = None,
    ) -> Revisit | None:
        """Decide about `frame`; None if it is no keyframe. Raises InputRejected for a bad image."""
        if labels is not None and labels.shape != frame.rgb.shape[:2]:
            raise InputRejected("labels and image differ in size")
        pose = None if odometry is None else odometry.pose
        if not self._chooser.step(frame, pose):
            return None
        if odometry is not None:
            self._odom_frame = odometry.frame_id
        view = self._view(frame, labels, pose)
        best: _Candidate | None = None
        descriptors: F32 | None = None
        if self._vocabulary is not None:
            descriptors = self._describe(view, self._vocabulary)
            best = self._best_candidate(view, descriptors, camera)
        accepted = best is not None and self._accept(best)
        keyframe_id = len(self._keyframes) + len(self._waiting)
        if accepted and best is not None:
            self._edges.append((keyframe_id, best.keyframe.id))
        self._insert(view, descriptors)
        return self._result(view, keyframe_id, best, accepted)

    def save(self, path: Path) -> None:
        """Save the map, crash-safe; raises ValueError before there is one, and OSError."""
        if self._vocabulary is None:
            raise ValueError("there is no map yet: the vocabulary is still being fitted")
        edges = np.array(self._edges, np.int32).reshape(-1, 2)
        save_map(path, self.backend, self._vocabulary, self._keyframes, edges)

    def load(self, path: Path) -> None:
        """Replace the map by the one in `path`; what follows is a new session in it."""
        vocabulary, keyframes, edges = load_map(path, self.backend)
        self.reset()
        self._vocabulary = vocabulary
        self._index = SegmentIndex(len(vocabulary.components))
        for keyframe in keyframes:
            self._index.add(keyframe.id, keyframe.descriptors.astype(np.float32))
        self._keyframes = keyframes
        self._edges = [(int(a), int(b)) for a, b in edges]
        self.restart()

    # Keyframes.

    def _view(
        self, frame: ImageFrame, labels: NDArray[np.integer] | None, pose: F64 | None
    ) -> _View:
        height, width = frame.rgb.shape[:2]
        if labels is None and self._segment is not None:
            labels = self._segment(frame)
        if labels is None or not labels.any():
            labels = vlad.grid_labels(height, width)
        features = self._extract(frame.rgb)
        masks = vlad.segment_masks(labels, features.dense.shape[:2])
        pixels = np.round(features.keypoints).astype(np.int64)
        on = labels[
            np.clip(pixels[:, 1], 0, height - 1), np.clip(pixels[:, 0], 0, width - 1)
        ].astype(np.int32)
        travelled = float("nan") if pose is None else self._chooser.travelled_m
        return _View(frame, features, masks, on, pose, travelled, (width, height))

    def _insert(self, view: _View, descriptors: F32 | None) -> None:
        if self._vocabulary is None:
            self._waiting.append(view)
            if len(self._waiting) < self._config.fit_keyframes:
                return
            self._fit()
            return
        assert descriptors is not None
        self._add(view, descriptors, self._vocabulary)

    def _fit(self) -> None:
        """Fit vocabulary and PCA on the keyframes that wait, and put these into the map."""
        patches = [v.features.dense.reshape(-1, v.features.dense.shape[2]) for v in self._waiting]
        # Evenly spread ones, the same at every run.
        chosen = [p[:: max(1, len(p) // _PATCHES_TO_FIT)] for p in patches]
        centres = vlad.fit_centres(np.concatenate(chosen), self._config.vocabulary_size)
        vlads = [self._vlad(view, centres) for view in self._waiting]
        mean, components = vlad.fit_components(np.concatenate(vlads), _COMPONENTS)
        self._vocabulary = vlad.Vocabulary(centres, mean, components)
        self._index = SegmentIndex(len(components))
        for view, segments in zip(self._waiting, vlads, strict=True):
            self._add(view, vlad.compress(segments, self._vocabulary), self._vocabulary)
        self._waiting = []

    def _add(self, view: _View, descriptors: F32, vocabulary: vlad.Vocabulary) -> None:
        assert self._index is not None
        keyframe_id = len(self._keyframes)
        kept = descriptors.astype(np.float16)
        # What is searched is what a saved and loaded map would hold.
        self._index.add(keyframe_id, kept.astype(np.float32))
        self._keyframes.append(
            Keyframe(
                keyframe_id,
                view.frame.stamp_ns,
                kept,
                vlad.whole_image(view.features.dense, vocabulary.centres).astype(np.float16),
                view.features.keypoints,
                view.features.descriptors,
                view.keypoint_labels,
                view.pose,
                view.travelled_m,
                view.size,
                thumbnail(view.frame.rgb),
            )
        )

    def _vlad(self, view: _View, centres: F32) -> F32:
        near = vlad.adjacency(view.masks.centroids, self._config.neighbour_order)
        return vlad.aggregate(view.features.dense, view.masks, near, centres)

    def _describe(self, view: _View, vocabulary: vlad.Vocabulary) -> F32:
        return vlad.compress(self._vlad(view, vocabulary.centres), vocabulary)

    # The decision.

    def _eligible(self, view: _View) -> int:
        """How many of the first keyframes are old enough, and far enough back, to be revisited."""
        count = len(self._keyframes)
        while count > self._own_from:
            last = self._keyframes[count - 1]
            age = (view.frame.stamp_ns - last.stamp_ns) * 1e-9
            distance = view.travelled_m - last.travelled_m
            near = not np.isnan(distance) and distance < self._config.exclude_recent_m
            if age >= self._config.exclude_recent_s and not near:
                break
            count -= 1
        return count

    def _best_candidate(
        self, view: _View, descriptors: F32, camera: CameraInfo | None
    ) -> _Candidate | None:
        """The candidate with most inliers, of those that segments and whole image vote for."""
        count = self._eligible(view)
        if not count or self._index is None or self._vocabulary is None:
            return None
        votes = self._index.votes(descriptors, count)
        image = vlad.whole_image(view.features.dense, self._vocabulary.centres)
        stored = np.array([k.image_descriptor for k in self._keyframes[:count]], np.float32)
        scores = votes + stored @ image
        best: _Candidate | None = None
        for i in np.argsort(-scores, kind="stable")[: self._config.shortlist]:
            keyframe = self._keyframes[int(i)]
            pairs = match(view.features.descriptors, keyframe.keypoint_descriptors)
            # One camera is known: it is that of the keyframe too if the images have one size.
            known = camera if keyframe.size == view.size else None
            found = verify(
                view.features.keypoints[pairs[:, 0]], keyframe.keypoints[pairs[:, 1]], known
            )
            if best is None or len(found.pairs) > len(best.verification.pairs):
                best = _Candidate(keyframe, found, probability(len(found.pairs), len(pairs)))
        return best

    def _accept(self, best: _Candidate) -> bool:
        """Enough evidence, and the same place as the last keyframes found."""
        good = (
            len(best.verification.pairs) >= self._config.min_inliers
            and best.probability >= self._config.min_probability
        )
        self._recent = [*self._recent, best.keyframe.id] if good else []
        needed = self._config.consecutive
        self._recent = self._recent[-needed:]
        spread = max(self._recent, default=0) - min(self._recent, default=0)
        return good and len(self._recent) == needed and spread <= _AGREE * needed

    def _result(
        self, view: _View, keyframe_id: int, best: _Candidate | None, accepted: bool
    ) -> Revisit:
        positions = [
            np.full(3, np.nan) if pose is None else pose[:3, 3]
            for pose in [*(k.pose for k in self._keyframes), *(v.pose for v in self._waiting)]
        ]
        edges = np.array(self._edges, np.int32).reshape(-1, 2)
        base = Revisit(
            view.frame.stamp_ns,
            view.frame.frame_id,
            keyframe_id,
            self.backend,
            best.probability if best else 0.0,
            candidate_id=best.keyframe.id if best else None,
            inliers=len(best.verification.pairs) if best else 0,
            odom_frame_id=self._odom_frame,
            keyframe_positions=np.array(positions, np.float32).reshape(-1, 3),
            edges=edges,
        )
        if best is None or not accepted:
            return base
        return Revisit(
            base.stamp_ns,
            base.frame_id,
            base.keyframe_id,
            base.backend,
            base.probability,
            base.candidate_id,
            best.keyframe.id,
            best.keyframe.stamp_ns,
            base.inliers,
            best.verification.pairs,
            _segment_pairs(view, best),
            best.verification.pose,
            match_rgb=picture(best.keyframe.thumbnail),
            match_size=best.keyframe.size,
            odom_frame_id=base.odom_frame_id,
            keyframe_positions=base.keyframe_positions,
            edges=edges,
        )


def probability(inliers: int, matches: int) -> float:
    """That a candidate with so many geometric inliers of so many matches is the same place.

    It is the share that tells: repetitive scenes give up to 83 inliers by chance.
    """
    share = inliers / max(1, matches)
    return float(1 / (1 + np.exp(-_SLOPE * (share - _MIDDLE))))


def _segment_pairs(view: _View, best: _Candidate) -> I32:
    """Label pairs (P, 2) that at least three inliers join."""
    known = {tuple(p): i for i, p in enumerate(view.features.keypoints.tolist())}
    theirs = {tuple(p): i for i, p in enumerate(best.keyframe.keypoints.tolist())}
    pairs = [
        (
            view.keypoint_labels[known[float(u), float(v)]],
            best.keyframe.keypoint_labels[theirs[float(s), float(t)]],
        )
        for u, v, s, t in best.verification.pairs
    ]
    names, counts = np.unique(np.array(pairs, np.int32).reshape(-1, 2), axis=0, return_counts=True)
    kept = (counts >= _MIN_PAIR_INLIERS) & (names != 0).all(axis=1)
    return np.asarray(names[kept], np.int32)
