"""Online revisit detection: keyframes in, a decision about each out, a map that grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.revisit import vlad
from robot_perception.core.revisit.choice import KeyframeChooser
from robot_perception.core.revisit.decision import (
    Acceptance,
    Calibration,
    Candidate,
    candidates,
    segment_pairs,
)
from robot_perception.core.revisit.features import FeatureExtractor, check_image
from robot_perception.core.revisit.fit import fit_views, load_vocabulary
from robot_perception.core.revisit.geometry import relative_pose
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import (
    Keyframe,
    label_image,
    load_map,
    picture,
    save_map,
)
from robot_perception.core.revisit.view import View, describe, see, thinned
from robot_perception.core.types import F64, CameraInfo, ImageFrame, Odometry, Revisit
from robot_perception.core.weights import resolve


class RevisitDetector:
    """SegVLAD online. The vocabulary comes from the file that the config names, from a map, or from
    the first keyframes of the run.

    `segment` makes a label image (H, W) where none comes with the frame; without it, a grid of
    cells does. Raises WeightsRejected when the backend's weights or the vocabulary cannot be used.
    """

    def __init__(
        self,
        config: RevisitConfig,
        backbone: Backbone | None = None,
        segment: Callable[[ImageFrame], NDArray[np.integer]] | None = None,
    ) -> None:
        self._config = config
        self._segment = segment
        self._extract = FeatureExtractor(config, backbone)
        self._given: vlad.Vocabulary | None = None
        self._fixed: Calibration | None = None
        if config.vocabulary:
            path = resolve(config.vocabulary)
            self._given, self._fixed = load_vocabulary(path, self._extract)
        self.reset()

    def change_device(self, device: str, backbone: Backbone | None = None) -> None:
        """Go on with features computed on another device; the map stays."""
        self._config = replace(self._config, device=device)
        self._extract = FeatureExtractor(self._config, backbone)

    @property
    def backend(self) -> str:
        return self._extract.name

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        return tuple(self._keyframes)

    def reset(self) -> None:
        """Forget the map and everything else but a vocabulary that a file gave."""
        self._vocabulary: vlad.Vocabulary | None = None
        self._index: PlaceIndex | None = None
        self._keyframes: list[Keyframe] = []
        self._edges: list[tuple[int, int]] = []
        self._waiting: list[tuple[View, int]] = []
        self._positions: list[F64] = []
        self._odom_frame = ""
        self._calibration = self._fixed or Calibration()
        if self._given is not None:
            self._use(self._given)
        self.restart()

    def restart(self) -> None:
        """Keep the map, but take what comes as a new session: all of the map can be revisited."""
        self._own_from = len(self._positions)
        self._session = 1 + max((k.session for k in self._keyframes), default=-1)
        self._chooser = KeyframeChooser(self._config)
        self._acceptance = Acceptance(self._config, self._calibration)

    def step(
        self,
        frame: ImageFrame,
        labels: NDArray[np.integer] | None = None,
        odometry: Odometry | None = None,
        camera: CameraInfo | None = None,
    ) -> Revisit | None:
        """Decide about `frame`; None if it is no keyframe.

        Raises InputRejected for a bad image, which changes nothing, and for labels (H, W) of
        another shape. Stamps must rise; after a clock has jumped back call `restart` or `reset`.
        """
        check_image(frame.rgb)
        if labels is not None and labels.shape != frame.rgb.shape[:2]:
            raise InputRejected("labels and image differ in size")
        pose = None if odometry is None else odometry.pose
        if not self._chooser.step(frame, pose):
            return None
        if self._config.regions == "cells":
            labels = None
        elif labels is None and self._segment is not None:
            labels = self._segment(frame)
        travelled = float("nan") if pose is None else self._chooser.travelled_m
        view = see(self._extract, frame, labels, pose, travelled)
        if odometry is not None:
            self._odom_frame = odometry.frame_id

        keyframe_id = len(self._positions)
        self._positions.append(np.full(3, np.nan) if pose is None else pose[:3, 3])
        best: Candidate | None = None
        if self._vocabulary is None:
            self._waiting.append((view, self._session))
            if len(self._waiting) >= self._config.fit_keyframes:
                self._fit()
        else:
            keyframe = self._describe(view, self._session)
            best = self._best_candidate(keyframe)
            self._add(thinned(keyframe, view, self._config))
            if self._acceptance.step(best) and best is not None:
                self._edges.append((keyframe_id, best.keyframe.id))
                return _with_match(self._result(view, keyframe_id, best), keyframe, best, camera)
        return self._result(view, keyframe_id, best)

    def save(self, path: Path) -> None:
        """Save the map, crash-safe; raises ValueError before there is one, and OSError."""
        if self._vocabulary is None:
            raise ValueError("there is no map yet: the vocabulary is still being fitted")
        edges = np.array(self._edges, np.int32).reshape(-1, 2)
        own = None if self._calibration == Calibration() else self._calibration.numbers()
        save_map(path, self.backend, self._vocabulary, self._keyframes, edges, own)

    def load(self, path: Path) -> None:
        """Replace the map by the one in `path`; what follows is a new session in it. Decisions are
        by the calibration of the vocabulary file, else by that of the map.

        Raises WeightsRejected, and keeps what there is, for a file that is damaged or was made with
        other features or another vocabulary than the config names.
        """
        vocabulary, keyframes, edges, _, numbers = load_map(
            path, self.backend, self._given, self._config.map_on_disk
        )
        if vocabulary.centres.shape[1] != self._extract.dimensions:
            raise WeightsRejected(f"{path.name} is damaged: its features have another dimension")
        self.reset()
        if self._fixed is None and numbers is not None:
            self._calibration = Calibration(*numbers.tolist())
        self._use(vocabulary)
        for keyframe in keyframes:
            self._index_keyframe(keyframe)
            pose = keyframe.pose
            self._positions.append(np.full(3, np.nan) if pose is None else pose[:3, 3])
        self._keyframes = keyframes
        self._edges = [(int(a), int(b)) for a, b in edges]
        self.restart()

    def _use(self, vocabulary: vlad.Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)

    def _fit(self) -> None:
        """Fit vocabulary and PCA on the keyframes that wait, and put these into the map."""
        self._use(fit_views([view for view, _ in self._waiting], self._config))
        for view, session in self._waiting:
            self._add(thinned(self._describe(view, session), view, self._config))
        self._waiting = []

    def _describe(self, view: View, session: int) -> Keyframe:
        assert self._vocabulary is not None
        return describe(view, self._vocabulary, self._config, len(self._keyframes), session)

    def _add(self, keyframe: Keyframe) -> None:
        self._index_keyframe(keyframe)
        self._keyframes.append(keyframe)

    def _index_keyframe(self, keyframe: Keyframe) -> None:
        # What is searched is what a saved and loaded map would hold.
        assert self._index is not None
        self._index.add(
            keyframe.descriptors.astype(np.float32), keyframe.image_descriptor.astype(np.float32)
        )

    def _eligible(self, new: Keyframe) -> int:
        """How many of the first keyframes are old enough, and far enough back, to be revisited."""
        count = len(self._keyframes)
        while count > self._own_from:
            last = self._keyframes[count - 1]
            age = (new.stamp_ns - last.stamp_ns) * 1e-9
            distance = new.travelled_m - last.travelled_m
            near = not np.isnan(distance) and distance < self._config.exclude_recent_m
            if age >= self._config.exclude_recent_s and not near:
                break
            count -= 1
        return count

    def _best_candidate(self, new: Keyframe) -> Candidate | None:
        assert self._index is not None
        eligible = self._eligible(new)
        found = candidates(
            new, self._index, self._keyframes, eligible, self._config, self._calibration
        )
        return found[0] if found else None

    def _result(self, view: View, keyframe_id: int, best: Candidate | None) -> Revisit:
        return Revisit(
            view.frame.stamp_ns,
            view.frame.frame_id,
            keyframe_id,
            self.backend,
            best.probability if best else 0.0,
            candidate_id=best.keyframe.id if best else None,
            inliers=best.inliers if best else 0,
            odom_frame_id=self._odom_frame,
            keyframe_positions=np.array(self._positions, np.float32).reshape(-1, 3),
            edges=np.array(self._edges, np.int32).reshape(-1, 2),
        )


def _with_match(
    result: Revisit, keyframe: Keyframe, best: Candidate, camera: CameraInfo | None
) -> Revisit:
    pose = None
    # One camera is known: it is that of the keyframe too if the images have one size.
    if camera is not None and best.keyframe.size == keyframe.size:
        pose = relative_pose(best.pairs, camera, keyframe.size)
    return replace(
        result,
        match_id=best.keyframe.id,
        match_stamp_ns=best.keyframe.stamp_ns,
        keypoints=best.pairs,
        segment_pairs=segment_pairs(keyframe, best),
        relative_pose=pose,
        match_rgb=picture(best.keyframe.thumbnail),
        match_size=best.keyframe.size,
        labels=label_image(keyframe.label_png),
        match_labels=label_image(best.keyframe.label_png),
    )
