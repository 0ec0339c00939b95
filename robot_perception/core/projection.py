"""The inner loops of spherical projection.

Loops, compiled by numba: the same in NumPy takes ten times as long, most of it for temporaries. The
azimuth comes from a polynomial, exact to a few units in the last place of a float32.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32

# atan(q) / q on [0, 1], a polynomial in q^2: Chebyshev interpolation, within 1e-8.
_ATAN = tuple(
    np.float32(c)
    for c in (
        *(0.99999998, -0.33333037, 0.19991872, -0.14197798, 0.10618371),
        *(-0.07456855, 0.04213762, -0.01573125, 0.00276628),
    )
)
_PI, _HALF_PI, _TINY = np.float32(np.pi), np.float32(np.pi / 2), np.float32(1e-20)
_ZERO, _ONE = np.float32(0), np.int32(1)
_PART = 512
# What changes no result for NaN or infinity: those fall outside of every image.
_FAST = {"contract", "arcp", "nsz"}


@numba.njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def draw_points(
    xyz: F32,
    matrix: F32,
    slopes: F32,
    table: NDArray[np.int32],
    limits: tuple[np.float32, np.float32],
    shape: tuple[int, int],
    ranges: F32,
    pixels: NDArray[np.int32],
    image: F32,
) -> None:
    """The range (N,) of points (N, 3) moved by `matrix` (4, 4), and the pixel (N,) that each falls
    into in an image of `shape`, row by row, -1 outside of it and of the range `limits`. The ranges
    are drawn into `image` (H * W,), the nearest in front; 0 is empty.

    `slopes` and `table` are those of a SensorModel.
    """
    a0, a1, a2, a3 = matrix[0, 0], matrix[0, 1], matrix[0, 2], matrix[0, 3]
    b0, b1, b2, b3 = matrix[1, 0], matrix[1, 1], matrix[1, 2], matrix[1, 3]
    c0, c1, c2, c3 = matrix[2, 0], matrix[2, 1], matrix[2, 2], matrix[2, 3]
    p0, p1, p2, p3, p4, p5, p6, p7, p8 = _ATAN
    last, top, columns = np.int32(len(slopes) - 1), np.int32(len(table) - 1), np.int32(shape[1])
    lowest, highest = slopes[0], slopes[len(slopes) - 1]
    per_slope = np.float32(len(table) / (highest - lowest))
    per_radian = np.float32(columns / (2 * np.pi))
    nearest, farthest = limits
    # In parts that stay in the cache, and in loops of their own: the one without look-ups is
    # compiled for eight points at a time.
    parts = np.empty((5, _PART), np.float32)
    xs, ys, zs, reaches, rises = parts[0], parts[1], parts[2], parts[3], parts[4]
    sides = np.empty(_PART, np.int32)
    for first in range(0, len(xyz), _PART):
        count = min(_PART, len(xyz) - first)
        for n in range(count):
            x, y, z = xyz[first + n, 0], xyz[first + n, 1], xyz[first + n, 2]
            xs[n] = a0 * x + a1 * y + a2 * z + a3
            ys[n] = b0 * x + b1 * y + b2 * z + b3
            zs[n] = c0 * x + c1 * y + c2 * z + c3
        for n in range(count):
            x, y, z = xs[n], ys[n], zs[n]
            flat2 = x * x + y * y
            reach = np.float32(math.sqrt(flat2 + z * z))
            slope = z / np.float32(math.sqrt(flat2))
            large, small = max(abs(x), abs(y)), min(abs(x), abs(y))
            q = small / (large + _TINY)
            u = q * q
            high = p4 + u * (p5 + u * (p6 + u * (p7 + u * p8)))
            azimuth = q * (p0 + u * (p1 + u * (p2 + u * (p3 + u * high))))
            azimuth = _HALF_PI - azimuth if abs(y) > abs(x) else azimuth
            azimuth = _PI - azimuth if x < _ZERO else azimuth
            azimuth = -azimuth if y < _ZERO else azimuth
            column = min(np.int32((_PI - azimuth) * per_radian), columns - _ONE)
            inside = (nearest <= reach) & (reach <= farthest) & (lowest < slope)
            inside &= slope <= highest
            reaches[n] = reach
            rises[n] = slope if inside else lowest
            sides[n] = column if inside else -_ONE
        for n in range(count):
            slope = rises[n]
            # Indices without a sign: else each is asked whether it counts from the end.
            above = table[np.uint32(min(np.int32((slope - lowest) * per_slope), top))]
            above += np.int32(slope > slopes[np.uint32(above)])
            at = (last - above) * columns + sides[n]
            ranges[first + n] = reaches[n]
            pixels[first + n] = at if sides[n] >= 0 else -_ONE
        for n in range(first, first + count):
            if pixels[n] >= 0:
                at, reach = np.uint32(pixels[n]), ranges[n]
                before = image[at]
                # Written in any case: a branch would be guessed wrong too often.
                image[at] = reach if before == _ZERO or reach < before else before
