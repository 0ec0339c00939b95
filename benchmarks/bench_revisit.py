"""Cost of revisit detection by stage, against SegVLAD as published, and calibrations crosswise.

    python benchmarks/bench_revisit.py [--data ../shared/data] [--drive DRIVE.mcap] [--json FILE]

`DRIVE.mcap` is a drive with loops, as `robot-perception simulate DRIVE.mcap --duration-s 60` makes
one. What is absent is left out. All times are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
import torch

from robot_perception.core.config import RevisitConfig, SegmentationConfig
from robot_perception.core.revisit import published
from robot_perception.core.revisit.decision import Calibration, calibrate, candidates, decisions
from robot_perception.core.revisit.evaluate import Evaluation, evaluate_online, evaluate_walks
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.fit import fit_views
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.methods import published_vlads
from robot_perception.core.revisit.view import View, describe, see, super_segments
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import ImageFrame
from robot_perception.pipeline.places import images, open_walks, places
from robot_perception.pipeline.sources import open_recording

DENSE = RevisitConfig(keyframe_period_s=0.2, keyframe_distance_m=0.0, device="cpu")
DRIVE = RevisitConfig(device="cpu")


class Clock:
    """Medians of what its stages took, in milliseconds."""

    def __init__(self) -> None:
        self.spans: dict[str, list[float]] = {}

    def time(self, stage: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        self.spans.setdefault(stage, []).append(1e3 * (time.perf_counter() - start))
        return result

    def medians(self) -> dict[str, float]:
        return {stage: float(np.median(spans)) for stage, spans in self.spans.items()}


def stages(frames: list[ImageFrame], config: RevisitConfig) -> dict[str, Any]:
    """Every frame a keyframe, looked up among all before it, by ours and as published."""
    clock = Clock()
    segmenter = Segmenter(SegmentationConfig(device="cpu"))
    extract = FeatureExtractor(config)
    views: list[View] = []
    for frame in frames:
        labels = clock.time("segmentation", lambda f=frame: segmenter.step(f).labels)
        views.append(clock.time("features", lambda f=frame, at=labels: see(extract, f, at)))
    vocabulary = fit_views(views[: config.fit_keyframes], config)
    centres, order = vocabulary.centres, config.neighbour_order
    index = PlaceIndex(len(vocabulary.components), vocabulary.centres.size)
    keyframes = []
    for i, view in enumerate(views):
        clock.time("ours: aggregation", lambda v=view: super_segments(v, centres, order))
        key = clock.time("describe", lambda v=view, n=i: describe(v, vocabulary, config, n))
        segments, image = (x.astype(np.float32) for x in (key.descriptors, key.image_descriptor))
        clock.time("ours: retrieval", lambda s=segments, g=image, n=i: index.rank(s, g, n))
        clock.time(
            "retrieval and geometric check",
            lambda k=key, n=i: candidates(k, index, keyframes, n, config, Calibration()),
        )
        clock.time("add", lambda s=segments, g=image: index.add(s, g))
        keyframes.append(key)
    vlads = [
        clock.time("published: aggregation", lambda v=v: published_vlads(v, vocabulary.centres))
        for v in views
    ]
    whitening = published.fit_whitening(np.concatenate(vlads[: config.fit_keyframes]))
    white = [(v - whitening.mean) @ whitening.components.T for v in vlads]
    for i in range(1, len(white)):
        clock.time(
            "published: retrieval",
            lambda n=i: published.image_scores([white[n]], white[:n], [n]),
        )
    ms = clock.medians()
    ours = ms["ours: aggregation"] + ms["ours: retrieval"]
    other = ms["published: aggregation"] + ms["published: retrieval"]
    stored = float(np.mean([k.descriptors.nbytes + k.image_descriptor.nbytes for k in keyframes]))
    segments_a_frame = float(np.mean([len(v) for v in vlads]))
    return {
        "keyframes": len(frames),
        "image": list(views[0].size),
        "segments_per_keyframe": segments_a_frame,
        "median_ms": ms,
        "speed_ratio_aggregation_and_retrieval": other / ours,
        "bytes_per_keyframe": {
            "ours": stored,
            "published, VLAD of these features in float64": float(
                np.mean([v.nbytes for v in vlads])
            ),
            "published, PCA in float64": float(np.mean([w.nbytes for w in white])),
            "published, 49152 dimensions in float64": segments_a_frame * 49152 * 8,
        },
    }


def evaluations(data: Path, drive: Path | None) -> dict[str, Evaluation]:
    """Ours on what recordings there are, with the settings that docs/revisit.md states."""
    found = {}
    segmenter = Segmenter(SegmentationConfig(device="cpu"))

    def segment(frame: ImageFrame) -> np.ndarray:
        return segmenter.step(frame).labels

    walks = open_walks(data / "corridor")
    if walks:
        queries, references = images(walks.queries), images(walks.references)
        found["corridor"] = evaluate_walks(
            queries, references, walks.positives, DRIVE, segment=segment
        )
    for name, path, config, radius in (
        ("redkitchen", data / "redkitchen", DENSE, 0.5),
        ("simulated street", drive, DRIVE, 5.0),
    ):
        if path is not None and path.exists():
            seen = places(open_recording(path), config)
            found[name] = evaluate_online(seen, config, radius_m=radius, segment=segment)
    return found


def crosswise(found: dict[str, Evaluation], precision: float) -> list[dict[str, Any]]:
    """Calibrated on one recording, decided on another."""
    rows = []
    for trained_on, source in found.items():
        try:
            calibration = calibrate(source.evidence, precision)
        except ValueError as error:
            rows.append({"calibrated_on": trained_on, "error": str(error)})
            continue
        for name, target in found.items():
            rows.append(
                {
                    "calibrated_on": trained_on,
                    "decided_on": name,
                    "calibration": asdict(calibration),
                    **_decided(target, calibration),
                }
            )
    for name, target in found.items():
        rows.append(
            {"calibrated_on": "default", "decided_on": name, **_decided(target, Calibration())}
        )
    return rows


def _decided(target: Evaluation, calibration: Calibration) -> dict[str, Any]:
    probabilities, right = decisions(target.evidence, calibration)
    accepted = probabilities >= calibration.threshold
    return {
        "accepted": int(accepted.sum()),
        "right": int(right[accepted].sum()),
        "findable": target.methods["ours"]["queries_with_positive"],
    }


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=root / "shared" / "data")
    parser.add_argument("--drive", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    faiss.omp_set_num_threads(1)
    result: dict[str, Any] = {}
    kitchen = options.data / "redkitchen"
    if kitchen.is_dir():
        frames = [p.frame for p in places(open_recording(kitchen), DENSE)]
        for order in (1, published.ORDER):
            config = replace(DENSE, neighbour_order=order)
            result[f"stages, order {order}"] = stages(frames[:100], config)
    result["calibrations"] = crosswise(evaluations(options.data, options.drive), 0.99)
    text = json.dumps(result, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
