"""Cars, vans, bicycles and people, each a small mesh that stands at its origin, x forward."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from robot_perception.core.types import F64, U8
from robot_perception.pipeline.simulator.mesh import (
    Mesh,
    ball,
    box,
    cylinder,
    joined,
    pose_at,
    prism,
    wheel,
)
from robot_perception.pipeline.simulator.textures import Atlas, Colour, plain, tyre

_PAINTS: tuple[Colour, ...] = (
    (176, 28, 32), (28, 62, 130), (196, 198, 202), (44, 46, 50), (226, 226, 222), (20, 104, 84),
    (222, 160, 30), (96, 112, 128), (120, 52, 40), (68, 130, 180),
)  # fmt: skip
_GLASS: Colour = (42, 54, 64)
_CAR = (
    (-2.1, 0.32), (-2.12, 0.85), (-1.98, 1.0), (-1.5, 1.46), (0.25, 1.48), (1.05, 0.96),
    (1.9, 0.8), (2.1, 0.58), (2.1, 0.32),
)  # fmt: skip
_VAN = ((-2.5, 0.35), (-2.5, 2.15), (1.5, 2.2), (2.1, 1.25), (2.5, 1.05), (2.55, 0.35))
_PX = 64


def vehicle(rng: Generator, atlas: Atlas, van: bool) -> Mesh:
    """A car about 4.2 m or a van about 5 m long, painted at random."""
    paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
    outline = np.array(_VAN if van else _CAR) * [float(rng.uniform(0.95, 1.08)), 1.0]
    width = 1.95 if van else 1.78
    body, glass, under = (atlas.colour(c) for c in (paint, _GLASS, (20, 20, 22)))
    rear = atlas.add(_end(paint, (200, 20, 24), van, int(rng.integers(100, 1000))))
    front = atlas.add(_end(paint, (245, 242, 220), False, int(rng.integers(100, 1000))))
    side = atlas.add(_side(rng, paint, outline, van))
    if van:
        strips = [rear, body, glass, body, front, under]
    else:
        strips = [rear, body, glass, body, glass, body, body, front, under]
    parts = [prism(outline, width, 0.12 if van else 0.42, side, strips)]
    rim = atlas.add(tyre())
    axle = 0.62 * outline[:, 0].max()
    for x in (-axle, axle):
        for y in (-0.5, 0.5):
            parts.append(wheel(0.33, 0.22, rim).placed(pose_at(x, y * (width - 0.16))))
    return joined(parts)


def _pixels(xz: F64, outline: F64) -> U8:
    low, high = outline.min(axis=0), outline.max(axis=0)
    px = np.stack([xz[:, 0] - low[0], high[1] - xz[:, 1]], axis=1) * _PX
    return np.round(px).astype(np.int32)


def _side(rng: Generator, paint: Colour, outline: F64, van: bool) -> U8:
    low, high = outline.min(axis=0), outline.max(axis=0)
    width, height = np.ceil((high - low) * _PX).astype(int)
    shade = np.linspace(1.12, 0.72, height)[:, None, None]
    picture = np.clip(np.full((height, width, 3), paint) * shade, 0, 255).astype(np.uint8)
    scale = outline[:, 0].max() / (2.5 if van else 2.1)
    if van:
        windows = [[(0.75, 2.0), (1.5, 2.0), (2.0, 1.3), (0.75, 1.3)]]
    else:
        windows = [
            [(-1.72, 1.03), (-1.4, 1.38), (-0.62, 1.4), (-0.62, 1.0)],
            [(-0.52, 1.0), (-0.52, 1.4), (0.2, 1.4), (0.82, 0.98)],
        ]
    for window in windows:
        points = _pixels(np.array(window) * [scale, 1.0], outline)
        cv2.fillPoly(picture, [points], _GLASS, cv2.LINE_AA)
        glint = points.copy()
        glint[-1] = glint[0]
        cv2.fillPoly(picture, [glint], (84, 102, 116), cv2.LINE_AA)
    line = tuple(int(0.6 * c) for c in paint)
    for x in (-0.57, 0.95) if not van else (0.6, -0.9, -2.3):
        a, b = _pixels(np.array([(x * scale, 0.95), (x * scale, 0.4)]), outline)
        cv2.line(picture, a.tolist(), b.tolist(), line, 2)
    axle = 0.62 * outline[:, 0].max()
    for x in (-axle, axle):
        centre = _pixels(np.array([(x, 0.33)]), outline)[0]
        cv2.circle(picture, centre.tolist(), round(0.4 * _PX), (18, 18, 20), -1, cv2.LINE_AA)
    if van:
        a, b = _pixels(np.array([(-2.0, 1.7), (0.3, 1.1)]), outline)
        logo = _PAINTS[int(rng.integers(len(_PAINTS)))]
        cv2.rectangle(picture, a.tolist(), b.tolist(), logo, -1)
    return picture


def _end(paint: Colour, lamp: Colour, doors: bool, number: int) -> U8:
    # The doors of a van reach up to its roof; the rest is the same.
    high = 160 if doors else 64
    picture = np.full((high, 160, 3), [int(0.92 * c) for c in paint], np.uint8)
    if doors:
        cv2.line(picture, (80, 0), (80, high), (40, 40, 44), 2)
        cv2.rectangle(picture, (14, 16), (72, 60), _GLASS, -1)
        cv2.rectangle(picture, (88, 16), (146, 60), _GLASS, -1)
    lower = picture[high - 64 :]
    for x in (4, 124):
        cv2.rectangle(lower, (x, 12), (x + 32, 28), lamp, -1)
    cv2.rectangle(lower, (0, 48), (160, 64), (34, 34, 36), -1)
    cv2.rectangle(lower, (54, 32), (106, 46), (240, 240, 232), -1)
    cv2.putText(lower, str(number), (62, 44), cv2.FONT_HERSHEY_DUPLEX, 0.45, (20, 20, 20), 1)
    return picture


def person(rng: Generator, atlas: Atlas) -> Mesh:
    """Someone who walks, about 1.75 m tall."""
    jacket, trousers = (_PAINTS[int(i)] for i in rng.integers(len(_PAINTS), size=2))
    coat, cloth = atlas.add(plain(rng, jacket)), atlas.colour(trousers)
    skin, hair = atlas.colour((206, 160, 130)), atlas.colour((58, 42, 32))
    legs = [
        cylinder(0.085, 0.0, 0.85, cloth, sides=8).placed(pose_at(x, y))
        for x, y in ((0.12, 0.1), (-0.12, -0.1))
    ]
    arms = [
        cylinder(0.055, 0.8, 1.4, coat, sides=6).placed(pose_at(x, y))
        for x, y in ((-0.1, 0.27), (0.1, -0.27))
    ]
    torso = cylinder(0.22, 0.8, 1.45, coat, top=0.17)
    head = ball((0.11, 0.1, 0.14), skin, rings=4).placed(pose_at(0.02, 0, 1.6))
    top = ball((0.115, 0.11, 0.1), hair, rings=4).placed(pose_at(-0.02, 0, 1.67))
    tall = float(rng.uniform(0.93, 1.06))
    return joined([*legs, *arms, torso, head, top]).placed(np.diag([tall, tall, tall, 1.0]))


def cyclist(rng: Generator, atlas: Atlas) -> Mesh:
    """Someone on a bicycle."""
    frame, rim = atlas.colour(_PAINTS[int(rng.integers(len(_PAINTS)))]), atlas.add(tyre())
    coat = atlas.add(plain(rng, _PAINTS[int(rng.integers(len(_PAINTS)))]))
    cloth, skin = atlas.colour((44, 48, 60)), atlas.colour((206, 160, 130))
    helmet = atlas.colour((230, 230, 60))
    parts = [wheel(0.34, 0.06, rim).placed(pose_at(x, 0)) for x in (-0.52, 0.52)]
    parts.append(box((1.0, 0.06, 0.08), frame, frame, frame).placed(pose_at(0, 0, 0.55)))
    parts.append(box((0.08, 0.5, 0.06), frame, frame, frame).placed(pose_at(0.42, 0, 1.0)))
    parts += [
        cylinder(0.08, 0.3, 0.95, cloth, sides=8).placed(pose_at(0, y)) for y in (-0.12, 0.12)
    ]
    parts.append(cylinder(0.22, 0.9, 1.45, coat, top=0.18).placed(pose_at(0.05, 0)))
    parts.append(ball((0.11, 0.1, 0.14), skin, rings=4).placed(pose_at(0.16, 0, 1.6)))
    parts.append(ball((0.14, 0.12, 0.1), helmet, rings=4).placed(pose_at(0.14, 0, 1.7)))
    return joined(parts)
