"""Textured triangles, and the few solids the street is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_perception.core.types import F32, F64, I32, U16


@dataclass(frozen=True, eq=False)
class Mesh:
    """`corners` (N, 3, 3) float32 metres; `uv` (N, 3, 2) float32, 1 being a texture's far edge.

    `texture` (N,) int32 number of the texture, `label` (N,) uint16 instance.
    """

    corners: F32
    uv: F32
    texture: I32
    label: U16

    def placed(self, pose: F64) -> Mesh:
        """The same at `pose` (4, 4)."""
        corners = self.corners @ pose[:3, :3].T + pose[:3, 3]
        return Mesh(corners.astype(np.float32), self.uv, self.texture, self.label)

    def labelled(self, label: int) -> Mesh:
        """The same as instance `label`."""
        return Mesh(self.corners, self.uv, self.texture, np.full_like(self.label, label))


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """All of them as one."""
    return Mesh(
        np.concatenate([m.corners for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.texture for m in meshes]),
        np.concatenate([m.label for m in meshes]),
    )


def pose_at(x: float, y: float, z: float = 0.0, heading: float = 0.0) -> F64:
    """Pose (4, 4): turned by `heading` about z, then moved."""
    c, s = np.cos(heading), np.sin(heading)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, z], [0, 0, 0, 1.0]])


def _mesh(corners: ArrayLike, uv: ArrayLike, texture: int | Sequence[int]) -> Mesh:
    vertices = np.asarray(corners, np.float32).reshape(-1, 3, 3)
    textures = np.empty(len(vertices), np.int32)
    textures[:] = texture
    mapped = np.asarray(uv, np.float32).reshape(-1, 3, 2)
    return Mesh(vertices, mapped, textures, np.zeros(len(vertices), np.uint16))


def quads(points: ArrayLike, texture: int, uv: ArrayLike | None = None) -> Mesh:
    """Quadrilaterals `points` (N, 4, 3): top left, top right, bottom right, bottom left.

    uv: (N, 4, 2), the whole texture if not given.
    """
    p = np.asarray(points, np.float64).reshape(-1, 4, 3)
    whole = [[0, 0], [1, 0], [1, 1], [0, 1]]
    q = np.broadcast_to(whole if uv is None else np.asarray(uv), (len(p), 4, 2))
    order = [0, 1, 2, 0, 2, 3]
    return _mesh(p[:, order], q[:, order], texture)


def box(size: Sequence[float], front: int, side: int, top: int, back: int | None = None) -> Mesh:
    """A box on the ground, x forward; textures of its front (+x), its sides, its top, its back."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    walls = [
        (front, [(x, y), (x, -y)]),
        (side, [(-x, y), (x, y)]),
        (side, [(x, -y), (-x, -y)]),
        (front if back is None else back, [(-x, -y), (-x, y)]),
    ]
    parts = [
        # Seen from outside, the left end of a wall comes first.
        quads([[(*b, z), (*a, z), (*a, 0), (*b, 0)]], texture)
        for texture, (a, b) in walls
    ]
    parts.append(quads([[(-x, y, z), (x, y, z), (x, -y, z), (-x, -y, z)]], top))
    return joined(parts)


def cylinder(
    radius: float, low: float, high: float, texture: int, top: float | None = None, sides: int = 10
) -> Mesh:
    """An upright cylinder, or a cone frustum of radius `top` at its upper end, with a lid."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    r_top = radius if top is None else top
    lower = np.column_stack([radius * ring, np.full(sides + 1, low)])
    upper = np.column_stack([r_top * ring, np.full(sides + 1, high)])
    wall = np.stack([upper[:-1], upper[1:], lower[1:], lower[:-1]], axis=1)
    u = np.linspace(0, 1, sides + 1)
    one, nil = np.ones(sides), np.zeros(sides)
    uv = np.stack(
        [
            np.stack([u[:-1], nil], 1),
            np.stack([u[1:], nil], 1),
            np.stack([u[1:], one], 1),
            np.stack([u[:-1], one], 1),
        ],
        axis=1,
    )
    centre = np.broadcast_to([0.0, 0.0, high], (sides, 3))
    lid = np.stack([centre, upper[:-1], upper[1:]], axis=1)
    disc = np.broadcast_to([0.5, 0.5], (sides, 3, 2)) + 0.5 * np.stack(
        [0 * ring[:-1], ring[:-1], ring[1:]], axis=1
    )
    return joined([quads(wall, texture, uv), _mesh(lid, disc, texture)])


def wheel(radius: float, width: float, texture: int) -> Mesh:
    """A wheel that stands at the origin, its axle along y; the texture shows on both faces."""
    disc = cylinder(radius, -width / 2, width / 2, texture, sides=14)
    other = disc.corners * np.array([1, -1, -1], np.float32)
    both = np.concatenate([disc.corners, other])[:, :, [0, 2, 1]] + np.array([0, 0, radius])
    twice = np.concatenate([disc.texture, disc.texture])
    labels = np.zeros(len(twice), np.uint16)
    return Mesh(both.astype(np.float32), np.concatenate([disc.uv, disc.uv]), twice, labels)


def ball(
    radii: Sequence[float], texture: int, bumps: NDArray[np.float64] | None = None, rings: int = 6
) -> Mesh:
    """An ellipsoid around the origin; bumps (rings + 1, 2 * rings): factors of its radius."""
    sides = 2 * rings
    latitude = np.linspace(np.pi / 2, -np.pi / 2, rings + 1)[:, None]
    longitude = np.linspace(0, 2 * np.pi, sides + 1)[None]
    parts = (
        np.cos(latitude) * np.cos(longitude),
        np.cos(latitude) * np.sin(longitude),
        np.broadcast_to(np.sin(latitude), (rings + 1, sides + 1)),
    )
    grid = np.stack(parts, axis=-1) * np.asarray(radii)
    if bumps is not None:
        grid = grid * np.concatenate([bumps, bumps[:, :1]], axis=1)[..., None]
    v, u = np.meshgrid(np.linspace(0, 1, rings + 1), np.linspace(0, 2, sides + 1), indexing="ij")
    uv = np.stack([u, v], axis=-1)

    def corners(a: NDArray[np.float64]) -> NDArray[np.float64]:
        cells = np.stack([a[:-1, :-1], a[:-1, 1:], a[1:, 1:], a[1:, :-1]], axis=2)
        return cells.reshape(-1, 4, a.shape[-1])

    return quads(corners(grid), texture, corners(uv))


def prism(outline: ArrayLike, width: float, taper: float, side: int, strips: Sequence[int]) -> Mesh:
    """A body with a side view: `outline` (K, 2) x, z metres, clockwise seen from its right side.

    Extruded `width` along y; above its middle height it narrows by `taper` in all. `side` is drawn
    over the outline's box (x forward to the right); `strips` (K,) textures the face from each
    point of the outline to the next.
    """
    o = np.asarray(outline, np.float64)
    low, high = o.min(axis=0), o.max(axis=0)
    rise = np.clip((o[:, 1] - low[1]) / (high[1] - low[1]) * 2 - 1, 0, 1)
    half = (width - taper * rise) / 2
    uv = np.stack([(o[:, 0] - low[0]), (high[1] - o[:, 1])], axis=1) / (high - low)
    right = np.stack([o[:, 0], -half, o[:, 1]], axis=1)
    left = right * [1, -1, 1]
    # A fan around a point well inside suits the convex-enough outlines of vehicles.
    hub = np.array([(low[0] + high[0]) / 2, 0.0, low[1] + 0.4 * (high[1] - low[1])])
    hub_uv = np.array([0.5, 0.6])
    parts = []
    for ring, sign in ((right, -1.0), (left, 1.0)):
        middle = np.broadcast_to(hub + [0, sign * width / 2, 0], ring.shape)
        fan = np.stack([middle, ring, np.roll(ring, -1, axis=0)], axis=1)
        flat = np.broadcast_to(hub_uv, uv.shape)
        parts.append(_mesh(fan, np.stack([flat, uv, np.roll(uv, -1, axis=0)], axis=1), side))
    after_right, after_left = np.roll(right, -1, axis=0), np.roll(left, -1, axis=0)
    skin = np.stack([after_left, after_right, right, left], axis=1)
    parts += [quads(skin[i : i + 1], texture) for i, texture in enumerate(strips)]
    return joined(parts)
