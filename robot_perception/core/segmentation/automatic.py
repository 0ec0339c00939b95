"""Segment everything: a grid of points through the decoder, as SamAutomaticMaskGenerator does it.

The reference upsamples the three masks of every prompt to the image's size and filters then. Here
duplicates are suppressed on the low-resolution logits, and only what is left is upsampled. The
decision near a threshold is always taken at full size, as the reference takes it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.utils.amg import batched_mask_to_box
from torch import Tensor
from torchvision.ops import nms

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.segmentation.promptable import (
    FOREGROUND,
    Encoded,
    Masks,
    Promptable,
    encode,
    stability,
    upsampled,
)
from robot_perception.core.types import U8

_STABILITY_OFFSET = 1.0
# What stability may differ by between low and full resolution.
_STABILITY_MARGIN = 0.05


def everything(model: Promptable, rgb: U8, config: SegmentationConfig) -> Masks:
    """All masks of an image (H, W, 3) that pass the thresholds of `config`, without duplicates.

    Out of GPU memory the decoder's batch is halved down to one prompt, then the model moves to the
    CPU for good; `model.notice` says so. Raises InputRejected if not even that is enough.
    """
    return of_encoded(model, encode(model, rgb), config)


@torch.inference_mode()
def of_encoded(model: Promptable, image: Encoded, config: SegmentationConfig) -> Masks:
    """`everything` of an image that is encoded already."""
    low, iou = _decode_grid(model, image, config)
    kept = _low_resolution_survivors(image, low, iou, config)
    low, iou = low[kept], iou[kept]
    masks, stable = upsampled(model, image, low, _STABILITY_OFFSET)
    return _last_choice(masks, iou, stable, config)


def _last_choice(masks: Tensor, iou: Tensor, stable: Tensor, config: SegmentationConfig) -> Masks:
    """What the reference keeps of full-size masks (K, H, W): stable ones without duplicates."""
    good = torch.ones(len(masks), dtype=torch.bool)
    if config.stability_score_thresh > 0:
        good = stable >= config.stability_score_thresh
    masks, iou, stable = masks[good.to(masks.device)], iou[good.to(iou.device)], stable[good]
    last = nms(_boxes(masks), iou, config.box_nms_thresh)
    return Masks(masks[last].cpu().numpy(), iou[last].cpu().numpy(), stable[last.cpu()].numpy())


def _decode_grid(
    model: Promptable, image: Encoded, config: SegmentationConfig
) -> tuple[Tensor, Tensor]:
    """Low-resolution logits (K, h, w) and predicted IoU (K,) of the masks that IoU lets pass."""
    side = config.points_per_side
    at = (np.arange(side) + 0.5) / side
    grid = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2) * image.size[::-1]
    batch = config.decoder_batch
    # The reference does not filter at a threshold of zero or below.
    least = config.pred_iou_thresh if config.pred_iou_thresh > 0 else -math.inf
    while True:
        points = torch.as_tensor(grid, device=model.device)[:, None]
        labels = torch.full((len(points), 1), FOREGROUND, dtype=torch.int, device=model.device)
        try:
            found = []
            for part in range(0, len(points), batch):
                here = slice(part, part + batch)
                found.append(model.decode_passing(image, points[here], labels[here], least))
            return torch.cat([low for low, _ in found]), torch.cat([iou for _, iou in found])
        except torch.cuda.OutOfMemoryError as error:
            if batch == 1 and model.device.type == "cpu":
                raise InputRejected("out of memory, even for a single prompt") from error
        torch.cuda.empty_cache()
        if batch > 1:
            batch = max(1, batch // 2)
            model.notice = f"out of GPU memory: {batch} prompts in a decoder pass"
        else:
            model.to_cpu()
            batch = config.decoder_batch
            model.notice = "out of GPU memory: runs on the CPU"


def _low_resolution_survivors(
    image: Encoded, low: Tensor, iou: Tensor, config: SegmentationConfig
) -> Tensor:
    """Indices of the masks that full resolution has to decide about, in their order.

    Bilinear upsampling moves a border by less than one low-resolution pixel, so each box IoU has
    bounds. A mask goes if it is unstable beyond doubt, or if one that is kept beyond doubt
    suppresses it beyond doubt.
    """
    valid = low[:, : round(image.valid[0]), : round(image.valid[1])]
    stable = torch.nan_to_num(stability(valid, _STABILITY_OFFSET)).cpu()
    threshold = config.stability_score_thresh
    margin = _STABILITY_MARGIN if threshold > 0 else 0.0
    order = torch.argsort(iou.cpu(), descending=True, stable=True)
    order = order[stable[order] >= threshold - margin]
    sure = (stable[order] >= threshold + margin).numpy()
    surely, possibly = _overlap_bounds(_boxes(valid > 0).cpu()[order], config.box_nms_thresh)
    kept, alive = np.zeros(len(order), bool), np.ones(len(order), bool)
    for i in range(len(order)):
        alive[i] = not (surely[i, :i] & kept[:i]).any()
        kept[i] = alive[i] and sure[i] and not (possibly[i, :i] & alive[:i]).any()
    return order[torch.from_numpy(alive)].sort().values.to(low.device)


def _overlap_bounds(boxes: Tensor, threshold: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(K, K) whether the IoU of boxes (K, 4) is surely, and possibly, above `threshold`."""
    inward = torch.tensor([1.0, 1.0, -1.0, -1.0])
    small, large = boxes + inward, boxes - inward
    area_small = (small[:, 2:] - small[:, :2]).clamp(min=0).prod(1)
    area_large = (large[:, 2:] - large[:, :2]).clamp(min=0).prod(1)
    bounds = []
    for cut, area in ((small, area_large), (large, area_small)):
        start = torch.maximum(cut[:, None, :2], cut[None, :, :2])
        end = torch.minimum(cut[:, None, 2:], cut[None, :, 2:])
        shared = (end - start).clamp(min=0).prod(2)
        union = area[:, None] + area[None] - shared
        bounds.append(((union <= 0) | (shared > threshold * union)).numpy())
    # A box too small for any lower bound is never surely the same.
    return bounds[0] & (area_small > 0).numpy()[:, None], bounds[1]


def _boxes(masks: Tensor) -> Tensor:
    """Boxes (K, 4) x0, y0, x1, y1 of masks (K, H, W), far edge included; zeros for empty ones."""
    boxes: Tensor = batched_mask_to_box(masks)
    return boxes.float()
