"""Pictures of frames and results, as RGB arrays; used by the nodes, the report and `segment`."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from robot_perception.core.types import F32, I32, U8, U16, ImageFrame, Revisit

BACKGROUND = (13, 17, 23)
_RING = (38, 45, 56)
_QUIET = (125, 135, 150)
_WHITE = (245, 247, 250)
_FOUND = (63, 185, 115)
_GAP = 6


def _palette(size: int = 1024) -> U8:
    """Well-separated colours by golden-ratio hue steps; entry 0 is black (unlabelled)."""
    colours = [
        colorsys.hsv_to_rgb(
            (i * 0.61803398875) % 1.0, 0.6 + 0.3 * (i % 2), 0.95 - 0.2 * (i % 3 == 2)
        )
        for i in range(size)
    ]
    table = (np.array(colours) * 255).astype(np.uint8)
    table[0] = 0
    return table


_PALETTE = _palette()


def colour_of(labels: NDArray[np.integer]) -> U8:
    """The colour of each label (..., 3); the same id has the same colour in every frame."""
    index = labels.astype(np.int64)
    colours: U8 = _PALETTE[np.where(index == 0, 0, 1 + (index - 1) % (len(_PALETTE) - 1))]
    return colours


def overlay(rgb: U8, labels: U16, strength: float = 0.5) -> U8:
    """`rgb` (H, W, 3) with each segment of `labels` (H, W) tinted and outlined in a light tone."""
    colours = colour_of(labels)
    tinted = cv2.addWeighted(rgb, 1.0 - strength, colours, strength, 0.0)
    tinted[labels == 0] = rgb[labels == 0]
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    # Outlines keep their segment's hue: plain white ones drown small segments.
    tinted[edge] = 255 - (255 - colours[edge]) // 2
    return np.asarray(tinted, np.uint8)


def evidence(frame: ImageFrame, revisit: Revisit, height: int = 360, stacked: bool = False) -> U8:
    """This image and the matched keyframe (a blank if there is none): segments that match in the
    same colour, inliers joined by lines.

    Side by side, each `height` pixels high; with `stacked` one above the other, for wide images.
    """
    query = _fit_height(frame.rgb, height)
    if revisit.match_rgb is None:
        match = np.empty_like(query)
        match[:] = BACKGROUND
        _text(match, "no match", (match.shape[1] // 2, height // 2), _QUIET, anchor="mm")
    else:
        match = _fit_height(revisit.match_rgb, height)
    if stacked and match.shape[1] != query.shape[1]:
        tall = round(match.shape[0] * query.shape[1] / match.shape[1])
        match = np.asarray(cv2.resize(match, (query.shape[1], tall), interpolation=cv2.INTER_AREA))
    if revisit.labels is not None and revisit.match_labels is not None:
        pairs = _one_to_one(revisit.segment_pairs)
        _tint(query, revisit.labels, pairs[:, 0])
        _tint(match, revisit.match_labels, pairs[:, 1])
    shift = (0, height + _GAP) if stacked else (query.shape[1] + _GAP, 0)
    canvas = np.empty((match.shape[0] + shift[1], match.shape[1] + shift[0], 3), np.uint8)
    canvas[:] = BACKGROUND
    canvas[:height, : query.shape[1]] = query
    canvas[shift[1] :, shift[0] :] = match
    if revisit.match_id is not None and revisit.match_size is not None:
        _lines(
            canvas,
            revisit.keypoints,
            query.shape[1] / frame.rgb.shape[1],
            match.shape[1] / revisit.match_size[0],
            shift,
        )
    found = revisit.match_id is not None
    caption = (
        f"revisit of keyframe {revisit.match_id}   p = {revisit.probability:.2f}   "
        f"{revisit.inliers} inliers"
        if found
        else f"keyframe {revisit.keyframe_id}: no revisit"
    )
    label(canvas, caption, _FOUND if found else _QUIET)
    return canvas


def from_above(
    layers: list[tuple[F32, NDArray[np.uint8]]], half_extent_m: float = 40.0, size: int = 640
) -> U8:
    """Clouds from above, x (forward) up: each layer is points (N, 3) and a colour (3,) or (N, 3).

    Later layers are drawn over earlier ones. The sensor stands in the middle; rings every 10 m.
    """
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = BACKGROUND
    scale = size / (2 * half_extent_m)
    middle = size // 2
    radii = np.arange(10.0, half_extent_m * 1.5, 10.0)
    for radius in radii:
        cv2.circle(canvas, (middle, middle), round(radius * scale), _RING, 1, cv2.LINE_AA)
    for points, colour in layers:
        u = np.round(size / 2 - points[:, 1] * scale).astype(np.int64)
        v = np.round(size / 2 - points[:, 0] * scale).astype(np.int64)
        inside = (u >= 0) & (u < size) & (v >= 0) & (v < size)
        canvas[v[inside], u[inside]] = colour if colour.ndim == 1 else colour[inside]
    for radius in radii[radii < half_extent_m]:
        place = (middle + 4, middle + round(radius * scale) - 3)
        _text(canvas, f"{radius:.0f} m", place, _QUIET, size=11, anchor="ls")
    # The sensor, pointing forward.
    arrow = np.array([(0, -9), (6, 7), (0, 3), (-6, 7)]) + middle
    cv2.fillPoly(canvas, [arrow.astype(np.int32)], _WHITE, cv2.LINE_AA)
    return canvas


def perspective(
    layers: list[tuple[F32, NDArray[np.uint8]]],
    width: int = 800,
    height: int = 420,
    behind_m: float = 11.0,
    above_m: float = 6.0,
) -> U8:
    """Clouds through a pinhole camera behind and above the sensor, looking ahead and down.

    Layers as for `from_above`. Near points cover far ones, and far ones fade.
    """
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = BACKGROUND
    if not layers:
        return canvas
    xyz = np.concatenate([points for points, _ in layers])
    colours = np.concatenate([np.broadcast_to(c, (len(points), 3)) for points, c in layers])
    tilt = np.arctan2(above_m, behind_m + 14.0)
    x, y, z = xyz[:, 0] + behind_m, xyz[:, 1], xyz[:, 2] - above_m
    depth = x * np.cos(tilt) - z * np.sin(tilt)
    up = x * np.sin(tilt) + z * np.cos(tilt)
    seen = (depth > 1.0) & (depth < 100.0)
    depth, y, up, colours = depth[seen], y[seen], up[seen], colours[seen]
    focal = 0.75 * width
    u = np.round(width / 2 - focal * y / depth).astype(np.int64)
    v = np.round(height * 0.3 - focal * up / depth).astype(np.int64)
    clear = np.clip(1.15 - depth / 75.0, 0.2, 1.0)[:, None]
    faded = (colours * clear + np.array(BACKGROUND) * (1.0 - clear)).astype(np.uint8)
    # Of points that are about as far, those of a later layer go on top.
    layer = np.repeat(np.arange(len(layers)), [len(points) for points, _ in layers])[seen]
    far_first = np.argsort(0.7 * layer - depth, kind="stable")
    u, v, faded, depth = u[far_first], v[far_first], faded[far_first], depth[far_first]
    for reach, extent in ((np.inf, 1), (28.0, 2), (12.0, 3)):
        near = depth < reach
        for du in range(extent):
            for dv in range(extent):
                column, row = u[near] + du, v[near] + dv
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                canvas[row[inside], column[inside]] = faded[near][inside]
    return canvas


def placed(positions: F32, edges: I32) -> tuple[NDArray[np.bool_], I32]:
    """Which keyframes (K,) have a known position, of `positions` (K, 3), and the `edges` (E, 2)
    between those."""
    known = np.asarray(np.isfinite(positions).all(axis=1))
    edges = edges[((edges >= 0) & (edges < len(known))).all(axis=1)]
    return known, edges[known[edges].all(axis=1)]


def thin(xyz: F32, count: int) -> F32:
    """At most `count` of the points (N, 3), evenly chosen."""
    step = max(1, -(-len(xyz) // count))
    return np.ascontiguousarray(xyz[::step])


def by_height(xyz: F32) -> U8:
    """A colour (N, 3) for each point of a scan, by its height over the sensor."""
    return coloured_by(xyz[:, 2], -2.4, 3.5)


def horizon_colours(count: int) -> U8:
    """A colour (count, 3) for each horizon, from near (yellow) to far (violet)."""
    level = np.linspace(235, 70, count).astype(np.uint8).reshape(-1, 1)
    bgr = cv2.applyColorMap(level, cv2.COLORMAP_PLASMA)
    return np.ascontiguousarray(bgr.reshape(-1, 3)[:, ::-1])


def coloured_by(values: F32, low: float, high: float) -> U8:
    """Colour (N, 3) of each value from `low` to `high` (turbo colour map)."""
    if not len(values):
        return np.zeros((0, 3), np.uint8)
    level = np.clip((values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    bgr = cv2.applyColorMap(level.reshape(-1, 1), cv2.COLORMAP_TURBO)
    return np.ascontiguousarray(bgr.reshape(-1, 3)[:, ::-1])


def label(canvas: U8, text: str, dot: tuple[int, int, int] | None = None) -> None:
    """Write `text` on a dark plate in the upper left corner of `canvas`, after a coloured dot."""
    size = 15
    left = 30 if dot else 10
    right = min(canvas.shape[1], left + round(_font(size).getlength(text)) + 10)
    plate = canvas[: size + 13, :right]
    plate[:] = (plate * 0.25 + np.array(BACKGROUND) * 0.75).astype(np.uint8)
    if dot:
        cv2.circle(canvas, (16, (size + 13) // 2), 5, dot, -1, cv2.LINE_AA)
    _text(canvas, text, (left, (size + 13) // 2), _WHITE, size=size, anchor="lm")


def _one_to_one(pairs: I32) -> I32:
    """Of pairs (P, 2), the best first, those whose segments have no better partner."""
    best = np.zeros((2, len(pairs)), bool)
    for side in (0, 1):
        best[side, np.unique(pairs[:, side], return_index=True)[1]] = True
    return pairs[best.all(axis=0)]


def _tint(picture: U8, labels: U16, names: I32) -> None:
    """Tint and outline the segments `names` of `labels` (h, w), the i-th in the i-th colour."""
    shape = (picture.shape[1], picture.shape[0])
    scaled = cv2.resize(labels, shape, interpolation=cv2.INTER_NEAREST)
    for i, name in enumerate(names):
        mask = (scaled == name).astype(np.uint8)
        colour = _PALETTE[1 + i % (len(_PALETTE) - 1)]
        inside = mask.astype(bool)
        picture[inside] = (0.6 * picture[inside] + 0.4 * colour).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        bright = tuple(int(c) for c in colour)
        cv2.drawContours(picture, contours, -1, bright, 2, cv2.LINE_AA)


def _lines(
    canvas: U8, keypoints: F32, scale_query: float, scale_match: float, shift: tuple[int, int]
) -> None:
    # Forty lines say as much as a thousand, and leave the picture to be seen.
    step = max(1, len(keypoints) // 40)
    for i, (u0, v0, u1, v1) in enumerate(keypoints[::step]):
        start = (round(float(u0 * scale_query)), round(float(v0 * scale_query)))
        end = (
            round(float(u1 * scale_match)) + shift[0],
            round(float(v1 * scale_match)) + shift[1],
        )
        colour = tuple(int(c) for c in _PALETTE[1 + i % 1000])
        cv2.line(canvas, start, end, colour, 1, cv2.LINE_AA)
        for place in (start, end):
            cv2.circle(canvas, place, 3, colour, -1, cv2.LINE_AA)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _text(
    canvas: U8,
    text: str,
    place: tuple[int, int],
    colour: tuple[int, int, int],
    size: int = 15,
    anchor: str = "lt",
) -> None:
    """Write into `canvas`; `anchor` as Pillow names it."""
    font = _font(size)
    reach = round(font.getlength(text)) + 2 * size
    x0, y0 = max(0, place[0] - reach), max(0, place[1] - 2 * size)
    patch = canvas[y0 : place[1] + 2 * size, x0 : place[0] + reach]
    if not patch.size:
        return
    picture = Image.fromarray(patch)
    ImageDraw.Draw(picture).text(
        (place[0] - x0, place[1] - y0), text, fill=colour, font=font, anchor=anchor
    )
    patch[:] = np.asarray(picture)


def _fit_height(rgb: U8, height: int) -> U8:
    width = max(1, round(rgb.shape[1] * height / rgb.shape[0]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
