"""What the SAM family has in common: one image encoding, then any number of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F32, U8

FOREGROUND, BACKGROUND = 1, 0
# The labels that the prompt encoders have for the corners of a box.
_CORNERS = (2, 3)
_MASKS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded image: its `size` (height, width) in pixels and what the decoder needs."""

    size: tuple[int, int]
    features: Any
    # Height and width of the low-resolution logits that show the image; the rest is padding.
    valid: tuple[float, float]


class Promptable(Protocol):
    """An image encoder and a mask decoder that takes points and boxes.

    `notice` says what the model has done to keep going (smaller batches, the CPU); empty: nothing.
    """

    name: str
    notice: str

    @property
    def device(self) -> torch.device: ...

    def to_cpu(self) -> None: ...

    def encode(self, rgb: U8) -> Encoded:
        """Encode an image (H, W, 3)."""
        ...

    def decode(
        self, image: Encoded, points: Tensor, labels: Tensor, several: bool
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (N, M, h, w) and predicted IoU (N, M) of N prompts.

        `points` (N, P, 2) x, y in pixels of the image, `labels` (N, P). Three masks a prompt where
        `several`, else one.
        """
        ...

    def decode_passing(
        self, image: Encoded, points: Tensor, labels: Tensor, least_iou: float
    ) -> tuple[Tensor, Tensor]:
        """Of three masks a prompt those with a predicted IoU above `least_iou`, in their order.

        Low-resolution logits (K, h, w), without the padding where the model can leave it out, and
        predicted IoU (K,).
        """
        ...

    def upsample(self, image: Encoded, low: Tensor) -> Tensor:
        """Logits (K, H, W) at the image's size of low-resolution ones (K, h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks (K, H, W) on the CPU, their predicted IoU and stability (K,)."""

    masks: NDArray[np.bool_]
    predicted_iou: F32
    stability: F32


def passing(low: Tensor, iou: Tensor, least_iou: float) -> tuple[Tensor, Tensor]:
    """Of masks (N, M, h, w) and predicted IoU (N, M) those above `least_iou`: (K, h, w), (K,)."""
    good = iou > least_iou
    return low[good], iou[good]


def encode(model: Promptable, rgb: U8) -> Encoded:
    """Encode an image; without enough GPU memory, on the CPU from now on."""
    try:
        return model.encode(rgb)
    except torch.cuda.OutOfMemoryError:
        if model.device.type == "cpu":
            raise InputRejected("out of memory for the image encoder") from None
    torch.cuda.empty_cache()
    model.to_cpu()
    model.notice = "out of GPU memory: runs on the CPU"
    return model.encode(rgb)


@torch.inference_mode()
def prompted(
    model: Promptable,
    image: Encoded,
    points: F32 | None = None,
    labels: NDArray[np.integer] | None = None,
    box: tuple[float, float, float, float] | None = None,
) -> Masks:
    """The best mask of one prompt: `points` (P, 2) x, y in pixels, a `box` x0, y0, x1, y1, or both.

    `labels` (P,): 1 on the thing (as all are without labels), 0 beside it. Of a single point the
    best of three masks is taken. Raises InputRejected for no prompt or one outside the image.
    """
    if points is None and box is None:
        raise InputRejected("neither a point nor a box is given")
    corners = np.reshape(box, (2, 2)) if box is not None else np.zeros((0, 2))
    given = np.zeros((0, 2)) if points is None else np.asarray(points, float).reshape(-1, 2)
    marks = np.ones(len(given), int) if labels is None else np.asarray(labels, int)
    if len(marks) != len(given) or not np.isin(marks, (FOREGROUND, BACKGROUND)).all():
        raise InputRejected("each point needs a label, 1 or 0")
    height, width = image.size
    xy = np.concatenate([given, corners])
    if not (np.isfinite(xy).all() and (xy >= 0).all() and (xy <= (width, height)).all()):
        raise InputRejected(f"a prompt outside the image of {width} x {height} pixels")
    codes = np.concatenate([marks, _CORNERS if len(corners) else []])
    several = len(xy) == 1
    low, iou = model.decode(
        image,
        torch.as_tensor(xy, dtype=torch.float32, device=model.device)[None],
        torch.as_tensor(codes, dtype=torch.int, device=model.device)[None],
        several,
    )
    best = iou[0].argmax()
    masks, stability = upsampled(model, image, low[0, best][None], 1.0)
    return Masks(masks.cpu().numpy(), iou[0, best][None].float().cpu().numpy(), stability.numpy())


def place(
    size: tuple[int, ...],
    points: F32 | None,
    labels: NDArray[np.integer] | None,
    box: tuple[float, float, float, float] | None,
) -> tuple[int, int]:
    """The pixel x, y that a prompt means: its first point on the thing, or the box's middle."""
    if points is not None and len(points):
        on = np.flatnonzero(labels) if labels is not None else np.arange(len(points))
        x, y = points[on[0]] if len(on) else (np.nan, np.nan)
    elif box is not None:
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    else:
        raise InputRejected("neither a point nor a box is given")
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise InputRejected(f"a prompt outside the image of {size[1]} x {size[0]} pixels")
    return int(x), int(y)


def upsampled(
    model: Promptable, image: Encoded, low: Tensor, offset: float
) -> tuple[Tensor, Tensor]:
    """Full-size masks (K, H, W) of low-resolution logits, a few at a time, and their stability."""
    masks = torch.empty((len(low), *image.size), dtype=torch.bool, device=low.device)
    scores = torch.empty(len(low))
    for start in range(0, len(low), _MASKS_AT_ONCE):
        part = slice(start, start + _MASKS_AT_ONCE)
        logits = model.upsample(image, low[part])
        scores[part] = stability(logits, offset).cpu()
        masks[part] = logits > 0
    return masks, scores


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU (K,) of masks (K, H, W) cut at `offset` above and below the threshold of zero."""
    high = (logits > offset).flatten(1).sum(1).double()
    low = (logits > -offset).flatten(1).sum(1).double()
    return (high / low).float()
