"""Segment anything: an image to tracked, described segments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robot_perception.core.backbone import Backbone
from robot_perception.core.config import SegmentationConfig
from robot_perception.core.segmentation import embedded
from robot_perception.core.segmentation.masks import Regions, from_masks, largest, table
from robot_perception.core.segmentation.tracking import Tracker
from robot_perception.core.types import ImageFrame, Segmentation

_LEAST_BATCH = 8


class Segmenter:
    """Masks by `config.backend`, ids by the tracker, descriptors by `backbone` if there is one.

    Raises WeightsRejected when the backend's checkpoint cannot be used.
    """

    def __init__(self, config: SegmentationConfig, backbone: Backbone | None = None) -> None:
        self._config = config
        self._backbone = backbone
        self._tracker = Tracker(config.track_iou, config.track_max_age)
        self.backend = embedded.NAME
        if config.backend == "sam":
            from robot_perception.core.segmentation.sam import load_sam

            self._sam = load_sam(config)
            self.backend = f"sam:{config.model}"

    def step(self, frame: ImageFrame) -> Segmentation:
        """Segment `frame`; raises InputRejected for an image that cannot be segmented."""
        regions = largest(self._regions(frame), self._config.max_segments, self._config.min_area)
        count = len(regions.predicted_iou)
        descriptors = None
        if self._backbone is not None:
            features = self._backbone.features(frame.rgb)
            descriptors = self._backbone.pool(features, regions.labels, np.arange(1, count + 1))
        ids = self._tracker.step(regions.labels, count, descriptors)
        by_label = np.concatenate([[0], ids]).astype(np.uint16)
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

    def _regions(self, frame: ImageFrame) -> Regions:
        if self._config.backend == "sam":
            from robot_perception.core.segmentation.sam import everything

            return from_masks(*everything(self._sam, frame.rgb, self._config))
        return embedded.regions(frame.rgb, self._config.max_side, self._config.min_area)
