"""Segment everything with SAM (Kirillov et al., "Segment Anything", ICCV 2023).

The model is that of the `segment_anything` package; the loading and the loop over prompts are ours.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    batched_mask_to_box,
    build_point_grid,
    calculate_stability_score,
)
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops import nms

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F32, U8
from robot_perception.core.weights import load_checkpoint, load_into, pick_device

_STABILITY_OFFSET = 1.0


def load_sam(config: SegmentationConfig) -> Sam:
    """The variant `config.model` with the official checkpoint; raises WeightsRejected."""
    state = load_checkpoint(config.checkpoint)
    model: Sam = sam_model_registry[config.model](checkpoint=None)
    load_into(model, state)
    return model.to(pick_device(config.device)).eval()


@torch.no_grad()
def everything(
    model: Sam, rgb: U8, config: SegmentationConfig
) -> tuple[NDArray[np.bool_], F32, F32]:
    """Masks (K, H, W) of all prompts of a grid, their predicted IoU and stability (K,).

    As SamAutomaticMaskGenerator makes them without crops.
    Prompts go through the decoder `decoder_batch` at a time; masks that the predicted IoU rules out
    are never upsampled. Out of GPU memory the batch is halved down to one prompt; then the frame is
    rejected (InputRejected).
    """
    height, width = rgb.shape[:2]
    resize = ResizeLongestSide(model.image_encoder.img_size)
    try:
        pixels = torch.as_tensor(resize.apply_image(rgb), device=model.device)
        inputs = model.preprocess(pixels.permute(2, 0, 1)[None].contiguous())
        embedding = model.image_encoder(inputs)
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise InputRejected("out of GPU memory for the image encoder") from error
    grid = build_point_grid(config.points_per_side) * np.array([width, height])
    points = torch.as_tensor(resize.apply_coords(grid, (height, width)), device=model.device)
    batch = config.decoder_batch
    while True:
        try:
            found = [
                _decode(model, embedding, part, pixels.shape[:2], (height, width), config)
                for part in torch.split(points, batch)
            ]
            break
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if batch == 1:
                raise InputRejected("out of GPU memory, even for a single prompt") from error
            batch = max(1, batch // 2)
    masks, iou, stability, boxes = (torch.cat(column) for column in zip(*found, strict=True))
    kept = nms(boxes.float(), iou, config.box_nms_thresh)
    return masks[kept].cpu().numpy(), iou[kept].cpu().numpy(), stability[kept].cpu().numpy()


def _decode(
    model: Sam,
    embedding: Tensor,
    points: Tensor,
    input_size: torch.Size,
    original: tuple[int, int],
    config: SegmentationConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks (K, H, W) bool, predicted IoU, stability and boxes of the prompts that pass."""
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    sparse, dense = model.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    low, iou = model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    low, iou = low.flatten(0, 1), iou.flatten()
    if config.pred_iou_thresh > 0:
        good = iou > config.pred_iou_thresh
        low, iou = low[good], iou[good]
    masks, stability = _upsample(model, low, input_size, original)
    if config.stability_score_thresh > 0:
        good = stability >= config.stability_score_thresh
        masks, iou, stability = masks[good], iou[good], stability[good]
    return masks, iou, stability, batched_mask_to_box(masks)


def _upsample(
    model: Sam, low: Tensor, input_size: torch.Size, original: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Full-size masks of low-resolution logits (K, h, w), a few at a time, and their stability."""
    masks = torch.empty((len(low), *original), dtype=torch.bool, device=low.device)
    stability = torch.empty(len(low), device=low.device)
    for start in range(0, len(low), 32):
        part = slice(start, start + 32)
        logits = model.postprocess_masks(low[part, None], tuple(input_size), original)[:, 0]
        stability[part] = calculate_stability_score(logits, model.mask_threshold, _STABILITY_OFFSET)
        masks[part] = logits > model.mask_threshold
    return masks, stability
