"""Revisit detection against ground truth: retrieval, and decisions in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig
from robot_perception.core.metrics import precision_recall, recall_at_k
from robot_perception.core.revisit.decision import Calibration, Candidate, best_of, check
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.fit import fit_views
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.keyframes import Keyframe, thumbnail
from robot_perception.core.revisit.view import View, describe, see
from robot_perception.core.revisit.vlad import Vocabulary
from robot_perception.core.types import F64, ImageFrame

Segment = Callable[[ImageFrame], NDArray[np.integer]]


@dataclass(frozen=True, eq=False)
class Place:
    """An image (with the segments' labels (H, W), if any) and its true camera pose (4, 4)."""

    frame: ImageFrame
    pose: F64
    labels: NDArray[np.integer] | None = None


@dataclass(eq=False)
class _Method:
    """Per query: ranked ids, the score of the first, and whether there is a first."""

    ranked: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of each query's best candidate (N,): inliers, matches, and whether it is the same place."""

    inliers: NDArray[np.int64]
    matches: NDArray[np.int64]
    correct: NDArray[np.bool_]


class _Scorer:
    """Runs queries against a growing map, and notes what each method found and how long it took."""

    def __init__(self, config: RevisitConfig, backend: str, vocabulary: Vocabulary) -> None:
        self._config, self._vocabulary = config, vocabulary
        self._calibration = Calibration()
        self._index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)
        self.keyframes: list[Keyframe] = []
        self.names = (f"segvlad_{backend}", f"global_{backend}", "ours")
        self.methods = {name: _Method() for name in self.names}
        self.best: list[Candidate | None] = []
        self.seconds: dict[str, list[float]] = {"describe": [], "retrieve": [], "verify": []}

    def add(self, view: View) -> None:
        segments, image = describe(view, self._vocabulary, self._config.neighbour_order)
        self._index.add(segments, image)
        self.keyframes.append(
            Keyframe(
                len(self.keyframes),
                view.frame.stamp_ns,
                segments.astype(np.float16),
                image.astype(np.float16),
                view.features.keypoints,
                view.features.descriptors,
                view.keypoint_labels,
                view.pose,
                view.travelled_m,
                view.size,
                thumbnail(view.frame.rgb),
            )
        )

    def query(self, view: View, eligible: int) -> None:
        start = time.perf_counter()
        segments, image = describe(view, self._vocabulary, self._config.neighbour_order)
        described = time.perf_counter()
        ids, scores, by_image = self._index.rank(segments, image, eligible)
        retrieved = time.perf_counter()
        shortlist = [int(i) for i in ids[: self._config.shortlist]]
        found = [check(view, self.keyframes[i]) for i in shortlist]
        verified = time.perf_counter()
        stored = self.keyframes[int(by_image[0])].image_descriptor if len(by_image) else image * 0
        best = best_of(found)
        self.best.append(best)
        reranked = [c.keyframe.id for c in sorted(found, key=lambda c: -c.inliers)]
        probability = self._calibration.probability(best.inliers, best.matches) if best else 0.0
        for name, ranked, score in (
            (self.names[0], ids.tolist(), float(scores[0]) if len(scores) else 0.0),
            (self.names[1], by_image.tolist(), float(stored.astype(np.float32) @ image)),
            (self.names[2], reranked, probability),
        ):
            self.methods[name].ranked.append(ranked)
            self.methods[name].scores.append(score)
        spans = (described - start, retrieved - described, verified - retrieved)
        for span, seconds in zip(spans, self.seconds.values(), strict=True):
            seconds.append(span)

    def result(self, positives: list[set[int]], extract_ms: float) -> dict[str, Any]:
        has = np.array([bool(p) for p in positives])
        ms = {name: 1e3 * float(np.mean(s)) for name, s in self.seconds.items() if s}
        ms["features"] = extract_ms
        found: dict[str, Any] = {}
        for name, method in self.methods.items():
            # Without anything in the map to compare with, there is no decision to judge.
            judged = np.array([bool(r) for r in method.ranked])
            right = np.array(
                [bool(r) and r[0] in p for r, p in zip(method.ranked, positives, strict=True)]
            )
            curve = precision_recall(np.array(method.scores)[judged], right[judged], has[judged])
            found[name] = {
                "recall@1": recall_at_k(method.ranked, positives, 1),
                "recall@5": recall_at_k(method.ranked, positives, 5),
                "recall_at_100_precision": curve.recall_at_full_precision,
                "auc_pr": curve.area,
                "queries": int(judged.sum()),
                "queries_with_positive": int((has & judged).sum()),
                "bytes_per_keyframe": self._bytes(name),
                "ms_per_keyframe": ms,
            }
        return found

    def evidence(self, positives: list[set[int]]) -> Evidence:
        known = [(b, p) for b, p in zip(self.best, positives, strict=True) if b is not None]
        return Evidence(
            np.array([b.inliers for b, _ in known], np.int64),
            np.array([b.matches for b, _ in known], np.int64),
            np.array([b.keyframe.id in p for b, p in known], np.bool_),
        )

    def _bytes(self, name: str) -> float:
        """Stored for a keyframe on average: what each method needs, everything for `ours`."""
        parts = {
            self.names[0]: ("descriptors", "image_descriptor"),
            self.names[1]: ("image_descriptor",),
        }.get(
            name,
            (
                "descriptors",
                "image_descriptor",
                "keypoints",
                "keypoint_descriptors",
                "keypoint_labels",
                "thumbnail",
            ),
        )
        return float(np.mean([sum(getattr(k, p).nbytes for p in parts) for k in self.keyframes]))


def evaluate_walks(
    queries: Iterable[ImageFrame],
    references: Iterable[ImageFrame],
    positives: list[set[int]],
    config: RevisitConfig,
    backbone: Backbone | None = None,
    segment: Segment | None = None,
) -> tuple[dict[str, Any], Evidence]:
    """One walk looked up in the map of another; `positives[i]`: right references of query i.

    The vocabulary is fitted on all references, about 1 MB of memory each. Returns the scores of
    `segvlad_*` (segments and whole image), `global_*` (whole image) and `ours` (the former's
    shortlist ordered by geometric inliers, as the detector does), and the evidence to calibrate on.
    """
    extract = FeatureExtractor(config.device, backbone)
    stored = [see(extract, f, segment(f) if segment else None) for f in references]
    scorer = _Scorer(config, extract.name, fit_views(stored, config))
    for view in stored:
        scorer.add(view)
    seconds = 0.0
    for frame in queries:
        labels = segment(frame) if segment else None
        start = time.perf_counter()
        view = see(extract, frame, labels)
        seconds += time.perf_counter() - start
        scorer.query(view, len(stored))
    extract_ms = 1e3 * seconds / max(1, len(positives))
    return scorer.result(positives, extract_ms), scorer.evidence(positives)


def evaluate_online(
    places: Iterable[Place],
    config: RevisitConfig,
    *,
    radius_m: float = 0.5,
    angle_rad: float = float(np.deg2rad(30)),
    backbone: Backbone | None = None,
) -> tuple[dict[str, Any], Evidence]:
    """One pass over `places`, all taken as keyframes; each is looked up in those that are at least
    `exclude_recent_s` older, and then added.

    A revisit is right within `radius_m` and `angle_rad` of the true pose. The vocabulary is fitted
    on the first `fit_keyframes`. Returns the same as `evaluate_walks`.
    """
    extract = FeatureExtractor(config.device, backbone)
    scorer: _Scorer | None = None
    waiting: list[View] = []
    seconds: list[float] = []
    stamps: list[int] = []
    poses: list[F64] = []
    positives: list[set[int]] = []
    for place in places:
        start = time.perf_counter()
        view = see(extract, place.frame, place.labels, place.pose)
        seconds.append(time.perf_counter() - start)
        age_s = (place.frame.stamp_ns - np.array(stamps, np.int64)) * 1e-9
        eligible = int((age_s >= config.exclude_recent_s).sum())
        stamps.append(place.frame.stamp_ns)
        poses.append(place.pose)
        if scorer is None:
            waiting.append(view)
            if len(waiting) == config.fit_keyframes:
                scorer = _Scorer(config, extract.name, fit_views(waiting, config))
                for first in waiting:
                    scorer.add(first)
            continue
        scorer.query(view, eligible)
        scorer.add(view)
        earlier = np.array(poses[:eligible]).reshape(-1, 4, 4)
        positives.append(_near(place.pose, earlier, radius_m, angle_rad))
    if scorer is None:
        raise ValueError(f"fewer than {config.fit_keyframes} places: too short to evaluate")
    return scorer.result(positives, 1e3 * float(np.mean(seconds))), scorer.evidence(positives)


def _near(pose: F64, others: F64, radius_m: float, angle_rad: float) -> set[int]:
    distance = np.linalg.norm(others[:, :3, 3] - pose[:3, 3], axis=1)
    cosine = (np.einsum("nji,ji->n", others[:, :3, :3], pose[:3, :3]) - 1) / 2
    angle = np.arccos(np.clip(cosine, -1, 1))
    return {int(i) for i in np.flatnonzero((distance < radius_m) & (angle < angle_rad))}
