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
WALLS: tuple[Colour, ...] = (
    (178, 96, 74), (222, 190, 140), (205, 205, 198), (232, 222, 200), (150, 164, 178),
    (164, 178, 142), (206, 140, 104), (140, 88, 80), (216, 168, 152), (120, 128, 140),
    (236, 206, 120), (176, 152, 176),
)  # fmt: skip
ACCENTS: tuple[Colour, ...] = (
    (190, 30, 40), (20, 90, 160), (30, 120, 70), (230, 150, 20), (90, 40, 110),
    (20, 130, 140), (60, 60, 66), (200, 70, 120),
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


def mixed(colour: Colour, factor: float) -> Colour:
    return tuple(int(np.clip(c * factor, 0, 255)) for c in colour)  # type: ignore[return-value]


def pick(rng: Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


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
