"""Segment anything: an image to tracked, described segments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import SegmentationConfig
from robot_perception.core.segmentation import embedded
from robot_perception.core.segmentation.automatic import of_encoded
from robot_perception.core.segmentation.masks import Regions, from_masks, largest, table
from robot_perception.core.segmentation.motion import carried
from robot_perception.core.segmentation.promptable import (
    Encoded,
    Masks,
    Promptable,
    encode,
    place,
    prompted,
)
from robot_perception.core.segmentation.tracking import Tracker
from robot_perception.core.types import F32, I32, U8, ImageFrame, Segmentation

if TYPE_CHECKING:
    from robot_perception.core.segmentation.memory import VideoMemory

_LEAST_BATCH = 8


class Segmenter:
    """Masks by `config.backend`, ids by the tracker, descriptors by `backbone` if there is one.

    Raises WeightsRejected when the backend's checkpoint cannot be used.
    """

    def __init__(self, config: SegmentationConfig, backbone: Backbone | None = None) -> None:
        self._config = config
        self._backbone = backbone
        self._tracker = Tracker(config.track_iou, config.track_max_age)
        self._model = _load(config)
        self._memory = _memory(self._model, config)
        self.backend = self._model.name if self._model else embedded.NAME
        self._encoded: tuple[U8, Encoded] | None = None
        self._embedded: tuple[U8, Regions] | None = None
        self._improve = _improvement(config)
        # The last image and its ids, for the flow.
        self._last: tuple[U8, I32] | None = None

    @property
    def notice(self) -> str:
        """What the backend has done to keep going, such as leaving the GPU; empty: nothing."""
        return self._model.notice if self._model else ""

    def step(self, frame: ImageFrame) -> Segmentation:
        """Segment `frame`; raises InputRejected for an image that cannot be segmented."""
        regions = largest(self._regions(frame), self._config.max_segments, self._config.min_area)
        count = len(regions.predicted_iou)
        descriptors = None
        if self._backbone is not None:
            features = self._backbone.features(frame.rgb)
            descriptors = self._backbone.pool(features, regions.labels, np.arange(1, count + 1))
        if self._memory is not None:
            self._tracker.expect(self._memory.predict(self._encode(frame.rgb)))
        elif self._last is not None:
            before, where = self._last
            self._tracker.expect(carried(where, before, frame.rgb))
        ids = self._tracker.step(regions.labels, count, descriptors)
        if self._memory is not None:
            self._memory.learn(regions.labels, ids)
        by_label = np.concatenate([[0], ids]).astype(np.uint16)
        if self._config.track_motion and self._memory is None:
            self._last = (frame.rgb, by_label[regions.labels].astype(np.int32))
        scores = np.concatenate([[0.0], regions.predicted_iou]).astype(np.float32)
        return Segmentation(
            frame.stamp_ns,
            frame.frame_id,
            by_label[regions.labels],
            scores[regions.labels],
            table(regions, ids),
            self.backend,
            descriptors,
        )

    def use_smaller_batch(self) -> bool:
        """Let the network take a quarter of the prompts at once; False where that cannot help."""
        batch = self._config.decoder_batch
        if self._config.backend == "embedded" or batch <= _LEAST_BATCH:
            return False
        self._config = replace(self._config, decoder_batch=max(_LEAST_BATCH, batch // 4))
        return True

    def reset(self) -> None:
        """Forget all tracks."""
        self._tracker.reset()
        self._last = None
        if self._memory is not None:
            self._memory.reset()

    def _regions(self, frame: ImageFrame) -> Regions:
        if self._model is None:
            if self._embedded is None or self._embedded[0] is not frame.rgb:
                config = self._config
                found = embedded.regions(self._improve(frame.rgb), config.max_side, config.min_area)
                self._embedded = (frame.rgb, found)
            return self._embedded[1]
        masks = of_encoded(self._model, self._encode(frame.rgb), self._config)
        return from_masks(masks.masks, masks.predicted_iou, masks.stability)

    def prompt(
        self,
        frame: ImageFrame,
        points: F32 | None = None,
        labels: NDArray[np.integer] | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Masks:
        """The mask (1, H, W) of a prompt; an image is encoded once for all its prompts.

        `points` (P, 2) x, y in pixels, `labels` (P,) 1 on the thing and 0 beside it, `box` x0, y0,
        x1, y1. The embedded backend gives the region under the first point on the thing, or under
        the middle of the box. Raises InputRejected for a prompt outside the image.
        """
        if self._model is not None:
            return prompted(self._model, self._encode(frame.rgb), points, labels, box)
        x, y = place(frame.rgb.shape[:2], points, labels, box)
        found = self._regions(frame)
        label = int(found.labels[y, x])
        scores = (found.predicted_iou, found.stability)
        iou, stable = (s[label - 1 : label] if label else np.zeros(1, np.float32) for s in scores)
        return Masks((found.labels == label)[None] & (label > 0), iou, stable)

    def _encode(self, rgb: U8) -> Encoded:
        assert self._model is not None
        if self._encoded is None or self._encoded[0] is not rgb:
            self._encoded = (rgb, encode(self._model, self._improve(rgb)))
        return self._encoded[1]


def _improvement(config: SegmentationConfig) -> Callable[[U8], U8]:
    """What is done to an image before its masks are made; descriptors are of the image as it is."""
    if not config.adverse:
        return lambda rgb: rgb
    from robot_perception.core.segmentation.adverse import improved

    return improved


def _load(config: SegmentationConfig) -> Promptable | None:
    """The model of the configured backend; None for the embedded one."""
    if config.backend == "sam":
        from robot_perception.core.segmentation.sam import load_sam

        return load_sam(config)
    if config.backend == "sam2":
        from robot_perception.core.segmentation.sam2 import load_sam2

        return load_sam2(config)
    return None


def _memory(model: Promptable | None, config: SegmentationConfig) -> VideoMemory | None:
    """The memory of the backend that has one."""
    if config.backend != "sam2" or not config.memory_segments:
        return None
    from robot_perception.core.segmentation.memory import VideoMemory
    from robot_perception.core.segmentation.sam2 import PromptableSam2

    assert isinstance(model, PromptableSam2)
    return VideoMemory(model, config.memory_segments)
