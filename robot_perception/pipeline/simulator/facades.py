"""House fronts: no two alike, so that a place can be told by them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from robot_perception.core.types import U8
from robot_perception.pipeline.simulator.textures import (
    ACCENTS,
    PX_PER_M,
    WALLS,
    Colour,
    mixed,
    noise,
    pick,
    shaded,
)

_SYLLABLES = (
    "BA", "KE", "LO", "MI", "RU", "TON", "VIA", "CAFE", "SEN", "GRO", "PAX", "ZU", "HEL", "DOR",
    "FIN", "WEST", "QUI", "NOVA", "STA", "BOR",
)  # fmt: skip


def _write(picture: U8, text: str, box: tuple[int, int, int, int], colour: Colour) -> None:
    """`text` as large as fits into box x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, 1.0, 2)
    scale = min((x1 - x0) * 0.9 / width, (y1 - y0) * 0.66 / height)
    at = (int((x0 + x1 - width * scale) / 2), int((y0 + y1 + height * scale) / 2))
    thickness = max(1, round(2 * scale))
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_DUPLEX, scale, colour, thickness, cv2.LINE_AA)


def facade(rng: Generator, width_m: float, height_m: float, shop: bool) -> U8:
    """A house front: wall, windows by floor, and a shop or a door on the ground floor."""
    px = PX_PER_M
    width, height = round(width_m * px), round(height_m * px)
    wall = mixed(pick(rng, WALLS), float(rng.uniform(0.85, 1.1)))
    trim = mixed((235, 232, 225), float(rng.uniform(0.75, 1.0)))
    picture = np.full((height, width, 3), wall, np.uint8)
    if rng.random() < 0.5:
        _bricks(rng, picture)
    picture = shaded(picture, 1 + float(rng.uniform(0.03, 0.11)) * noise(rng, height, width, 40))
    if rng.random() < 0.2:
        _mural(rng, picture)
    ground = round(float(rng.uniform(3.2, 4.6)) * px)
    floors = max(1, round((height - ground - 0.8 * px) / (3.1 * px)))
    floor_px = (height - ground - 0.8 * px) / floors
    columns = max(1, int(width_m // float(rng.uniform(1.8, 3.2))))
    pitch = width / columns
    size = (pitch * float(rng.uniform(0.42, 0.68)), floor_px * float(rng.uniform(0.5, 0.7)))
    style = int(rng.integers(4))
    shutter = pick(rng, ACCENTS) if rng.random() < 0.4 else None
    arched, balconies = rng.random() < 0.3, rng.random() < 0.3
    # Windows stand in unequal groups, so that one house front is not another's shifted copy.
    sway = rng.uniform(-0.16, 0.16, columns) * pitch
    for floor in range(floors):
        middle_y = 0.8 * px + (floor + 0.5) * floor_px
        if rng.random() < 0.3:
            y = round(middle_y + floor_px / 2)
            cv2.rectangle(picture, (0, y - 3), (width, y + 2), trim, -1)
        for column in range(columns):
            middle_x = (column + 0.5) * pitch + sway[column]
            if rng.random() > 0.88:
                continue
            _window(rng, picture, (middle_x, middle_y), size, trim, style, shutter)
            x, y = round(middle_x), round(middle_y)
            if arched:
                axes = (round(size[0] / 2) + 4, round(size[0] / 4))
                top = (x, y - round(size[1] / 2))
                cv2.ellipse(picture, top, axes, 0, 180, 360, trim, -1, cv2.LINE_AA)
            if balconies and rng.random() < 0.5:
                half, low = round(size[0] * 0.7), y + round(size[1] / 2)
                rail = mixed(wall, 0.35)
                for bar in range(x - half, x + half, 5):
                    cv2.line(picture, (bar, low - 26), (bar, low), rail, 1)
                cv2.rectangle(picture, (x - half, low - 28), (x + half, low - 25), rail, -1)
                cv2.rectangle(picture, (x - half, low), (x + half, low + 5), rail, -1)
    cornice = mixed(wall, 0.65)
    cv2.rectangle(picture, (0, 0), (width, round(0.35 * px)), cornice, -1)
    cv2.rectangle(picture, (0, round(0.35 * px)), (width, round(0.45 * px)), trim, -1)
    (_shop if shop else _entrance)(rng, picture, height - ground)
    plinth = mixed(wall, 0.5)
    cv2.rectangle(picture, (0, height - round(0.35 * px)), (width, height), plinth, -1)
    return shaded(picture, 1 + 0.02 * noise(rng, height, width, 2))


def _bricks(rng: Generator, picture: U8) -> None:
    height, width = picture.shape[:2]
    tone = rng.normal(1.0, 0.07, (height // 4 + 1, width // 8 + 2)).astype(np.float32)
    rows, columns = np.arange(height) // 4, np.arange(width)
    stretcher = (columns[None] + 4 * (rows[:, None] % 2)) // 8
    factor = tone[rows[:, None], stretcher]
    factor[np.arange(height) % 4 == 3] *= 0.86
    picture[:] = shaded(picture, factor)


def _window(
    rng: Generator,
    picture: U8,
    middle: tuple[float, float],
    size: tuple[float, float],
    trim: Colour,
    style: int,
    shutter: Colour | None,
) -> None:
    x0, x1 = round(middle[0] - size[0] / 2), round(middle[0] + size[0] / 2)
    y0, y1 = round(middle[1] - size[1] / 2), round(middle[1] + size[1] / 2)
    cv2.rectangle(picture, (x0 - 4, y0 - 4), (x1 + 4, y1 + 4), trim, -1)
    glass = mixed((70, 92, 112), float(rng.uniform(0.5, 1.5)))
    cv2.rectangle(picture, (x0, y0), (x1, y1), glass, -1)
    # A reflection of the sky, and curtains here and there.
    sky = np.array([[x0, y0], [x1, y0], [x0, y0 + round((y1 - y0) * rng.uniform(0.2, 0.9))]])
    cv2.fillPoly(picture, [sky.astype(np.int32)], mixed(glass, 1.5))
    if rng.random() < 0.4:
        drop = y0 + round((y1 - y0) * float(rng.uniform(0.2, 0.8)))
        cv2.rectangle(picture, (x0, y0), (x1, drop), (214, 206, 190), -1)
    if style in (0, 1):
        cv2.line(picture, ((x0 + x1) // 2, y0), ((x0 + x1) // 2, y1), trim, 2)
    if style in (1, 2):
        bar = y0 + (y1 - y0) // 3
        cv2.line(picture, (x0, bar), (x1, bar), trim, 2)
    cv2.rectangle(picture, (x0 - 7, y1 + 4), (x1 + 7, y1 + 8), mixed(trim, 0.8), -1)
    if shutter is not None:
        leaf = max(4, (x1 - x0) // 3)
        cv2.rectangle(picture, (x0 - leaf - 4, y0 - 2), (x0 - 4, y1 + 2), shutter, -1)
        cv2.rectangle(picture, (x1 + 4, y0 - 2), (x1 + leaf + 4, y1 + 2), shutter, -1)
        for y in range(y0, y1, 6):
            for x in (x0 - leaf - 4, x1 + 4):
                cv2.line(picture, (x, y), (x + leaf, y), mixed(shutter, 0.75), 1)


def _mural(rng: Generator, picture: U8) -> None:
    """Large painted shapes, as on the gables of some houses."""
    height, width = picture.shape[:2]
    for _ in range(int(rng.integers(4, 10))):
        colour = mixed(pick(rng, ACCENTS + WALLS), float(rng.uniform(0.7, 1.2)))
        corners = rng.uniform((0, 0), (width, height), (int(rng.integers(3, 6)), 2))
        if rng.random() < 0.5:
            at, radius = corners[0].astype(int).tolist(), int(rng.integers(20, 90))
            cv2.circle(picture, at, radius, colour, -1, cv2.LINE_AA)
        else:
            cv2.fillConvexPoly(picture, cv2.convexHull(corners.astype(np.int32)), colour)


def _shop(rng: Generator, picture: U8, top: int) -> None:
    px = PX_PER_M
    height, width = picture.shape[:2]
    accent, second = pick(rng, ACCENTS), pick(rng, ACCENTS)
    cv2.rectangle(picture, (0, top), (width, height), mixed(accent, 0.45), -1)
    board = round(float(rng.uniform(0.6, 1.1)) * px)
    left, right = sorted(rng.uniform(0, width, 2).astype(int).tolist())
    if right - left < 3 * px or rng.random() < 0.4:
        left, right = round(0.3 * px), width - round(0.3 * px)
    sign = (left, top + 6, right, top + board)
    cv2.rectangle(picture, sign[:2], sign[2:], accent, -1)
    _write(picture, _name(rng), sign, (250, 248, 235))
    window_top = top + board + round(float(rng.uniform(0.3, 0.8)) * px)
    cuts = np.sort(np.append(rng.uniform(0.2, 0.8, int(rng.integers(1, 4))), (0.0, 1.0))) * width
    door = int(rng.integers(len(cuts) - 1))
    for part, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        x0, x1 = round(start) + 5, round(end) - 5
        if part == door:
            middle, half = (x0 + x1) // 2, round(0.55 * px)
            frame = (middle - half, window_top), (middle + half, height)
            cv2.rectangle(picture, *frame, second, -1)
            inner = (middle - half + 6, window_top + 6), (middle + half - 6, height - px)
            cv2.rectangle(picture, *inner, (60, 74, 82), -1)
        elif x1 - x0 > px // 2:
            low = height - round(float(rng.uniform(0.4, 0.9)) * px)
            cv2.rectangle(picture, (x0, window_top), (x1, low), (48, 56, 62), -1)
            for _ in range(int((x1 - x0) / 16)):
                at = rng.uniform((x0, window_top + 4), (x1 - 8, low - 8)).astype(int)
                to = np.minimum(at + rng.integers(6, 32, 2), (x1 - 2, low - 2))
                cv2.rectangle(picture, at.tolist(), to.tolist(), pick(rng, ACCENTS + WALLS), -1)
    if rng.random() < 0.6:
        _awning(rng, picture, (top + board, window_top), accent)


def _awning(rng: Generator, picture: U8, rows: tuple[int, int], colour: Colour) -> None:
    width = picture.shape[1]
    x, light = int(rng.integers(0, 30)), (240, 238, 228)
    stripes = rng.integers(8, 30, 2)
    end = int(rng.integers(width // 2, width + 1))
    for i in range(width):
        wide = int(stripes[i % 2])
        if x >= end:
            break
        shade = colour if i % 2 else light
        cv2.rectangle(picture, (x, rows[0]), (min(x + wide, end) - 1, rows[1]), shade, -1)
        x += wide


def _name(rng: Generator) -> str:
    """What a shop may be called."""
    name = "".join(str(rng.choice(_SYLLABLES)) for _ in range(int(rng.integers(1, 4))))
    return f"{name} {int(rng.integers(1, 100))}" if rng.random() < 0.5 else name


def _entrance(rng: Generator, picture: U8, top: int) -> None:
    px = PX_PER_M
    height, width = picture.shape[:2]
    colour = pick(rng, ACCENTS)
    if rng.random() < 0.5:
        base = mixed(pick(rng, WALLS), 0.8)
        cv2.rectangle(picture, (0, top + round(0.5 * px)), (width, height), base, -1)
    at = round(width * float(rng.uniform(0.15, 0.85)))
    half, high = round(0.6 * px), round(2.5 * px)
    frame = (at - half - 6, height - high - 6), (at + half + 6, height)
    cv2.rectangle(picture, *frame, (225, 220, 210), -1)
    cv2.rectangle(picture, (at - half, height - high), (at + half, height), colour, -1)
    cv2.rectangle(picture, (at - half + 8, height - high + 8), (at + half - 8, height - high + 30),
                  (70, 90, 100), -1)  # fmt: skip
    plate = (at + half + 12, height - high, at + half + 40, height - high + 20)
    cv2.rectangle(picture, plate[:2], plate[2:], (30, 60, 140), -1)
    _write(picture, str(int(rng.integers(1, 99))), plate, (255, 255, 255))
    for x in range(round(1.2 * px), width - px, round(float(rng.uniform(2.2, 3.0)) * px)):
        if abs(x - at) > half + 1.2 * px:
            size = (1.0 * px, 1.5 * px)
            _window(rng, picture, (x, top + 1.7 * px), size, (225, 220, 210), 1, None)
    if rng.random() < 0.4:
        # What someone with a spray can left.
        y = height - round(1.3 * px)
        points = np.cumsum(rng.integers(-14, 15, (14, 2)) + [5, 0], axis=0) + [width // 3, y]
        cv2.polylines(picture, [points.astype(np.int32)], False, pick(rng, ACCENTS), 4)
