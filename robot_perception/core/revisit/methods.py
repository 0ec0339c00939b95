"""The ways to recognise a place that an evaluation compares, each behind the same two calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from robot_perception.core.config import RevisitConfig
from robot_perception.core.revisit import published, vlad
from robot_perception.core.revisit.baselines import Baseline
from robot_perception.core.revisit.decision import Acceptance, Calibration, Candidate, candidates
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import Keyframe
from robot_perception.core.revisit.view import View, describe, thinned
from robot_perception.core.types import F32, F64


@dataclass(frozen=True)
class Answer:
    """What a method says to a query: ids, best first, and the score of the first."""

    ranked: list[int]
    score: float


class Method(Protocol):
    """A map that grows view by view. A view that is asked about and then added is described once.

    `uses_features`: whether it needs the features and segments of a view, or its image alone.
    """

    uses_features: bool

    def add(self, view: View) -> None: ...

    def query(self, view: View, eligible: int) -> None:
        """Look `view` up among the first `eligible` that were added."""
        ...

    def answers(self) -> list[Answer]:
        """The answers to all queries in their order."""
        ...

    @property
    def bytes_per_keyframe(self) -> float: ...


class Retrieval:
    """Super-segments with the global descriptor; with `whole`, the global descriptor alone; with
    `cells`, cells of a grid in place of segments."""

    uses_features = True

    def __init__(
        self,
        vocabulary: vlad.Vocabulary,
        config: RevisitConfig,
        *,
        whole: bool = False,
        cells: bool = False,
    ) -> None:
        self._vocabulary, self._config = vocabulary, config
        self._whole, self._cells = whole, cells
        self._index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)
        self._bytes: list[int] = []
        self._answers: list[Answer] = []
        self._last: tuple[View, tuple[View, Keyframe]] | None = None

    def add(self, view: View) -> None:
        seen, keyframe = self._described(view)
        keyframe = thinned(keyframe, seen, self._config)
        self._index.add(*_descriptors(keyframe))
        used = keyframe.image_descriptor.nbytes
        self._bytes.append(used if self._whole else used + keyframe.descriptors.nbytes)

    def query(self, view: View, eligible: int) -> None:
        segments, image = _descriptors(self._described(view)[1])
        ids, scores, _ = self._index.rank(
            segments[:0] if self._whole else segments, image, eligible
        )
        self._answers.append(Answer(ids.tolist(), float(scores[0]) if len(scores) else 0.0))

    def answers(self) -> list[Answer]:
        return self._answers

    @property
    def bytes_per_keyframe(self) -> float:
        return float(np.mean(self._bytes))

    def _described(self, view: View) -> tuple[View, Keyframe]:
        if self._last is None or self._last[0] is not view:
            seen = view
            if self._cells:
                cells = vlad.grid_labels(view.size[1], view.size[0])
                masks = vlad.segment_masks(cells, view.features.dense.shape[:2])
                seen = replace(view, masks=masks)
            self._last = view, (seen, describe(seen, self._vocabulary, self._config))
        return self._last[1]


class Detection:
    """What the detector does: retrieval, geometric check of the shortlist, probability, decision.

    `found` are the candidates of each query, most probable first, `accepted` the decisions.
    """

    uses_features = True

    def __init__(
        self, vocabulary: vlad.Vocabulary, config: RevisitConfig, calibration: Calibration
    ) -> None:
        self._vocabulary, self._config, self._calibration = vocabulary, config, calibration
        self._index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)
        self._acceptance = Acceptance(config, calibration)
        self._keyframes: list[Keyframe] = []
        self._last: tuple[View, Keyframe] | None = None
        self.found: list[list[Candidate]] = []
        self.accepted: list[bool] = []

    def add(self, view: View) -> None:
        keyframe = thinned(self._keyframe(view), view, self._config)
        self._index.add(*_descriptors(keyframe))
        self._keyframes.append(keyframe)

    def query(self, view: View, eligible: int) -> None:
        found = candidates(
            self._keyframe(view),
            self._index,
            self._keyframes,
            eligible,
            self._config,
            self._calibration,
        )
        self.found.append(found)
        self.accepted.append(self._acceptance.step(found[0] if found else None))

    def answers(self) -> list[Answer]:
        return [
            Answer([c.keyframe.id for c in found], found[0].probability if found else 0.0)
            for found in self.found
        ]

    @property
    def bytes_per_keyframe(self) -> float:
        return float(np.mean([stored_bytes(k) for k in self._keyframes]))

    def _keyframe(self, view: View) -> Keyframe:
        if self._last is None or self._last[0] is not view:
            number = len(self._keyframes)
            self._last = view, describe(view, self._vocabulary, self._config, number)
        return self._last[1]


class Simple:
    """A baseline on images."""

    uses_features = False

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._answers: list[Answer] = []
        self._last: tuple[View, Any] | None = None

    def add(self, view: View) -> None:
        self._baseline.add(self._described(view))

    def query(self, view: View, eligible: int) -> None:
        scores = self._baseline.scores(self._described(view), eligible)
        ranked = np.argsort(-scores, kind="stable")
        self._answers.append(Answer(ranked.tolist(), float(scores[ranked[0]]) if eligible else 0.0))

    def answers(self) -> list[Answer]:
        return self._answers

    @property
    def bytes_per_keyframe(self) -> float:
        return self._baseline.bytes_per_image

    def _described(self, view: View) -> Any:
        if self._last is None or self._last[0] is not view:
            self._last = view, self._baseline.describe(view.frame.rgb)
        return self._last[1]


class Published:
    """SegVLAD as published: answers come when all queries are known."""

    uses_features = True

    def __init__(self, centres: F32, fit_on: Sequence[View]) -> None:
        self._centres = centres
        self._whitening = published.fit_whitening(
            np.concatenate([published_vlads(view, centres) for view in fit_on])
        )
        self._stored: list[F64] = []
        self._asked: list[tuple[F64, int]] = []
        self._last: tuple[View, F64] | None = None

    def add(self, view: View) -> None:
        self._stored.append(self._described(view))

    def query(self, view: View, eligible: int) -> None:
        self._asked.append((self._described(view), eligible))

    def answers(self) -> list[Answer]:
        queries, eligible = [d for d, _ in self._asked], [n for _, n in self._asked]
        found = []
        for scores in published.image_scores(queries, self._stored, eligible):
            ranked = np.argsort(-scores, kind="stable")
            found.append(Answer(ranked.tolist(), float(scores.max(initial=0.0))))
        return found

    @property
    def bytes_per_keyframe(self) -> float:
        return float(np.mean([d.nbytes for d in self._stored]))

    def _described(self, view: View) -> F64:
        if self._last is None or self._last[0] is not view:
            vlads = published_vlads(view, self._centres)
            whitened = (vlads - self._whitening.mean) @ self._whitening.components.T
            self._last = view, whitened
        return self._last[1]


def published_vlads(view: View, centres: F32) -> F64:
    """The published descriptors (S, K * D) of a view."""
    shape = view.features.dense.shape[:2]
    # A patch belongs to the segment that covers half of it.
    masks = view.masks.shares.toarray().reshape(-1, *shape) >= 0.5
    near = vlad.adjacency(view.masks.centroids, published.ORDER)
    return published.super_segment_vlads(view.features.dense, masks, near, centres)


def stored_bytes(keyframe: Keyframe) -> int:
    """What a map keeps of a keyframe."""
    arrays = (
        keyframe.descriptors,
        keyframe.image_descriptor,
        keyframe.keypoints,
        keyframe.keypoint_descriptors,
        keyframe.keypoint_labels,
        keyframe.thumbnail,
        keyframe.label_png,
    )
    return sum(array.nbytes for array in arrays)


def _descriptors(keyframe: Keyframe) -> tuple[F32, F32]:
    return keyframe.descriptors.astype(np.float32), keyframe.image_descriptor.astype(np.float32)
