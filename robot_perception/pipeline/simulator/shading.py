"""Per-pixel work of the camera and the LiDAR: texture look-up, light, haze, sky."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from robot_perception.core.types import F32, F64, U8, U16
from robot_perception.pipeline.simulator.scene import Street
from robot_perception.pipeline.simulator.textures import LEVELS

SUN = np.array([-0.42, -0.55, 0.72], np.float32)
SUN /= np.linalg.norm(SUN)
_AMBIENT, _DIRECT = np.float32(0.56), np.float32(0.62)
_HAZE = np.array([206, 220, 234], np.float32)
_HAZE_M = np.float32(260.0)
NO_HIT = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest hit of each of N rays.

    t: (N,) metres, inf without a hit. triangle: (N,) its number, or NO_HIT. bary: (N, 2)
    barycentric coordinates. normals: (N, 3) unit vectors, on either side of the face.
    """

    t: F32
    triangle: NDArray[np.uint32]
    bary: F32
    normals: F32


def rays_from(centre: F64, rotation: F64, directions: F32) -> F32:
    """Rays (N, 6) from `centre` (3,) along `directions` (N, 3) turned by `rotation` (3, 3)."""
    rays = np.empty((len(directions), 6), np.float32)
    _rays_from(centre.astype(np.float32), rotation.astype(np.float32), directions, rays)
    return rays


def merge(hit: Hits, other: Hits, first: int) -> None:
    """Take over from `other` what is nearer; its triangles are numbered from `first` on."""
    _merge(
        hit.t, hit.triangle, hit.bary, hit.normals,
        other.t, other.triangle, other.bary, other.normals, np.uint32(first),
    )  # fmt: skip


def sun_rays(rays: F32, hit: Hits) -> tuple[F32, NDArray[np.int32]]:
    """Rays (M, 6) to the sun from the faces turned to it, and the indices (M,) of their hits."""
    out, index = np.empty_like(rays), np.empty(len(rays), np.int32)
    count = _sun_rays(rays, hit.t, hit.normals, SUN, out, index)
    return out[:count], index[:count]


def shade(
    street: Street, rays: F32, hit: Hits, lit: NDArray[np.bool_], pixel_rad: float, noise: F32
) -> tuple[U8, U16]:
    """Colour (N, 3) and instance (N,) of what the rays hit.

    rays: (N, 6). lit: (N,) whether the sun reaches the point. pixel_rad: angle of a pixel, for the
    choice of the texture's level. noise: (N,), added to the colour.
    """
    every = street.every
    rgb, labels = np.empty((len(hit.t), 3), np.uint8), np.empty(len(hit.t), np.uint16)
    _shade(
        rays, hit.t, hit.triangle, hit.bary, hit.normals, lit, np.float32(pixel_rad),
        every.uv, every.texture, every.label, street.texel_density, street.texels, street.start,
        street.size, street.panorama, SUN, _HAZE, noise, rgb, labels,
    )  # fmt: skip
    return rgb, labels


def brightness(street: Street, triangle: NDArray[np.uint32], bary: F32) -> F32:
    """Mean of R, G, B in 0..1 (N,) at hits of triangles."""
    every = street.every
    out = np.empty(len(triangle), np.float32)
    _brightness(
        triangle, bary, every.uv, every.texture, street.texels, street.start, street.size, out
    )
    return out


@numba.njit(cache=True, nogil=True)
def _fetch(
    texels: U8, start: int, height: int, width: int, u: float, v: float
) -> tuple[float, float, float]:
    """Bilinear and repeating, texel centres at half-integers."""
    x, y = u * width - 0.5, v * height - 0.5
    fx, fy = math.floor(x), math.floor(y)
    ax, ay = np.float32(x - fx), np.float32(y - fy)
    x0, y0 = int(fx) % width, int(fy) % height
    x1, y1 = (x0 + 1) % width, (y0 + 1) % height
    a, b = texels[start + y0 * width + x0], texels[start + y0 * width + x1]
    c, d = texels[start + y1 * width + x0], texels[start + y1 * width + x1]
    one = np.float32(1.0)
    wa, wb = (one - ax) * (one - ay), ax * (one - ay)
    wc, wd = (one - ax) * ay, ax * ay
    return (
        wa * a[0] + wb * b[0] + wc * c[0] + wd * d[0],
        wa * a[1] + wb * b[1] + wc * c[1] + wd * d[1],
        wa * a[2] + wb * b[2] + wc * c[2] + wd * d[2],
    )


@numba.njit(cache=True, nogil=True)
def _rays_from(centre: F32, rotation: F32, directions: F32, rays: F32) -> None:
    # A loop: the matrix product of NumPy goes through threads that suffer on a busy machine.
    for i in range(len(directions)):
        for r in range(3):
            rays[i, r] = centre[r]
            rays[i, 3 + r] = (
                rotation[r, 0] * directions[i, 0]
                + rotation[r, 1] * directions[i, 1]
                + rotation[r, 2] * directions[i, 2]
            )


@numba.njit(cache=True, nogil=True)
def _merge(  # type: ignore[no-untyped-def]
    t, triangle, bary, normals, t2, triangle2, bary2, normals2, first
) -> None:
    for i in range(len(t)):
        if t2[i] < t[i]:
            t[i] = t2[i]
            triangle[i] = triangle2[i] + first
            for c in range(2):
                bary[i, c] = bary2[i, c]
            for c in range(3):
                normals[i, c] = normals2[i, c]


@numba.njit(cache=True, nogil=True)
def _sun_rays(rays, t, normals, sun, out, index) -> int:  # type: ignore[no-untyped-def]
    count = 0
    for i in range(len(t)):
        if not math.isfinite(t[i]):
            continue
        n, r = normals[i], rays[i]
        facing = n[0] * r[3] + n[1] * r[4] + n[2] * r[5]
        side = np.float32(-1.0) if facing > 0 else np.float32(1.0)
        if side * (n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2]) <= 0:
            continue
        # A little off the face, so that it does not shade itself.
        for c in range(3):
            out[count, c] = r[c] + r[3 + c] * t[i] + np.float32(0.02) * side * n[c]
            out[count, 3 + c] = sun[c]
        index[count] = i
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _shade(  # type: ignore[no-untyped-def]
    rays, t, triangle, bary, normals, lit, pixel_rad, uv, texture, label, density,
    texels, start, size, panorama, sun, haze, noise, rgb, labels,
) -> None:  # fmt: skip
    for i in range(len(t)):
        d = rays[i, 3:]
        k = triangle[i]
        if k == NO_HIT:
            # The last row of the panorama is the horizon.
            x = int((math.atan2(d[1], d[0]) / (2 * np.pi) + 0.5) * panorama.shape[1])
            up = min(max(math.asin(min(max(d[2], -1.0), 1.0)) / (np.pi / 2), 0.0), 1.0)
            y = int((1.0 - up) * (panorama.shape[0] - 1))
            for c in range(3):
                value = panorama[y, x % panorama.shape[1], c] + noise[i]
                rgb[i, c] = np.uint8(min(max(value, 0.0), 255.0))
            labels[i] = 0
            continue
        n = normals[i]
        facing = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
        b1, b2 = bary[i, 0], bary[i, 1]
        b0 = np.float32(1.0) - b1 - b2
        u = b0 * uv[k, 0, 0] + b1 * uv[k, 1, 0] + b2 * uv[k, 2, 0]
        v = b0 * uv[k, 0, 1] + b1 * uv[k, 1, 1] + b2 * uv[k, 2, 1]
        number = texture[k]
        # Texels under a pixel, the long and the short side of its footprint averaged.
        texel = t[i] * pixel_rad / math.sqrt(max(abs(facing), 0.04)) * density[k]
        level = min(max(math.log2(max(texel, 1e-3)), 0.0), LEVELS - 1.001)
        fine = int(level)
        share = np.float32(level - fine)
        s, e = size[number, fine], size[number, fine + 1]
        p = _fetch(texels, start[number, fine], s[0], s[1], u, v)
        q = _fetch(texels, start[number, fine + 1], e[0], e[1], u, v)
        # Faces are seen from either side; upward ones get more light of the sky.
        side = np.float32(-1.0) if facing > 0 else np.float32(1.0)
        light = _AMBIENT + np.float32(0.1) * side * n[2]
        if lit[i]:
            light += _DIRECT * max(side * (n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2]), 0.0)
        clear = math.exp(-t[i] / _HAZE_M)
        for c in range(3):
            surface = (p[c] + (q[c] - p[c]) * share) * light
            value = haze[c] + (surface - haze[c]) * clear + noise[i]
            rgb[i, c] = np.uint8(min(max(value, 0.0), 255.0))
        labels[i] = label[k]


@numba.njit(cache=True, nogil=True)
def _brightness(  # type: ignore[no-untyped-def]
    triangle, bary, uv, texture, texels, start, size, out
) -> None:
    for i in range(len(triangle)):
        k = triangle[i]
        b1, b2 = bary[i, 0], bary[i, 1]
        b0 = np.float32(1.0) - b1 - b2
        u = b0 * uv[k, 0, 0] + b1 * uv[k, 1, 0] + b2 * uv[k, 2, 0]
        v = b0 * uv[k, 0, 1] + b1 * uv[k, 1, 1] + b2 * uv[k, 2, 1]
        number = texture[k]
        s = size[number, 0]
        p = _fetch(texels, start[number, 0], s[0], s[1], u, v)
        out[i] = (p[0] + p[1] + p[2]) / np.float32(765.0)
