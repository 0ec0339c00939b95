"""The filters for bad light and haze."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.segmentation import embedded
from robot_perception.core.segmentation.adverse import Filters, filtered, improved
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import U8, ImageFrame


def scene() -> U8:
    """A checkerboard of colours whose mean is about grey."""
    colours = np.random.default_rng(2).uniform(10, 245, (12, 16, 3))
    return np.kron(colours, np.ones((20, 20, 1))).astype(np.uint8)


def worsened(rgb: U8, how: str) -> U8:
    if how == "dark":
        return np.asarray(rgb * 0.15, np.uint8)
    if how == "haze":
        return np.asarray(rgb * 0.3 + 150, np.uint8)
    return np.asarray(rgb * (0.9, 0.7, 0.3), np.uint8)


def test_a_clear_image_comes_back_itself(kitti: Path) -> None:
    rgb = scene()
    assert improved(rgb) is rgb
    street = cv2.imread(str(kitti / "image_02/data/0000000030.png"))[..., ::-1]
    assert filtered(street)[1] == Filters()
    for plain in (np.full((1, 1, 3), 127, np.uint8), np.zeros((40, 30, 3), np.uint8)):
        out = improved(plain)
        assert out.shape == plain.shape and out.dtype == np.uint8


@pytest.mark.parametrize("how", ["dark", "haze", "cast"])
def test_what_is_wrong_is_put_nearly_right(how: str) -> None:
    rgb = scene()
    worse = worsened(rgb, how)
    before = worse.copy()
    better, filters = filtered(worse)
    assert np.array_equal(worse, before) and better.shape == rgb.shape and better.dtype == np.uint8
    # White balance leaves the brightness as it is.
    scale = worse.mean() / rgb.mean() if how == "cast" else 1.0
    error = [np.abs(image - scale * rgb).mean() for image in (worse, better)]
    assert error[1] < 0.75 * error[0]
    red, _, blue = filters.gains
    assert {"dark": filters.gamma < 0.7, "haze": filters.haze > 0.5, "cast": blue > 1.2 > red}[how]


def test_filters_are_off_by_default_and_change_masks_when_on() -> None:
    frame = ImageFrame(0, "camera", worsened(scene(), "dark"))
    config = SegmentationConfig()
    plain = embedded.regions(frame.rgb, config.max_side, config.min_area).labels
    helped = embedded.regions(improved(frame.rgb), config.max_side, config.min_area).labels
    off, on = (
        Segmenter(SegmentationConfig(adverse=adverse)).step(frame).labels
        for adverse in (False, True)
    )
    for found, expected in ((off, plain), (on, helped)):
        pairs = {*zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True)}
        assert len(pairs) == len(np.unique(found)) == len(np.unique(expected))
    assert len(np.unique(on)) > len(np.unique(off))
