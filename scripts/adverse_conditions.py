"""What `segmentation.adverse` changes on darkened and hazed versions of real images.

    python scripts/adverse_conditions.py IMAGE... [--json FILE] [--picture FILE]
        [--set model=vit_t --set backend=sam --set checkpoint=FILE]

An image's own segments, found without the filters, stand for the truth: for each of them the IoU of
the best segment of the worsened image counts, with and without the filters. The image as it is
goes through both as well.
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
import numpy as np

from robot_perception.core.config import SegmentationConfig, checked
from robot_perception.core.metrics import label_iou
from robot_perception.core.segmentation.adverse import filtered
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import I32, U8, ImageFrame
from robot_perception.pipeline.draw import label, overlay


def dark(rgb: U8, rng: np.random.Generator) -> U8:
    """A twelfth of the light, with the noise of a sensor that counts 3000 electrons in white."""
    electrons = 3000 / 12 * (rgb / 255.0) ** 2.2
    seen = (rng.poisson(electrons) + rng.normal(0, 2, rgb.shape)) / 3000
    return np.asarray(255 * seen.clip(0, 1) ** (1 / 2.2), np.uint8)


def haze(rgb: U8, _: np.random.Generator) -> U8:
    """Light of the air: 75 % of what is seen at the top of the image, 40 % at the bottom."""
    passed = np.linspace(0.25, 0.6, len(rgb))[:, None, None]
    return np.asarray(rgb * passed + 225.0 * (1 - passed), np.uint8)


def yellow(rgb: U8, _: np.random.Generator) -> U8:
    """The light of a sodium lamp, three quarters as bright."""
    return np.asarray(rgb * (0.9, 0.7, 0.35), np.uint8)


CONDITIONS: dict[str, Callable[[U8, np.random.Generator], U8]] = {
    "as it is": lambda rgb, _: rgb,
    "dark": dark,
    "haze": haze,
    "yellow light": yellow,
}


def labels(config: SegmentationConfig, rgb: U8) -> I32:
    """Label image of the segments of one image."""
    return np.asarray(Segmenter(config).step(ImageFrame(0, "camera", rgb)).labels, np.int32)


def likeness(true: I32, found: I32) -> tuple[float, float]:
    """Mean IoU of the best segment of each true one, and the share of these with at least 0.5."""
    best = label_iou(true, found, int(true.max()), int(found.max())).max(axis=1)
    best = best[np.unique(true)[1:] - 1]
    return float(best.mean()), float((best >= 0.5).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    settings = dict(setting.split("=", 1) for setting in options.set)
    plain = checked(replace(SegmentationConfig(), **settings))
    helped = replace(plain, adverse=True)
    rows: list[dict[str, Any]] = []
    panels: list[U8] = []
    for path in options.images:
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        true = labels(plain, rgb)
        for name, condition in CONDITIONS.items():
            worse = condition(rgb, np.random.default_rng(0))
            start = time.thread_time()
            better, filters = filtered(worse)
            row = {"image": path.name, "condition": name, "filters": asdict(filters)}
            row["filter_ms"] = 1e3 * (time.thread_time() - start)
            for how, config in (("without", plain), ("with", helped)):
                found = labels(config, worse)
                iou, recall = likeness(true, found)
                count = len(np.unique(found[found > 0]))
                row[how] = {"mean_best_iou": iou, "recall@0.5": recall, "segments": count}
                if path == options.images[0]:
                    shown = worse if how == "without" else better
                    panels.append(panel(shown, found, f"{name}, {how}: IoU {iou:.2f}"))
            rows.append(row)
    result = {"backend": Segmenter(plain).backend, "means": means(rows), "images": rows}
    print(json.dumps(result["means"], indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.picture:
        pairs = [np.concatenate(panels[i : i + 2], axis=1) for i in range(0, len(panels), 2)]
        cv2.imwrite(str(options.picture), np.concatenate(pairs)[..., ::-1])


def panel(rgb: U8, found: I32, text: str) -> U8:
    """The image and its segments, one above the other."""
    picture = np.concatenate([rgb, overlay(rgb, found.astype(np.uint16), 0.55)])
    picture = cv2.resize(picture, (700, round(picture.shape[0] * 700 / picture.shape[1])))
    label(picture, text)
    return np.asarray(picture, np.uint8)


def means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the images, by condition."""
    summary: dict[str, Any] = {}
    for name in CONDITIONS:
        these = [row for row in rows if row["condition"] == name]
        summary[name] = {
            how: {k: round(float(np.mean([r[how][k] for r in these])), 3) for k in these[0][how]}
            for how in ("without", "with")
        }
        summary[name]["filter_ms"] = round(float(np.median([r["filter_ms"] for r in these])), 1)
    return summary


if __name__ == "__main__":
    main()
