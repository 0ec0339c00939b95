"""Procedural pictures for the surfaces of the street, drawn at `PX_PER_M` unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from robot_perception.core.types import U8

PX_PER_M = 32
LEVELS = 9
Colour: TypeAlias = tuple[int, int, int]
_WALLS: tuple[Colour, ...] = (
    (178, 96, 74), (222, 190, 140), (205, 205, 198), (232, 222, 200), (150, 164, 178),
    (164, 178, 142), (206, 140, 104), (140, 88, 80), (216, 168, 152), (120, 128, 140),
    (236, 206, 120), (176, 152, 176),
)  # fmt: skip
_ACCENTS: tuple[Colour, ...] = (
    (190, 30, 40), (20, 90, 160), (30, 120, 70), (230, 150, 20), (90, 40, 110),
    (20, 130, 140), (60, 60, 66), (200, 70, 120),
)  # fmt: skip
_NAMES = (
    "CAFE", "BAKERY", "BOOKS", "HOTEL", "MARKET", "OPTIK", "BIKES", "PIZZA", "FLORA", "BANK",
    "MUSIC", "SHOES", "APOTHEKE", "KINO", "TEA", "VINO", "RADIO", "FOTO", "TOYS", "GARAGE",
)  # fmt: skip


@dataclass(eq=False)
class Atlas:
    """Collects pictures (H, W, 3) uint8 and their halved versions in one array of texels.

    A texture is known by its number. Level k of texture n is `size[n, k]` (height, width) texels
    from `start[n, k]` on.
    """

    pictures: list[U8] = field(default_factory=list)

    def add(self, picture: U8) -> int:
        """The number of the new texture."""
        self.pictures.append(np.ascontiguousarray(picture))
        return len(self.pictures) - 1

    def colour(self, rgb: Colour) -> int:
        """A texture of one colour."""
        return self.add(np.full((1, 1, 3), rgb, np.uint8))

    def packed(self) -> tuple[U8, NDArray[np.int64], NDArray[np.int64]]:
        """Texels (M, 3) uint8, `start` (textures, LEVELS), `size` (textures, LEVELS, 2)."""
        start = np.zeros((len(self.pictures), LEVELS), np.int64)
        size = np.zeros((len(self.pictures), LEVELS, 2), np.int64)
        texels, total = [], 0
        for number, picture in enumerate(self.pictures):
            level = picture
            for k in range(LEVELS):
                start[number, k], size[number, k] = total, level.shape[:2]
                texels.append(level.reshape(-1, 3))
                total += level.shape[0] * level.shape[1]
                half = (max(1, level.shape[1] // 2), max(1, level.shape[0] // 2))
                level = cv2.resize(level, half, interpolation=cv2.INTER_AREA).astype(np.uint8)
        return np.concatenate(texels), start, size


def noise(rng: Generator, height: int, width: int, cell: int) -> NDArray[np.float32]:
    """Smooth noise (H, W) about 0, standard deviation 1, with spots of about `cell` pixels."""
    shape = (height // cell + 3, width // cell + 3)
    coarse = rng.standard_normal(shape, np.float32)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32)


def shaded(picture: U8, factor: NDArray[np.float32]) -> U8:
    """The picture, each pixel times `factor` (H, W)."""
    result: U8 = np.clip(picture * factor[..., None], 0, 255).astype(np.uint8)
    return result


def _mixed(colour: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)  # type: ignore[return-value]


def _pick(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


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
    wall = _mixed(_pick(rng, _WALLS), float(rng.uniform(0.85, 1.1)))
    trim = _mixed((235, 232, 225), float(rng.uniform(0.75, 1.0)))
    picture = np.full((height, width, 3), wall, np.uint8)
    if rng.random() < 0.5:
        _bricks(rng, picture)
    picture = shaded(picture, 1 + 0.05 * noise(rng, height, width, 40))
    ground = round(3.8 * px)
    floors = max(1, round((height - ground - 0.8 * px) / (3.1 * px)))
    floor_px = (height - ground - 0.8 * px) / floors
    columns = max(1, int(width_m // float(rng.uniform(1.8, 3.2))))
    pitch = width / columns
    size = (pitch * float(rng.uniform(0.42, 0.68)), floor_px * float(rng.uniform(0.5, 0.7)))
    style = int(rng.integers(4))
    shutter = _pick(rng, _ACCENTS) if rng.random() < 0.4 else None
    for floor in range(floors):
        middle_y = 0.8 * px + (floor + 0.5) * floor_px
        if rng.random() < 0.3:
            y = round(middle_y + floor_px / 2)
            cv2.rectangle(picture, (0, y - 3), (width, y + 2), trim, -1)
        for column in range(columns):
            middle_x = (column + 0.5) * pitch
            if rng.random() < 0.93:
                _window(rng, picture, (middle_x, middle_y), size, trim, style, shutter)
    cornice = _mixed(wall, 0.65)
    cv2.rectangle(picture, (0, 0), (width, round(0.35 * px)), cornice, -1)
    cv2.rectangle(picture, (0, round(0.35 * px)), (width, round(0.45 * px)), trim, -1)
    (_shop if shop else _entrance)(rng, picture, height - ground)
    plinth = _mixed(wall, 0.5)
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
    glass = _mixed((70, 92, 112), float(rng.uniform(0.5, 1.5)))
    cv2.rectangle(picture, (x0, y0), (x1, y1), glass, -1)
    # A reflection of the sky, and curtains here and there.
    sky = np.array([[x0, y0], [x1, y0], [x0, y0 + round((y1 - y0) * rng.uniform(0.2, 0.9))]])
    cv2.fillPoly(picture, [sky.astype(np.int32)], _mixed(glass, 1.5))
    if rng.random() < 0.4:
        drop = y0 + round((y1 - y0) * float(rng.uniform(0.2, 0.8)))
        cv2.rectangle(picture, (x0, y0), (x1, drop), (214, 206, 190), -1)
    if style in (0, 1):
        cv2.line(picture, ((x0 + x1) // 2, y0), ((x0 + x1) // 2, y1), trim, 2)
    if style in (1, 2):
        bar = y0 + (y1 - y0) // 3
        cv2.line(picture, (x0, bar), (x1, bar), trim, 2)
    cv2.rectangle(picture, (x0 - 7, y1 + 4), (x1 + 7, y1 + 8), _mixed(trim, 0.8), -1)
    if shutter is not None:
        leaf = max(4, (x1 - x0) // 3)
        cv2.rectangle(picture, (x0 - leaf - 4, y0 - 2), (x0 - 4, y1 + 2), shutter, -1)
        cv2.rectangle(picture, (x1 + 4, y0 - 2), (x1 + leaf + 4, y1 + 2), shutter, -1)
        for y in range(y0, y1, 6):
            for x in (x0 - leaf - 4, x1 + 4):
                cv2.line(picture, (x, y), (x + leaf, y), _mixed(shutter, 0.75), 1)


def _shop(rng: Generator, picture: U8, top: int) -> None:
    px = PX_PER_M
    height, width = picture.shape[:2]
    accent, second = _pick(rng, _ACCENTS), _pick(rng, _ACCENTS)
    cv2.rectangle(picture, (0, top), (width, height), _mixed(accent, 0.45), -1)
    sign = (round(0.3 * px), top + 6, width - round(0.3 * px), top + round(0.85 * px))
    cv2.rectangle(picture, sign[:2], sign[2:], accent, -1)
    name = _NAMES[int(rng.integers(len(_NAMES)))] + f" {int(rng.integers(1, 100))}"
    _write(picture, name, sign, (250, 248, 235))
    door = int(rng.integers(3))
    for part in range(3):
        x0, x1 = (round(width * (part + f)) // 3 for f in (0.06, 0.94))
        y0 = top + round(1.5 * px)
        if part == door:
            middle = (x0 + x1) // 2
            half = round(0.55 * px)
            cv2.rectangle(picture, (middle - half, y0), (middle + half, height), second, -1)
            inner = (middle - half + 6, y0 + 6), (middle + half - 6, height - px)
            cv2.rectangle(picture, *inner, (60, 74, 82), -1)
            continue
        cv2.rectangle(picture, (x0, y0), (x1, height - round(0.6 * px)), (48, 56, 62), -1)
        for _ in range(int(rng.integers(5, 11))):
            at = rng.uniform((x0, y0 + 0.6 * px), (x1 - 14, height - 0.8 * px)).astype(int)
            to = at + rng.integers(8, 26, 2)
            to = np.minimum(to, (x1 - 2, height - round(0.65 * px)))
            cv2.rectangle(picture, at.tolist(), to.tolist(), _pick(rng, _ACCENTS + _WALLS), -1)
    awning = top + round(0.9 * px), top + round(1.5 * px)
    for i, x in enumerate(range(0, width, 14)):
        stripe = accent if i % 2 else (240, 238, 228)
        cv2.rectangle(picture, (x, awning[0]), (x + 13, awning[1]), stripe, -1)


def _entrance(rng: Generator, picture: U8, top: int) -> None:
    px = PX_PER_M
    height, width = picture.shape[:2]
    colour = _pick(rng, _ACCENTS)
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
        cv2.polylines(picture, [points.astype(np.int32)], False, _pick(rng, _ACCENTS), 4)


def foliage(rng: Generator) -> U8:
    """Leaves of a tree or a hedge."""
    base = np.array([(70, 110, 46), (92, 124, 50), (58, 98, 60), (124, 116, 50)])
    tone = base[int(rng.integers(len(base)))]
    grain = 1 + 0.22 * noise(rng, 128, 128, 3) + 0.16 * noise(rng, 128, 128, 12)
    return shaded(np.full((128, 128, 3), tone, np.uint8), grain)


def plain(rng: Generator, colour: Colour, contrast: float = 0.06) -> U8:
    """A rough surface of one colour."""
    grain = 1 + contrast * (noise(rng, 96, 96, 2) + noise(rng, 96, 96, 16))
    return shaded(np.full((96, 96, 3), colour, np.uint8), grain)


def tyre() -> U8:
    """A wheel seen along its axle."""
    picture = np.full((64, 64, 3), 26, np.uint8)
    cv2.circle(picture, (32, 32), 20, (150, 152, 156), -1)
    for k in range(5):
        angle = 2 * np.pi * k / 5
        end = (round(32 + 17 * np.cos(angle)), round(32 + 17 * np.sin(angle)))
        cv2.line(picture, (32, 32), end, (60, 60, 64), 4)
    cv2.circle(picture, (32, 32), 5, (90, 90, 94), -1)
    return picture


def sky(rng: Generator) -> U8:
    """A panorama (256, 1024, 3): azimuth along the row, zenith in the first row, horizon last."""
    up = np.linspace(1, 0, 256)[:, None, None] ** 0.8
    picture = up * np.array([86, 140, 214]) + (1 - up) * np.array([206, 224, 240])
    clouds = sum(noise(rng, 256, 1024, cell) * cell / 64 for cell in (8, 24, 64))
    cover = np.clip((clouds - 0.3) * 0.8, 0, 1)[..., None]
    covered: U8 = (picture * (1 - cover) + 250 * cover).astype(np.uint8)
    return covered
