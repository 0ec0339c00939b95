"""The ground: one large picture of road, markings and pavement, laid over kerbs by position.

Offsets are metres to the left of the robot's lane, that is towards the inside of the block.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from robot_perception.core.types import F64, I32, U8
from robot_perception.pipeline.simulator.drive import STOP_AT_M, Course
from robot_perception.pipeline.simulator.mesh import Mesh, joined, quads
from robot_perception.pipeline.simulator.textures import Atlas, noise, shaded

OUTER_FRONT_M, OUTER_KERB_M, INNER_KERB_M, INNER_FRONT_M = -9.0, -5.5, 7.5, 10.5
OUTER_PARKING_M, INNER_PARKING_M, BICYCLE_M, ONCOMING_M = -4.3, 6.3, -2.5, 3.5
KERB_HEIGHT_M = 0.12
_MARGIN_M, _FAR_M = 24.0, 150.0
_PX_PER_M = 32
_SUBPIXEL_BITS = 4


def ground(rng: Generator, atlas: Atlas, course: Course) -> tuple[Mesh, Mesh]:
    """The road and what lies around it at height 0, and the raised pavements."""
    low, high = course.xy.min(axis=0) - _MARGIN_M, course.xy.max(axis=0) + _MARGIN_M
    texture = atlas.add(_picture(rng, course, low, high))
    far = atlas.colour((120, 124, 112))

    def mapped(points: F64) -> Mesh:
        uv = (points[..., :2] - low) / (high - low)
        uv[..., 1] = 1 - uv[..., 1]
        return quads(points, texture, uv)

    (x0, y0), (x1, y1) = low, high
    centre = np.array([[[x0, y1, 0], [x1, y1, 0], [x1, y0, 0], [x0, y0, 0]]], float)
    f = _FAR_M
    around = [(-f, y1, f, f), (-f, -f, f, y0), (-f, y0, x0, y1), (x1, y0, f, y1)]
    outside = [[(a, d, 0), (c, d, 0), (c, b, 0), (a, b, 0)] for a, b, c, d in around]
    pavements = [
        mapped(_strip(course, OUTER_KERB_M, -14.0, KERB_HEIGHT_M)),
        mapped(_strip(course, INNER_KERB_M, 11.4, KERB_HEIGHT_M)),
        mapped(_kerb(course, OUTER_KERB_M)),
        mapped(_kerb(course, INNER_KERB_M)),
    ]
    return joined([mapped(centre), quads(outside, far)]), joined(pavements)


def _edges(course: Course, offset_m: float) -> F64:
    """Points (K + 1, 3) along the course about a metre apart, beside it, on the ground."""
    s = np.linspace(0, course.length, round(course.length) + 1)
    poses = course.poses(np.append(s[:-1], 0.0))
    points: F64 = poses[:, :3, 3] + offset_m * poses[:, :3, 1]
    return points


def _strip(course: Course, from_m: float, to_m: float, height: float) -> F64:
    a, b = _edges(course, from_m) + [0, 0, height], _edges(course, to_m) + [0, 0, height]
    return np.stack([a[:-1], a[1:], b[1:], b[:-1]], axis=1)


def _kerb(course: Course, offset_m: float) -> F64:
    a = _edges(course, offset_m)
    up = a + [0, 0, KERB_HEIGHT_M]
    return np.stack([up[:-1], up[1:], a[1:], a[:-1]], axis=1)


class _Painter:
    """Draws in metres."""

    def __init__(self, picture: U8, course: Course, low: F64) -> None:
        self.picture, self.course, self.low = picture, course, low

    def pixels(self, xy: F64) -> I32:
        px = (xy - self.low) * _PX_PER_M
        px[..., 1] = self.picture.shape[0] - px[..., 1]
        return np.asarray(np.round((px - 0.5) * 2**_SUBPIXEL_BITS), np.int32)

    def area(self, xy: F64, colour: tuple[int, int, int]) -> None:
        points = [self.pixels(xy)]
        cv2.fillPoly(self.picture, points, colour, cv2.LINE_AA, _SUBPIXEL_BITS)

    def inside(self, offset_m: float, colour: tuple[int, int, int]) -> None:
        """Everything to the left of an offset."""
        self.area(_edges(self.course, offset_m)[:, :2], colour)

    def patch(self, s: tuple[float, float], left: tuple[float, float], colour: int | U8) -> None:
        """From s[0] to s[1] metres along the course, between two offsets."""
        steps = np.linspace(s[0], s[1], max(2, round(abs(s[1] - s[0])) + 1))
        poses = self.course.poses(steps)
        a, b = (poses[:, :2, 3] + offset * poses[:, :2, 1] for offset in left)
        rgb = (colour,) * 3 if isinstance(colour, int) else tuple(int(c) for c in colour)
        self.area(np.concatenate([a, b[::-1]]), rgb)  # type: ignore[arg-type]


def _picture(rng: Generator, course: Course, low: F64, high: F64) -> U8:
    width, height = (int(n) for n in np.ceil((high - low) * _PX_PER_M))
    picture = np.full((height, width, 3), (128, 132, 116), np.uint8)
    painter = _Painter(picture, course, low)
    paving = (172, 166, 158)
    painter.inside(-14.0, paving)
    _flags(picture)
    painter.inside(OUTER_KERB_M - 0.15, (150, 150, 150))
    painter.inside(OUTER_KERB_M, (82, 82, 86))
    inner = picture.copy()
    inner[:] = paving
    _flags(inner)
    mask = np.zeros((height, width, 3), np.uint8)
    inside = _Painter(mask, course, low)
    inside.inside(INNER_KERB_M + 0.15, (255, 255, 255))
    painter.inside(INNER_KERB_M, (150, 150, 150))
    np.copyto(picture, inner, where=mask > 127)
    _markings(rng, painter, course)
    grain = 1 + 0.05 * noise(rng, height, width, 1) + 0.05 * noise(rng, height, width, 90)
    return shaded(picture, grain)


def _flags(picture: U8) -> None:
    pitch = _PX_PER_M * 3 // 4
    picture[::pitch] = picture[::pitch] * 0.8
    picture[:, ::pitch] = picture[:, ::pitch] * 0.8


def _markings(rng: Generator, painter: _Painter, course: Course) -> None:
    length, white = course.length, 232
    bicycle = np.array([140, 74, 62], np.uint8)
    # What road works and cars left behind makes each stretch of asphalt a little different.
    for _ in range(60):
        at, left = rng.uniform(0, length), rng.uniform(-5, 6)
        size = rng.uniform((0.8, 0.5), (6.0, 1.6))
        shade = int(rng.integers(58, 104))
        painter.patch((at, at + size[0]), (left, left + size[1]), shade)
    painter.patch((0, length), (-1.9, -3.1), bicycle)
    for edge in (-1.82, -3.2, 5.3):
        painter.patch((0, length), (edge - 0.06, edge + 0.06), white)
    dashes = round(length / 5)
    for k in range(dashes):
        at = k * length / dashes
        painter.patch((at, at + 2.5), (1.68, 1.82), white)
    for at in np.arange(0.0, length - 3, 6.0):
        painter.patch((at, at + 0.12), (-3.2, -5.5), white)
        painter.patch((at, at + 0.12), (5.3, 7.5), white)
    zebra = STOP_AT_M + 6.0
    painter.patch((zebra - 0.4, zebra + 3.6), (OUTER_KERB_M, INNER_KERB_M), 82)
    for left in np.arange(OUTER_KERB_M + 0.3, INNER_KERB_M - 0.4, 1.0):
        painter.patch((zebra, zebra + 3.2), (left, left + 0.5), white)
    painter.patch((zebra - 1.6, zebra - 1.2), (-1.75, 1.75), white)
    for at in (14.0, 78.0, 150.0):
        painter.patch((at, at + 2.0), (-0.08, 0.08), white)
        tip = course.poses(np.array([at + 2.0, at + 3.2]))
        side = 0.4 * tip[0, :2, 1]
        arrow = np.stack([tip[0, :2, 3] + side, tip[1, :2, 3], tip[0, :2, 3] - side])
        painter.area(arrow, (white, white, white))
    for _ in range(14):
        pose = course.poses(rng.uniform(0, length, 1))[0]
        centre = painter.pixels(pose[:2, 3] + rng.uniform(-1.2, 5) * pose[:2, 1])
        radius = int(0.33 * _PX_PER_M) << _SUBPIXEL_BITS
        where = (int(centre[0]), int(centre[1]))
        cv2.circle(painter.picture, where, radius, (52, 50, 50), -1, cv2.LINE_AA, _SUBPIXEL_BITS)
