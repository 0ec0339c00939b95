"""What the LiDAR and the camera see of the street at a time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import open3d as o3d
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from robot_perception.core.types import F32, F64, ImageFrame, Scan
from robot_perception.pipeline.simulator.config import (
    CAMERA_FRAME,
    CAMERA_IN_LIDAR,
    LIDAR_FRAME,
    START_NS,
    InstanceMask,
    PointInstances,
    SimulatorConfig,
    camera_matrix,
    elevations,
)
from robot_perception.pipeline.simulator.mesh import joined
from robot_perception.pipeline.simulator.scene import Mover, Street, ray_scene
from robot_perception.pipeline.simulator.shading import (
    Hits,
    brightness,
    merge,
    rays_from,
    shade,
    sun_rays,
)

_LIDAR_STREAM, _CAMERA_STREAM = 1, 2
_MIN_RANGE_M = 0.5


def _frame_rng(config: SimulatorConfig, stream: int, stamp_ns: int) -> Generator:
    # Every frame has its own noise, whichever frames were made before it.
    return Generator(PCG64([config.seed, stream, stamp_ns - START_NS]))


def _cast(scene: o3d.t.geometry.RaycastingScene, rays: F32) -> Hits:
    hit = scene.cast_rays(o3d.core.Tensor.from_numpy(rays))
    names = ("t_hit", "primitive_ids", "primitive_uvs", "primitive_normals")
    return Hits(*(hit[name].numpy() for name in names))


@lru_cache(maxsize=4)
def _beams(config: SimulatorConfig) -> F64:
    """Directions (columns, beams, 3) in the order of firing: from behind, clockwise."""
    azimuth = np.pi - (np.arange(config.columns) + 0.5) * (2 * np.pi / config.columns)
    e = elevations(config)[None]
    a = azimuth[:, None]
    z = np.broadcast_to(np.sin(e), (config.columns, config.beams))
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), z], axis=-1)


def lidar_scan(
    street: Street, config: SimulatorConfig, stamp_ns: int
) -> tuple[Scan, PointInstances]:
    """The revolution that ends at `stamp_ns`, as a driver gives it.

    Column after column, clockwise from behind the sensor, ring 0 on top. `time_s` is relative to
    the stamp, so negative, 0 for the last column. As from a real sensor there is no correction for
    its motion: each point is in the sensor's frame at the point's own time. Sensor and traffic are
    where they are at that time, exactly, column by column. `intensity` is 0..255, from the
    surface's brightness and the angle of incidence. Rays without return give no point.
    """
    columns, beams = config.columns, config.beams
    local = _beams(config)
    time_s = (np.arange(1, columns + 1) - columns) / (columns * config.rate_hz)
    times = (stamp_ns - START_NS) * 1e-9 + time_s
    poses = street.sensor(times)
    directions = local @ poses[:, :3, :3].transpose(0, 2, 1)
    origins = np.broadcast_to(poses[:, None, :3, 3], directions.shape)
    rays = np.concatenate([origins, directions], axis=-1)
    hit = _cast(street.rays, rays.astype(np.float32).reshape(-1, 6))
    facing = np.abs(np.einsum("ni,ni->n", hit.normals, rays.reshape(-1, 6)[:, 3:]))
    first = len(street.static.corners)
    grid = np.arange(columns * beams).reshape(columns, beams)
    for mover in street.movers:
        seen, theirs = _rays_near(mover, times, poses, rays, config.max_range_m)
        if len(seen):
            index = grid[seen].reshape(-1)
            own = _cast(mover.rays, theirs)
            nearer = own.t < hit.t[index]
            at = index[nearer]
            hit.t[at] = own.t[nearer]
            hit.triangle[at] = own.triangle[nearer] + np.uint32(first)
            hit.bary[at] = own.bary[nearer]
            facing[at] = np.abs(np.einsum("ni,ni->n", own.normals[nearer], theirs[nearer, 3:]))
        first += len(mover.mesh.corners)
    t = hit.t
    rng = _frame_rng(config, _LIDAR_STREAM, stamp_ns)
    kept = rng.random(len(t), np.float32) >= config.dropout
    ranges = t + config.range_noise_m * rng.standard_normal(len(t), np.float32)
    found = np.flatnonzero(kept & (t >= _MIN_RANGE_M) & (t <= config.max_range_m))
    xyz = (local.reshape(-1, 3)[found] * ranges[found, None]).astype(np.float32)
    bright = brightness(street, hit.triangle[found], hit.bary[found])
    intensity = 255 * (0.1 + 0.9 * bright) * np.sqrt(np.minimum(facing[found], 1.0))
    column, ring = np.divmod(found, beams)
    labels = street.every.label[hit.triangle[found]]
    scan = Scan(
        stamp_ns,
        LIDAR_FRAME,
        xyz,
        np.floor(intensity).astype(np.float32),
        ring.astype(np.uint16),
        time_s[column].astype(np.float32),
    )
    return scan, PointInstances(stamp_ns, LIDAR_FRAME, labels)


def _rays_near(
    mover: Mover, times: F64, poses: F64, rays: F64, max_range_m: float
) -> tuple[NDArray[np.intp], F32]:
    """The columns that may hit the mover, and their rays (K * beams, 6) in the mover's frame."""
    placed = mover.motion(times)
    offset = placed[:, :2, 3] - poses[:, :2, 3]
    distance = np.maximum(np.linalg.norm(offset, axis=1), 1e-6)
    if distance.min() - mover.radius_m > max_range_m:
        return np.zeros(0, np.intp), np.zeros((0, 6), np.float32)
    # All beams of a column lie in one upright plane through the sensor.
    towards = np.einsum("wi,wi->w", offset, rays[:, 0, 3:5])
    away = np.abs(offset[:, 0] * rays[:, 0, 4] - offset[:, 1] * rays[:, 0, 3])
    flat = np.linalg.norm(rays[:, 0, 3:5], axis=1)
    seen = np.flatnonzero((away < mover.radius_m * flat) & (towards > -mover.radius_m * flat))
    rotation = placed[seen, :3, :3]
    origin = rays[seen, :, :3] - placed[seen, None, :3, 3]
    theirs = np.concatenate([origin @ rotation, rays[seen, :, 3:] @ rotation], axis=-1)
    return seen, theirs.astype(np.float32).reshape(-1, 6)


@lru_cache(maxsize=4)
def _pixels(config: SimulatorConfig) -> F32:
    """Unit directions (H * W, 3) of the pixel centres in the LiDAR's frame."""
    k = camera_matrix(config)
    v, u = np.mgrid[: config.image_height, : config.image_width].astype(np.float64)
    optical = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1)
    optical /= np.linalg.norm(optical, axis=-1, keepdims=True)
    rotated: F64 = optical.reshape(-1, 3) @ CAMERA_IN_LIDAR[:3, :3].T
    return rotated.astype(np.float32)


def camera_image(
    street: Street, config: SimulatorConfig, stamp_ns: int
) -> tuple[ImageFrame, InstanceMask]:
    """The image at `stamp_ns` (global shutter, no distortion) and what is in it."""
    time = np.array([(stamp_ns - START_NS) * 1e-9])
    pose = street.sensor(time)[0]
    rays = rays_from((pose @ CAMERA_IN_LIDAR)[:3, 3], pose[:3, :3], _pixels(config))
    scenes = [street.rays]
    if street.movers:
        moved = joined([m.mesh.placed(m.motion(time)[0]) for m in street.movers])
        scenes.append(ray_scene(moved.corners))
    hit = _cast(scenes[0], rays)
    for scene in scenes[1:]:
        merge(hit, _cast(scene, rays), len(street.static.corners))
    lit = _lit(scenes, rays, hit)
    rng = _frame_rng(config, _CAMERA_STREAM, stamp_ns)
    noise = rng.standard_normal(len(rays), np.float32) * np.float32(config.camera_noise)
    pixel_rad = 1.0 / camera_matrix(config)[0, 0]
    rgb, labels = shade(street, rays, hit, lit, pixel_rad, noise)
    shape = (config.image_height, config.image_width)
    image = ImageFrame(stamp_ns, CAMERA_FRAME, rgb.reshape(*shape, 3))
    return image, InstanceMask(stamp_ns, CAMERA_FRAME, labels.reshape(shape))


def _lit(scenes: list[o3d.t.geometry.RaycastingScene], rays: F32, hit: Hits) -> NDArray[np.bool_]:
    """Whether the sun reaches what was hit (N,)."""
    to_sun, index = sun_rays(rays, hit)
    blocked = np.zeros(len(index), bool)
    for scene in scenes:
        blocked |= scene.test_occlusions(o3d.core.Tensor.from_numpy(to_sun)).numpy()
    lit = np.zeros(len(rays), bool)
    lit[index[~blocked]] = True
    return lit
