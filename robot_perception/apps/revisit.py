"""`revisit fit | calibrate | merge` and `evaluate revisit`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.stats import beta

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import RevisitConfig, SegmentationConfig, checked
from robot_perception.core.revisit.decision import calibrate, decisions
from robot_perception.core.revisit.evaluate import OURS, Evaluation, evaluate_online, evaluate_walks
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.fit import fit_frames, load_vocabulary, save_vocabulary
from robot_perception.core.revisit.merge import merge_maps
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import ImageFrame
from robot_perception.core.weights import resolve
from robot_perception.pipeline.perception import make_backbone
from robot_perception.pipeline.places import images, open_walks, places
from robot_perception.pipeline.revisit_plots import precision_recall_png
from robot_perception.pipeline.sources import open_recording


def fit(
    recordings: Sequence[Path], config: RevisitConfig, most: int, out: Path, console: Console
) -> dict[str, Any]:
    """Fit a vocabulary on at most `most` images spread over all `recordings`, and save it."""
    backbone, segment = _eyes(config)
    opened = [open_recording(path) for path in recordings]
    share = max(1, most // len(opened))
    with _progress(console) as progress:
        chosen: list[ImageFrame] = []
        for recording in opened:
            task = progress.add_task(f"read {recording.path.name}", total=None)

            def update(done: int, total: int | None, task: Any = task) -> None:
                progress.update(task, completed=done, total=total)

            chosen += _spread(images(recording, update), share)
        task = progress.add_task("features", total=len(chosen))
        frames = _counted(chosen, lambda: progress.advance(task))
        vocabulary, backend = fit_frames(frames, config, backbone, segment)
    save_vocabulary(out, backend, vocabulary)
    return {
        "vocabulary": str(out),
        "backend": backend,
        "images": len(chosen),
        "centres": len(vocabulary.centres),
        "descriptor_dimensions": len(vocabulary.components),
    }


def evaluate(
    path: Path,
    config: RevisitConfig,
    radius_m: float,
    angle_deg: float,
    published: bool,
    console: Console,
) -> tuple[Evaluation, dict[str, Any]]:
    """Score all methods on `path`; the evaluation, and the protocol that was followed."""
    backbone, segment = _eyes(config)
    walks = open_walks(path)
    with _progress(console) as progress:
        task = progress.add_task("evaluate", total=None)

        def update(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        if walks:
            evaluation = evaluate_walks(
                images(walks.queries, update),
                images(walks.references, update),
                walks.positives,
                config,
                backbone=backbone,
                segment=segment,
                published=published,
            )
            return evaluation, {"kind": "query walk against reference walk"}
        recording = open_recording(path)
        evaluation = evaluate_online(
            places(recording, config, update),
            config,
            radius_m=radius_m,
            angle_rad=float(np.deg2rad(angle_deg)),
            backbone=backbone,
            segment=segment,
            published=published,
        )
    protocol = {
        "kind": "online in one pass",
        "right_within_m": radius_m,
        "right_within_deg": angle_deg,
        "at_least_s_back": config.exclude_recent_s,
        "keyframe_period_s": config.keyframe_period_s,
        "keyframe_distance_m": config.keyframe_distance_m,
        "vocabulary": config.vocabulary or f"fitted on the first {config.fit_keyframes} keyframes",
        "damage": list(recording.damage),
    }
    return evaluation, protocol


def evaluate_and_show(
    path: Path,
    config: RevisitConfig,
    radius_m: float,
    angle_deg: float,
    published: bool,
    json_file: Path | None,
    out: Path | None,
    console: Console,
) -> int:
    """Print the scores, write them and the plot; 3 if the recording is damaged."""
    evaluation, protocol = evaluate(path, config, radius_m, angle_deg, published, console)
    document = {
        "recording": str(path),
        "protocol": protocol,
        "methods": evaluation.methods,
        "decisions": evaluation.decisions,
    }
    table = Table(title="Queries without a right answer count for precision, not for recall@K")
    for column in ("method", "recall@1", "@5", "at 100 % prec.", "AUC-PR", "kB", "ms"):
        table.add_column(column)
    for name, m in evaluation.methods.items():
        scores = [m[k] for k in ("recall@1", "recall@5", "recall_at_100_precision", "auc_pr")]
        cells = [f"{s:.3f}" for s in scores]
        table.add_row(
            name, *cells, f"{m['bytes_per_keyframe'] / 1e3:.1f}", f"{m['ms_per_keyframe']:.0f}"
        )
    console.print(table)
    d = evaluation.decisions
    console.print(
        f"decisions at p >= {d['threshold']:.2f}: {d['right']} right, {d['wrong']} wrong, "
        f"{d['wrong_before_the_first_revisit']} of them before the first revisit"
    )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        title = f"{path.name}: {protocol['kind']}"
        precision_recall_png(out / "precision_recall.png", evaluation.curves, title)
        json_file = json_file or out / "revisit.json"
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document, indent=1))
    return 3 if protocol.get("damage") else 0


def calibrate_vocabulary(
    path: Path,
    config: RevisitConfig,
    precision: float,
    radius_m: float,
    angle_deg: float,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Calibrate the decision on `path`; write vocabulary and calibration to `out`, and a plot of
    precision and recall beside it."""
    evaluation, protocol = evaluate(path, config, radius_m, angle_deg, False, console)
    calibration = calibrate(evaluation.evidence, precision)
    save_vocabulary(out, evaluation.backend, evaluation.vocabulary, calibration)
    probabilities, right = decisions(evaluation.evidence, calibration)
    accepted = probabilities >= calibration.threshold
    hits, count = int(right[accepted].sum()), int(accepted.sum())
    findable = evaluation.methods[OURS]["queries_with_positive"]
    plot = out.with_suffix(".png")
    mark = (hits / max(1, findable), hits / count)
    precision_recall_png(plot, {OURS: evaluation.curves[OURS]}, f"{path.name}: calibration", mark)
    return {
        "vocabulary": str(out),
        "plot": str(plot),
        "protocol": protocol,
        "calibration": asdict(calibration),
        "wanted_precision": precision,
        "precision": hits / count,
        # Clopper and Pearson's lower bound: few decisions promise little.
        "precision_at_least_95": float(beta.ppf(0.05, hits, count - hits + 1)) if hits else 0.0,
        "recall": hits / max(1, findable),
        "accepted": count,
        "queries": len(right),
    }


def merge(
    maps: Sequence[Path], out: Path, config: RevisitConfig, console: Console
) -> dict[str, Any]:
    """Join maps into one file, and look for places that are in several.

    Decisions are by the calibration of the vocabulary that `config` names, if it has one.
    """
    calibration = None
    if config.vocabulary:
        extract = FeatureExtractor(config, make_backbone(config))
        _, calibration = load_vocabulary(resolve(config.vocabulary), extract)
    with _progress(console) as progress:
        task = progress.add_task("merge", total=None)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        merged = merge_maps(maps, out, config, calibration, update)
    return {"map": str(out), **asdict(merged)}


Segment = Callable[[ImageFrame], NDArray[np.integer]]


def _eyes(config: RevisitConfig) -> tuple[Backbone | None, Segment | None]:
    """The backbone, if any, and the segmenter that the revisit node uses on its own, if any."""
    config = checked(config)
    if config.regions == "cells":
        return make_backbone(config), None
    segmenter = Segmenter(SegmentationConfig(device=config.device))
    return make_backbone(config), lambda frame: segmenter.step(frame).labels


def _spread(frames: Any, most: int) -> list[ImageFrame]:
    """At most `most` of the frames, evenly spread, without holding more than twice as many."""
    kept: list[ImageFrame] = []
    step = 1
    for i, frame in enumerate(frames):
        if i % step == 0:
            kept.append(frame)
        if len(kept) > 2 * most:
            kept, step = kept[::2], 2 * step
    return [kept[i * len(kept) // most] for i in range(most)] if len(kept) > most else kept


def _counted(frames: Sequence[ImageFrame], tick: Callable[[], None]) -> Any:
    for frame in frames:
        yield frame
        tick()


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console)
