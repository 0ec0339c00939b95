"""Where the things of the last image are in this one, by dense optical flow."""

from __future__ import annotations

import cv2
import numpy as np

from robot_perception.core.types import I32, U8

# The flow is worked out at so many pixels along the longer side; twice as many gained nothing.
_SIDE = 320
# What the flow's coarsest step needs.
_LEAST_SIDE = 32


def carried(ids: I32, before: U8, now: U8) -> I32:
    """The id image (H, W) of the image `before` (H, W, 3), moved to where things are `now`.

    Each pixel looks up where it was (Kroeger et al., "Fast Optical Flow using Dense Inverse
    Search", ECCV 2016, by OpenCV); 0 where that is outside. Ids up to 65535. An image less than
    32 pixels high or wide at that size is taken not to have moved.
    """
    height, width = now.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = (round(width * factor), round(height * factor))
    if before.shape != now.shape or min(size) < _LEAST_SIDE:
        return ids
    one, other = (
        cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
        for rgb in (now, before)
    )
    estimate = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    still = np.zeros((*one.shape, 2), np.float32)
    flow = np.asarray(estimate.calc(one, other, still), np.float32)
    flow = cv2.resize(flow, (width, height)) * np.float32(1 / factor)
    x = np.arange(width, dtype=np.float32) + flow[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + flow[..., 1]
    moved = cv2.remap(ids.astype(np.uint16), x, y, cv2.INTER_NEAREST, borderValue=0)
    return np.asarray(moved, np.int32)
