"""DINO / DINOv2 patch features (Caron et al. 2021; Oquab et al. 2023), by timm's transformers.

One forward serves segmentation and revisit: the last image's features are kept.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.types import F32, U8
from robot_perception.core.weights import (
    file_sha256,
    load_checkpoint,
    load_into,
    pick_device,
    resolve,
)

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_LONGER_SIDE = 518


@dataclass(frozen=True)
class Layer:
    """Which features: of transformer block `block` (-1: the last one) the output ("token", of the
    last block after the final norm), or the "key", "query" or "value" of its attention."""

    block: int = -1
    facet: str = "token"


_LAST = Layer()
_FACETS = ("query", "key", "value")


class Backbone:
    """Patch features of a timm model with the official checkpoint. Thread-safe.

    Raises WeightsRejected for an unknown model or a checkpoint that does not fit.
    """

    def __init__(self, name: str, checkpoint: str, device: str) -> None:
        self.name = name
        self._device = pick_device(device)
        state = load_checkpoint(checkpoint)
        self.weights = file_sha256(resolve(checkpoint))[:8]
        try:
            model: Any = timm.create_model(
                name, pretrained=False, num_classes=0, dynamic_img_size=True
            )
        except (RuntimeError, TypeError) as error:
            raise WeightsRejected(f"{name} is no vision transformer that timm knows") from error
        load_into(model, _renamed(state, model))
        self._model = model.to(self._device).eval()
        self.dimensions = int(model.num_features)
        self._patch = int(model.patch_embed.patch_size[0])
        self._lock = threading.Lock()
        self._last: tuple[U8, dict[Layer, F32]] | None = None
        # What hooks caught in the forward that runs: tokens (1, N, D) by layer.
        self._caught: dict[Layer, torch.Tensor] = {}
        self._watched = {_LAST}
        self.forwards = 0

    def watch(self, layer: Layer) -> Layer:
        """Keep the features of `layer` too from now on; returns its name with the block counted
        from 0. Raises WeightsRejected if the model has no such block."""
        blocks = self._model.blocks
        if not -len(blocks) <= layer.block < len(blocks):
            raise WeightsRejected(f"{self.name} has {len(blocks)} blocks, and none {layer.block}")
        layer = Layer(layer.block % len(blocks), layer.facet)
        with self._lock:
            if layer in self._watched:
                return layer
            self._watched.add(layer)
            self._last = None

            def keep(module: object, inputs: object, output: torch.Tensor) -> None:
                if layer.facet in _FACETS:
                    output = output.chunk(3, dim=2)[_FACETS.index(layer.facet)]
                self._caught[layer] = output

            if layer.facet in _FACETS:
                blocks[layer.block].attn.qkv.register_forward_hook(keep)
            elif layer.block == len(blocks) - 1:
                self._model.norm.register_forward_hook(keep)
            else:
                blocks[layer.block].register_forward_hook(keep)
        return layer

    def features(self, rgb: U8, layer: Layer = _LAST) -> F32:
        """Patch features (h, w, D) of an image (H, W, 3); prefix and register tokens left out.

        `layer` is the last one, or one that `watch` returned.

        The image is scaled to a longer side of 518 pixels and to multiples of the patch size.
        """
        with self._lock:
            if self._last is not None and self._last[0] is rgb:
                return self._last[1][layer]
            features = self._forward(rgb)
            self._last = (rgb, features)
            return features[layer]

    def pool(self, features: F32, labels: NDArray[np.integer], ids: NDArray[np.integer]) -> F32:
        """Unit-length mean feature (K, D) of each of `ids` in the label image (H, W).

        A segment smaller than a patch takes part by its share of the patch; one without any pixel
        gets zeros.
        """
        height, width, _ = features.shape
        rows = np.arange(labels.shape[0]) * height // labels.shape[0]
        columns = np.arange(labels.shape[1]) * width // labels.shape[1]
        patch = rows[:, None] * width + columns[None]
        index = np.full(int(max(labels.max(), ids.max(initial=0))) + 1, -1)
        index[ids] = np.arange(len(ids))
        segment = index[labels]
        inside = segment >= 0
        pairs = segment[inside] * (height * width) + patch[inside]
        weights = np.bincount(pairs, minlength=len(ids) * height * width)
        pooled = weights.reshape(len(ids), -1).astype(np.float32) @ features.reshape(
            height * width, -1
        )
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        return np.asarray(pooled / np.maximum(norms, 1e-12), np.float32)

    @torch.no_grad()
    def _forward(self, rgb: U8) -> dict[Layer, F32]:
        height, width = rgb.shape[:2]
        factor = _LONGER_SIDE / max(height, width)
        rows = max(1, round(height * factor / self._patch))
        columns = max(1, round(width * factor / self._patch))
        size = (columns * self._patch, rows * self._patch)
        scaled = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        pixels = torch.from_numpy((scaled - _MEAN) / _STD).permute(2, 0, 1)[None]
        try:
            tokens = self._model.forward_features(pixels.to(self._device))
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise InputRejected("out of GPU memory for the image's features") from error
        self.forwards += 1
        found = {_LAST: tokens, **self._caught}
        self._caught = {}
        prefix = self._model.num_prefix_tokens
        return {
            layer: np.asarray(
                t[0, prefix:].reshape(rows, columns, -1).float().cpu().numpy(), np.float32
            )
            for layer, t in found.items()
        }


def _renamed(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """An official checkpoint under timm's names, its position embedding at the model's size.

    Done by the filter of timm's module; DINOv2's mask token, which only its training uses, goes.
    """
    official = state.get("patch_embed.proj.weight")
    own = model.patch_embed.proj.weight
    # The filter would resample the patches of another model without a word.
    if official is not None and official.shape != own.shape:
        raise WeightsRejected(
            f"weights of another model: its patches are {tuple(official.shape)}, "
            f"not {tuple(own.shape)}"
        )
    module = sys.modules[type(model).__module__]
    try:
        renamed: dict[str, Tensor] = module.checkpoint_filter_fn(dict(state), model)
    except Exception as error:  # the filter expects the keys and shapes of its model
        raise WeightsRejected("weights of another model: timm cannot convert them") from error
    return {key: value for key, value in renamed.items() if key != "mask_token"}
