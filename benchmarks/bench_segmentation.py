"""Segment everything beside the reference, in one process: same weights, image and device.

    python benchmarks/bench_segmentation.py IMAGE [--model vit_t] [--checkpoint FILE] [--points 32]
        [--precision bfloat16] [--decoders folded,published] [--device cpu] [--json FILE]

Without a checkpoint the weights are random, with the mask heads made stronger so that masks are
stable, and the thresholds set so that `--share` of the masks pass the predicted IoU and `--stable`
of these the stability. The reference is SamAutomaticMaskGenerator as it comes, 64 prompts at a
time. Times on the CPU are CPU time by thread.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.metrics import mask_iou
from robot_perception.core.segmentation import automatic
from robot_perception.core.segmentation.masks import from_masks
from robot_perception.core.segmentation.promptable import upsampled
from robot_perception.core.segmentation.sam import PromptableSam, build
from robot_perception.core.weights import load_checkpoint, load_into
from robot_perception.pipeline.messages import rosbags_factory
from robot_perception.wire import decode_image, encode_array_image, encode_rgb


def make_model(name: str, checkpoint: str, device: str) -> Any:
    torch.manual_seed(0)
    model = build(name)
    if checkpoint:
        load_into(model, load_checkpoint(checkpoint))
    else:
        with torch.no_grad():
            for head in model.mask_decoder.output_hypernetworks_mlps:
                head.layers[-1].weight *= 100
    return model.to(device).eval()


def chosen(model: PromptableSam, rgb: np.ndarray, share: float, stable: float) -> dict[str, float]:
    """Thresholds on an 8 x 8 grid: `share` of masks pass by IoU, `stable` of these by stability.

    The boxes of random masks are the whole image: none is a duplicate by its box.
    """
    config = SegmentationConfig(points_per_side=8, pred_iou_thresh=0.0, decoder_batch=16)
    image = model.encode(rgb)
    low, iou = automatic._decode_grid(model, image, config)
    least = float(torch.quantile(iou, 1 - share))
    _, scores = upsampled(model, image, low[iou > least], 1.0)
    return {
        "pred_iou_thresh": least,
        "stability_score_thresh": float(torch.quantile(scores, 1 - stable)),
        "box_nms_thresh": 1.0,
    }


def timed(device: str) -> float:
    """Seconds: of the clock on a GPU, of the process's CPU on the CPU, where others compute too."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def ours(model: PromptableSam, rgb: np.ndarray, config: SegmentationConfig, device: str) -> Any:
    """Masks and the milliseconds of each part, from message to message."""
    factory = rosbags_factory
    message = encode_rgb(factory, 0, "camera", rgb)
    marks = [timed(device)]
    rgb = decode_image(message, 1 << 28).rgb
    marks.append(timed(device))
    image = model.encode(rgb)
    marks.append(timed(device))
    low, iou = automatic._decode_grid(model, image, config)
    marks.append(timed(device))
    kept = automatic._low_resolution_survivors(image, low, iou, config)
    marks.append(timed(device))
    masks, stable = upsampled(model, image, low[kept], 1.0)
    marks.append(timed(device))
    found = automatic._last_choice(masks, iou[kept], stable, config)
    marks.append(timed(device))
    regions = from_masks(found.masks, found.predicted_iou, found.stability)
    marks.append(timed(device))
    encode_array_image(factory, 0, "camera", regions.labels.astype(np.uint16), "16UC1")
    marks.append(timed(device))
    parts = (
        "decode_message",
        "encoder",
        "decoder",
        "low_resolution_nms",
        "upsampling",
        "nms",
        "label_image",
        "encode_message",
    )
    steps = {part: 1e3 * (b - a) for part, a, b in zip(parts, marks, marks[1:], strict=False)}
    return found, {**steps, "total": 1e3 * (marks[-1] - marks[0])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", default="vit_t")
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--decoders", default="folded", help="folded, published or both, by comma")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--points", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--stable", type=float, default=0.1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rgb = cv2.cvtColor(cv2.imread(str(options.image)), cv2.COLOR_BGR2RGB)
    model = make_model(options.model, options.checkpoint, options.device)
    exact = PromptableSam(model)
    thresholds = (
        {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "box_nms_thresh": 0.7}
        if options.checkpoint
        else chosen(exact, rgb, options.share, options.stable)
    )
    config = SegmentationConfig(
        points_per_side=options.points, decoder_batch=options.batch, **thresholds
    )
    runs: dict[str, list[dict[str, float]]] = {}
    masks: dict[str, np.ndarray] = {}
    for _ in range(options.repeat):
        for decoder, precision in product(
            options.decoders.split(","), dict.fromkeys(["float32", options.precision])
        ):
            lower = PromptableSam(
                model, precision=getattr(torch, precision), folded=decoder == "folded"
            )
            found, parts = ours(lower, rgb, config, options.device)
            runs.setdefault(f"{decoder}_{precision}", []).append(parts)
            masks[f"{decoder}_{precision}"] = found.masks
            print(decoder, precision, len(found.masks), parts, flush=True)
        start = timed(options.device)
        reference = SamAutomaticMaskGenerator(
            model, points_per_side=options.points, crop_n_layers=0, **thresholds
        ).generate(rgb)
        runs.setdefault("reference", []).append({"total": 1e3 * (timed(options.device) - start)})
        masks["reference"] = np.stack([r["segmentation"] for r in reference])
    summary: dict[str, Any] = {
        "image": f"{rgb.shape[1]} x {rgb.shape[0]}",
        "model": options.model,
        "weights": options.checkpoint or "random",
        "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
        "threads": torch.get_num_threads(),
        "points": options.points**2,
        "thresholds": thresholds,
    }
    slow = np.median([run["total"] for run in runs["reference"]])
    for name, steps in runs.items():
        median = {part: float(np.median([s[part] for s in steps])) for part in steps[0]}
        overlap = mask_iou(masks["reference"], masks[name])
        summary[name] = {
            "ms": {part: round(value, 1) for part, value in median.items()},
            "masks": len(masks[name]),
            "mean_iou_with_reference": round(float(overlap.max(axis=1).mean()), 4)
            if overlap.size
            else None,
            "times_as_fast": round(float(slow / median["total"]), 2),
        }
    print(json.dumps(summary, indent=1))
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
