"""The street: a block of houses with a road around it, trees and parked cars, and the traffic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import open3d as o3d
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from robot_perception.core.types import F32, U8
from robot_perception.pipeline.simulator import ground as g
from robot_perception.pipeline.simulator.actors import cyclist, person, vehicle
from robot_perception.pipeline.simulator.config import LIDAR_HEIGHT_M, SimulatorConfig
from robot_perception.pipeline.simulator.drive import (
    STOP_AT_M,
    Course,
    Distance,
    Motion,
    along,
    block_course,
    lifted,
    travelled,
)
from robot_perception.pipeline.simulator.facades import facade
from robot_perception.pipeline.simulator.mesh import Mesh, ball, box, cylinder, joined, pose_at
from robot_perception.pipeline.simulator.textures import (
    Atlas,
    foliage,
    plain,
    sky,
)

ROAD_LABEL, PAVEMENT_LABEL, FIRST_THING_LABEL, MOVING_LABEL = 1, 2, 10, 1000


@dataclass(frozen=True, eq=False)
class Mover:
    """Something that moves: its mesh about its origin, and where that is when."""

    mesh: Mesh
    motion: Motion
    radius_m: float
    rays: o3d.t.geometry.RaycastingScene


@dataclass(frozen=True, eq=False)
class Street:
    """Everything there is to see. Triangles are numbered: first the static ones, then by mover.

    `sensor` is the motion of the LiDAR. `texels`, `start`, `size` are those of `Atlas.packed`;
    `panorama` is the sky's picture.
    """

    static: Mesh
    movers: tuple[Mover, ...]
    sensor: Motion
    texels: U8
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    panorama: U8

    @cached_property
    def rays(self) -> o3d.t.geometry.RaycastingScene:
        """The static part for casting rays."""
        return ray_scene(self.static.corners)

    @cached_property
    def every(self) -> Mesh:
        """All triangles in the order of their numbers."""
        return joined([self.static, *(m.mesh for m in self.movers)])

    @cached_property
    def texel_density(self) -> F32:
        """Texels a metre on each triangle."""
        e, size = self.every, self.size[self.every.texture, 0]
        uv = (e.uv * size[:, None, ::-1]).astype(np.float64)
        a, b = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
        texels = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
        sides = np.cross(e.corners[:, 1] - e.corners[:, 0], e.corners[:, 2] - e.corners[:, 0])
        area = np.linalg.norm(sides, axis=1)
        density: F32 = np.sqrt(texels / np.maximum(area, 1e-9)).astype(np.float32)
        return density


def ray_scene(corners: F32) -> o3d.t.geometry.RaycastingScene:
    """A scene of the triangles (N, 3, 3), numbered as they are."""
    scene = o3d.t.geometry.RaycastingScene()
    indices = np.arange(3 * len(corners), dtype=np.uint32).reshape(-1, 3)
    points = np.ascontiguousarray(corners.reshape(-1, 3))
    scene.add_triangles(o3d.core.Tensor.from_numpy(points), o3d.core.Tensor.from_numpy(indices))
    return scene


def build_street(config: SimulatorConfig) -> Street:
    """The street of `config.seed`."""
    rng = Generator(PCG64(config.seed))
    atlas, course = Atlas(), block_course()
    road, pavement = g.ground(rng, atlas, course)
    things = [
        *_houses(rng, atlas, course),
        *_furniture(rng, atlas, course),
        *_parked(rng, atlas, course),
    ]
    labelled = [t.labelled(FIRST_THING_LABEL + i) for i, t in enumerate(things)]
    static = joined([road.labelled(ROAD_LABEL), pavement.labelled(PAVEMENT_LABEL), *labelled])
    distance = travelled(course, config.speed_mps, config.stop_s, config.duration_s)
    movers = []
    for i, (mesh, motion) in enumerate(_traffic(rng, atlas, course, distance, config)):
        named = mesh.labelled(MOVING_LABEL + i)
        radius = float(np.linalg.norm(named.corners, axis=2).max())
        movers.append(Mover(named, motion, radius, ray_scene(named.corners)))
    sensor = lifted(along(course, distance), LIDAR_HEIGHT_M)
    return Street(static, tuple(movers), sensor, *atlas.packed(), sky(rng))


def _house(rng: Generator, atlas: Atlas, size: tuple[float, float, float]) -> Mesh:
    """A house, its front towards +x, `size` depth, width, height."""
    depth, width, height = size
    front = atlas.add(facade(rng, width, height, shop=bool(rng.random() < 0.6)))
    side = atlas.add(facade(rng, depth, height, shop=False))
    roof = atlas.add(plain(rng, (128, 84, 70)))
    return box(size, front, side, roof)


def _houses(rng: Generator, atlas: Atlas, course: Course) -> list[Mesh]:
    outer = course.beside(g.OUTER_FRONT_M)
    houses, s = [], 0.0
    while True:
        width, height = (float(v) for v in rng.uniform((8, 7), (14, 17)))
        if s + width > outer.length - 1:
            break
        pose = outer.poses(np.array([s + width / 2]))[0]
        depth = float(rng.uniform(8, 11))
        # The front faces the road: a left turn from the direction of travel.
        turned = pose @ pose_at(0, -depth / 2 - 0.3, 0, np.pi / 2)
        houses.append(_house(rng, atlas, (depth, width, height)).placed(turned))
        # Some neighbours stand wall to wall, some leave a lane through which one sees far.
        s += width + float(rng.choice([0.1, 0.8, 4.0, 7.0]))
    half_x = course.xy[:, 0].max() - g.INNER_FRONT_M
    y0 = g.INNER_FRONT_M
    y1 = course.xy[:, 1].max() - g.INNER_FRONT_M
    middle = (y0 + y1) / 2
    for heading, centre, length in (
        (-np.pi / 2, (0.0, y0), 2 * half_x),
        (np.pi / 2, (0.0, y1), 2 * half_x),
        (0.0, (half_x, middle), y1 - y0 - 14.4),
        (np.pi, (-half_x, middle), y1 - y0 - 14.4),
    ):
        count = max(1, round(length / 10))
        cuts = np.linspace(-length / 2, length / 2, count + 1)
        for a, b in zip(cuts, cuts[1:], strict=False):
            size = (7.0, float(b - a) - 0.05, float(rng.uniform(6, 14)))
            row = pose_at(centre[0], centre[1], 0, heading) @ pose_at(-size[0] / 2, (a + b) / 2)
            houses.append(_house(rng, atlas, size).placed(row))
    return houses


def _furniture(rng: Generator, atlas: Atlas, course: Course) -> list[Mesh]:
    """Trees, lamps, signs, bins and benches on the pavements."""
    bark, metal = atlas.add(plain(rng, (96, 76, 58), 0.15)), atlas.colour((84, 88, 92))
    leaves = [atlas.add(foliage(rng)) for _ in range(8)]
    lamp = atlas.colour((250, 246, 220))
    things = []
    for offset in (g.OUTER_KERB_M - 0.9, g.INNER_KERB_M + 0.8):
        line = course.beside(offset)
        for s in np.arange(3.0, line.length - 2, 7.5):
            pose = line.poses(np.array([s + rng.uniform(-1, 1)]))[0]
            kind = rng.random()
            if kind < 0.5:
                thing = _tree(rng, bark, leaves[int(rng.integers(len(leaves)))])
            elif kind < 0.75:
                arm = pose_at(0, 0.7 * np.sign(-offset), 5.6)
                head = box((0.25, 1.4, 0.14), metal, metal, lamp).placed(arm)
                thing = joined([cylinder(0.07, 0, 5.7, metal, sides=8), head])
            elif kind < 0.9:
                colours = rng.choice([(20, 70, 160), (190, 24, 30), (240, 200, 30)])
                plate = atlas.colour(tuple(int(c) for c in colours))  # type: ignore[arg-type]
                face = box((0.05, 0.62, 0.62), plate, metal, metal).placed(pose_at(-0.06, 0, 2.1))
                thing = joined([cylinder(0.04, 0, 2.7, metal, sides=8), face])
            else:
                green = atlas.add(plain(rng, (48, 84, 62)))
                thing = cylinder(0.32, 0, 1.05, green)
            things.append(thing.placed(pose @ pose_at(0, 0, g.KERB_HEIGHT_M)))
    return things


def _tree(rng: Generator, bark: int, leaves: int) -> Mesh:
    height = float(rng.uniform(4.2, 6.2))
    parts = [cylinder(0.17, 0, height - 0.8, bark, top=0.11)]
    for _ in range(3):
        shift = rng.uniform((-0.6, -0.6, -0.5), (0.6, 0.6, 0.9))
        radii = rng.uniform((0.9, 0.9, 0.8), (1.5, 1.5, 1.5)).tolist()
        bumps = rng.uniform(0.82, 1.15, (9, 16))
        crown = ball(radii, leaves, bumps, rings=8)
        parts.append(crown.placed(pose_at(shift[0], shift[1], height + shift[2])))
    return joined(parts)


def _parked(rng: Generator, atlas: Atlas, course: Course) -> list[Mesh]:
    models = [vehicle(rng, atlas, van=bool(i % 4 == 3)) for i in range(24)]
    parked: list[Mesh] = []
    for offset, turn in ((g.OUTER_PARKING_M, 0.0), (g.INNER_PARKING_M, np.pi)):
        line = course.beside(offset)
        for base in np.arange(3.0, course.length - 3, 6.0):
            # Nobody parks at the zebra crossing, and some bays are free.
            if rng.random() < 0.45 or STOP_AT_M + 1 < base < STOP_AT_M + 13:
                continue
            s = base / course.length * line.length + rng.uniform(-0.2, 0.2)
            slant = pose_at(0, rng.uniform(-0.1, 0.1), 0, turn + rng.normal(0, 0.02))
            # Each once before any comes again.
            model = models[len(parked) % len(models)]
            parked.append(model.placed(line.poses(np.array([s]))[0] @ slant))
    return parked


def _traffic(
    rng: Generator, atlas: Atlas, course: Course, robot: Distance, config: SimulatorConfig
) -> list[tuple[Mesh, Motion]]:
    def queue(gap: float) -> Distance:
        # The gap breathes with the way travelled, so the others stop and go with the robot.
        return lambda t: robot(t) + gap + 5.0 * np.sin(robot(t) * (2 * np.pi / 60.0))

    traffic: list[tuple[Mesh, Motion]] = []
    for i, gap in enumerate((17.0, -16.0)[: config.cars]):
        traffic.append((vehicle(rng, atlas, van=i == 1), along(course, queue(gap))))
    oncoming = course.beside(g.ONCOMING_M)
    others = max(0, config.cars - 2)
    for i in range(others):
        start = oncoming.length * (i + float(rng.uniform(-0.15, 0.15))) / others
        mesh = vehicle(rng, atlas, van=i % 3 == 2)
        traffic.append((mesh, along(oncoming, _steady(start, 7.0, 4.0), backwards=True)))
    bicycles = course.beside(g.BICYCLE_M)
    for i in range(config.cyclists):
        way = _steady(25.0 + i * bicycles.length / config.cyclists, 4.4, 0.5)
        traffic.append((cyclist(rng, atlas), along(bicycles, way)))
    for i in range(config.pedestrians):
        outer = i % 2 == 0
        line = course.beside(rng.uniform(-8.3, -7.2) if outer else rng.uniform(8.7, 9.9))
        start = line.length * (i + float(rng.uniform(-0.3, 0.3))) / config.pedestrians
        walk = along(line, _steady(start, float(rng.uniform(1.0, 1.6)), 0.0), bool(rng.integers(2)))
        traffic.append((person(rng, atlas), lifted(walk, g.KERB_HEIGHT_M)))
    return traffic


def _steady(start: float, speed_mps: float, sway_m: float) -> Distance:
    """About `speed_mps`, now faster, now slower."""
    return lambda t: start + speed_mps * t + sway_m * np.sin(2 * np.pi * t / 11.0)
