"""The simulated drive: the same every time, and true to its ground truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest

from robot_perception.core.types import CameraInfo, ImageFrame, Odometry, Scan, Transforms
from robot_perception.pipeline.simulator import (
    CAMERA_IN_LIDAR,
    LIDAR_FRAME,
    MOVING_LABEL,
    START_NS,
    InstanceMask,
    PointInstances,
    SimulatedFrame,
    SimulatorConfig,
    TruePose,
    camera_matrix,
    simulate,
    write_recording,
)
from robot_perception.pipeline.simulator.config import elevations
from robot_perception.pipeline.simulator.drive import block_course, travelled
from robot_perception.pipeline.simulator.scene import (
    PAVEMENT_LABEL,
    ROAD_LABEL,
    Street,
    build_street,
)
from robot_perception.pipeline.simulator.sensors import camera_image, lidar_scan

SMALL = SimulatorConfig(
    seed=3, duration_s=0.5, image_width=160, image_height=96, beams=32, columns=512
)
NOISELESS = replace(SMALL, range_noise_m=0.0, dropout=0.0)
# The robot waits at the zebra crossing then.
STANDS_S = 13.0


def stamp(seconds: float) -> int:
    return START_NS + round(seconds * 1e9)


@pytest.fixture(scope="module")
def street() -> Street:
    return build_street(replace(SMALL, duration_s=30.0))


@pytest.fixture(scope="module")
def drive() -> list[SimulatedFrame]:
    return list(simulate(SMALL))


def as_bytes(frame: SimulatedFrame) -> bytes:
    parts = [getattr(frame, name) for name in frame.__slots__]
    return b"".join(p.tobytes() if isinstance(p, np.ndarray) else repr(p).encode() for p in parts)


def in_street(points: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Points (N, 3), each in the frame of its own pose (N, 4, 4)."""
    return np.einsum("nij,nj->ni", poses[:, :3, :3], points) + poses[:, :3, 3]


def test_same_seed_same_bytes_other_seed_other_street(drive: list[SimulatedFrame]) -> None:
    again = [as_bytes(f) for f in simulate(SMALL)]
    assert again == [as_bytes(f) for f in drive]
    other = next(f for f in simulate(replace(SMALL, seed=4)) if isinstance(f, ImageFrame))
    first = next(f for f in drive if isinstance(f, ImageFrame))
    assert np.mean(np.any(other.rgb != first.rgb, axis=2)) > 0.5


def test_a_frame_does_not_depend_on_those_before_it(street: Street) -> None:
    alone = lidar_scan(street, SMALL, stamp(0.4))[0]
    lidar_scan(street, SMALL, stamp(0.1))
    assert as_bytes(lidar_scan(street, SMALL, stamp(0.4))[0]) == as_bytes(alone)


def test_order_stamps_and_frames(drive: list[SimulatedFrame]) -> None:
    stamps = [f.stamp_ns for f in drive]
    assert stamps == sorted(stamps)
    kinds = [type(f) for f in drive]
    assert kinds[:2] == [Odometry, TruePose]
    period = [Odometry, TruePose, CameraInfo, ImageFrame, InstanceMask]
    period += [Odometry, TruePose, Scan, PointInstances]
    assert kinds[2:] == period * 5
    scans = [f for f in drive if isinstance(f, Scan)]
    assert [s.stamp_ns - START_NS for s in scans] == [100_000_000 * (i + 1) for i in range(5)]
    posed = {f.stamp_ns for f in drive if isinstance(f, Odometry)}
    assert {f.stamp_ns for f in drive} == posed
    odometry = [f for f in drive if isinstance(f, Odometry)]
    assert np.allclose(odometry[0].pose, np.eye(4))
    assert {o.child_frame_id for o in odometry} == {LIDAR_FRAME} == {s.frame_id for s in scans}


def test_scan_is_what_a_driver_gives(drive: list[SimulatedFrame]) -> None:
    scan = next(f for f in drive if isinstance(f, Scan))
    assert scan.ring is not None and scan.time_s is not None and scan.intensity is not None
    assert (scan.xyz.dtype, scan.ring.dtype, scan.time_s.dtype) == (np.float32, np.uint16, "f4")
    assert np.isfinite(scan.xyz).all()
    assert (np.diff(scan.time_s) >= 0).all() and -0.1 < scan.time_s.min() <= scan.time_s.max() <= 0
    assert scan.intensity.min() >= 0 and scan.intensity.max() <= 255
    reach = np.linalg.norm(scan.xyz, axis=1)
    assert np.allclose(np.arcsin(scan.xyz[:, 2] / reach), elevations(SMALL)[scan.ring], atol=1e-5)
    # Clockwise from behind: what is ahead is seen in the middle of the revolution.
    ahead = np.abs(np.arctan2(scan.xyz[:, 1], scan.xyz[:, 0])) < 0.05
    assert np.allclose(scan.time_s[ahead], -0.05, atol=0.002)


def test_noise_and_dropout_are_as_set(street: Street) -> None:
    clean, _ = lidar_scan(street, NOISELESS, stamp(1.0))
    lossy, _ = lidar_scan(street, replace(NOISELESS, dropout=0.2), stamp(1.0))
    share = 1 - len(lossy.xyz) / len(clean.xyz)
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(clean.xyz))
    noisy, _ = lidar_scan(street, replace(NOISELESS, range_noise_m=0.03), stamp(1.0))
    error = np.linalg.norm(noisy.xyz, axis=1) - np.linalg.norm(clean.xyz, axis=1)
    count = len(error)
    assert abs(error.mean()) < 4 * 0.03 / np.sqrt(count)
    assert abs(error.std() / 0.03 - 1) < 4 / np.sqrt(2 * count)
    # Other noise in every scan: the robot stands, so the same ray hits the same road again.
    config = replace(SMALL, range_noise_m=0.03, dropout=0.0, stop_s=1.0)
    still = replace(config, range_noise_m=0.0)
    keys, errors = [], []
    for t in (STANDS_S, STANDS_S + 0.2):
        (one, truth), (other, _) = (lidar_scan(street, c, stamp(t)) for c in (config, still))
        assert one.ring is not None and one.time_s is not None
        road = truth.labels == ROAD_LABEL
        keys.append((one.ring + 1000.0 * np.round(one.time_s * 1e4))[road])
        errors.append((np.linalg.norm(one.xyz, axis=1) - np.linalg.norm(other.xyz, axis=1))[road])
    _, i, j = np.intersect1d(*keys, return_indices=True)
    assert len(i) > 1000
    assert abs(np.corrcoef(errors[0][i], errors[1][j])[0, 1]) < 0.1
    # Along the ray only.
    across = np.cross(noisy.xyz, clean.xyz) / np.linalg.norm(clean.xyz, axis=1)[:, None]
    assert np.abs(across).max() < 1e-4


def test_rolling_shutter_points_come_together_with_the_pose_of_their_own_time(
    street: Street,
) -> None:
    """Points on the road lie on the road, those of one wall in one plane, over half a second."""
    apart, at_once = [], []
    walls: dict[int, list[np.ndarray]] = {}
    for k in range(5):
        # In a bend, where a wrong time shows most.
        scan, truth = lidar_scan(street, NOISELESS, stamp(3.0 + 0.1 * k))
        assert scan.time_s is not None
        times = (scan.stamp_ns - START_NS) * 1e-9 + scan.time_s.astype(np.float64)
        points = in_street(scan.xyz, street.sensor(times))
        assert np.abs(points[truth.labels == ROAD_LABEL, 2]).max() < 1e-3
        still = np.repeat(street.sensor(times[-1:]), len(times), axis=0)
        wrong = in_street(scan.xyz, still)
        for label in np.unique(truth.labels):
            of = truth.labels == label
            if PAVEMENT_LABEL < label < MOVING_LABEL and of.sum() > 400:
                walls.setdefault(int(label), []).append(points[of])
                at_once.append(wrong[of])
                apart.append(label)
    assert len(walls) >= 3
    flat = spread = 0
    mesh = street.static
    for label, parts in walls.items():
        corners = mesh.corners[mesh.label == label].astype(np.float64)
        if len(corners) > 12:
            continue  # Not a house, which has five faces of two triangles.
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        offsets = np.einsum("ni,ni->n", normals, corners[:, 0])

        def off(points: np.ndarray, n: np.ndarray = normals, c: np.ndarray = offsets) -> np.ndarray:
            return np.abs(points @ n.T - c).min(axis=1)

        assert off(np.concatenate(parts)).max() < 2e-3
        flat += 1
        spread = max(
            spread, *(off(w).max() for w, a in zip(at_once, apart, strict=True) if a == label)
        )
    assert flat >= 3
    assert spread > 0.3, "without the motion of the sensor they would not lie there"


def test_lidar_points_land_on_their_instance_in_the_image(street: Street) -> None:
    config = replace(NOISELESS, image_width=640, image_height=360, columns=1024)
    k = camera_matrix(config)
    for t in (0.35, 3.35, 20.35):
        scan, truth = lidar_scan(street, config, stamp(t + 0.05))
        image, mask = camera_image(street, config, stamp(t))
        assert image.rgb.shape == (360, 640, 3) and mask.labels.shape == (360, 640)
        assert scan.time_s is not None
        near = np.abs(scan.time_s + 0.05) < 0.012
        times = t + 0.05 + scan.time_s[near].astype(np.float64)
        world = in_street(scan.xyz[near], street.sensor(times))
        camera = street.sensor(np.array([t]))[0] @ CAMERA_IN_LIDAR
        optical = (world - camera[:3, 3]) @ camera[:3, :3]
        front = optical[:, 2] > 0.5
        pixel = np.round((optical[front] / optical[front, 2:]) @ k.T)[:, :2].astype(int)
        inside = ((pixel >= 0) & (pixel < [640, 360])).all(axis=1)
        seen = mask.labels[pixel[inside, 1], pixel[inside, 0]]
        said = truth.labels[near][front][inside]
        assert len(seen) > 3000
        assert np.mean(seen == said) > 0.95
        things = said >= 10
        assert np.mean(seen[things] == said[things]) > 0.9


def test_the_default_drive_comes_back_over_its_first_stretch() -> None:
    config = SimulatorConfig()
    course = block_course()
    times = np.arange(0.0, config.duration_s, 0.1)
    s = travelled(course, config.speed_mps, config.stop_s, config.duration_s)(times)
    poses = course.poses(s)
    old = poses[times < config.duration_s - 20]
    gap = np.linalg.norm(old[:, :2, 3] - poses[-1, :2, 3], axis=1)
    best = int(gap.argmin())
    assert gap[best] < 1.0
    assert old[best, :2, 0] @ poses[-1, :2, 0] > np.cos(0.1)
    assert s[-1] > 1.2 * course.length
    speed = np.diff(s) / 0.1
    assert 9 < speed.max() <= 10.001 and (speed > -1e-9).all()
    assert (speed < 0.01).sum() >= 10, "the stop at the zebra crossing"


def test_a_revisit_looks_the_same_but_for_the_traffic(street: Street) -> None:
    course = block_course()
    times = np.arange(0.0, 30.0, 0.01)
    way = travelled(course, SMALL.speed_mps, SMALL.stop_s, 30.0)(times)
    then, now = (float(np.interp(m, way, times)) for m in (30.0, 30.0 + course.length))
    _, first = camera_image(street, SMALL, stamp(then))
    _, again = camera_image(street, SMALL, stamp(now))
    fixed = (first.labels < MOVING_LABEL) & (again.labels < MOVING_LABEL)
    assert np.mean(first.labels[fixed] == again.labels[fixed]) > 0.98
    _, elsewhere = camera_image(street, SMALL, stamp(then + 8))
    things = elsewhere.labels >= 10
    assert np.mean(first.labels[things] == elsewhere.labels[things]) < 0.2


def test_traffic_moves_without_collisions_or_jumps(street: Street) -> None:
    times = np.arange(0.0, 30.0, 0.05)
    ways = np.stack([m.motion(times)[:, :2, 3] for m in street.movers])
    speed = np.linalg.norm(np.diff(ways, axis=1), axis=2) / 0.05
    assert (speed.max(axis=1) > 0.9).all() and speed.max() < 20
    robot = street.sensor(times)[:, :2, 3]
    # No mover comes into the robot, and no car into another.
    assert np.linalg.norm(ways - robot, axis=2).min() > 1.9
    cars = ways[: SMALL.cars]
    for i in range(len(cars)):
        for other in cars[i + 1 :]:
            assert np.linalg.norm(cars[i] - other, axis=1).min() > 2.5
    # Forwards, as seen from the car.
    poses = street.movers[2].motion(times[:2])
    assert (np.linalg.inv(poses[0]) @ poses[1])[0, 3] > 0


def test_moving_things_are_hit_where_they_are_at_each_columns_time(street: Street) -> None:
    tested = 0
    for t in (1.0, 4.0, 7.0):
        scan, truth = lidar_scan(street, NOISELESS, stamp(t))
        assert scan.time_s is not None
        times = t + scan.time_s.astype(np.float64)
        world = in_street(scan.xyz, street.sensor(times))
        for i, mover in enumerate(street.movers):
            of = truth.labels == MOVING_LABEL + i
            if of.sum() < 30:
                continue
            # Nothing that stands is in the way.
            centre = street.sensor(times[of])[:, :3, 3]
            rays = np.concatenate([centre, world[of] - centre], axis=1).astype(np.float32)
            stands = street.rays.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()
            assert stands.min() > 1 - 1e-3
            own = np.linalg.inv(mover.motion(times[of]))
            local = in_street(world[of], own)
            low, high = (f(mover.mesh.corners.reshape(-1, 3), axis=0) for f in (np.min, np.max))
            assert (local > low - 2e-3).all() and (local < high + 2e-3).all()
            tested += 1
    assert tested >= 6


def test_drifting_odometry_leaves_the_true_pose_alone() -> None:
    config = replace(SMALL, odom_drift=0.05, duration_s=0.2, columns=32, beams=2)
    frames = list(simulate(config))
    odometry = [f.pose for f in frames if isinstance(f, Odometry)]
    truth = [f.pose for f in frames if isinstance(f, TruePose)]
    assert np.allclose(truth[-1], [f.pose for f in simulate(replace(config, odom_drift=0.0))
                                   if isinstance(f, Odometry)][-1])  # fmt: skip
    error = np.linalg.norm(odometry[-1][:3, 3] - truth[-1][:3, 3])
    assert 1e-4 < error < 0.5
    assert np.allclose(odometry[-1][:3, :3] @ odometry[-1][:3, :3].T, np.eye(3))


def test_settings_out_of_bounds_are_refused() -> None:
    for wrong in ({"dropout": 1.5}, {"beams": 1}, {"duration_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            simulate(replace(SMALL, **wrong))
    with pytest.raises(ValueError, match="revolution"):
        simulate(replace(SMALL, rate_hz=2.0, duration_s=0.4))
    with pytest.raises(ValueError, match="elevation"):
        simulate(replace(SMALL, elevation_top_deg=-30.0))


def test_an_empty_street_and_a_short_range_give_frames_too(tmp_path: Path) -> None:
    config = replace(SMALL, cars=0, cyclists=0, pedestrians=0, duration_s=0.1, elevation_top_deg=60)
    frames = list(simulate(replace(config, elevation_bottom_deg=50.0, max_range_m=5.0)))
    scan = next(f for f in frames if isinstance(f, Scan))
    assert scan.xyz.shape == (0, 3)
    mask = next(f for f in frames if isinstance(f, InstanceMask))
    assert 0 < mask.labels.max() < MOVING_LABEL
    write_recording(
        replace(config, elevation_bottom_deg=50.0, max_range_m=5.0), tmp_path / "a.mcap"
    )


def test_recording_holds_the_drive(tmp_path: Path, drive: list[SimulatedFrame]) -> None:
    from robot_perception.pipeline.sources import open_recording

    calls: list[tuple[int, int]] = []
    path = tmp_path / "drive.mcap"
    write_recording(SMALL, path, lambda done, total: calls.append((done, total)))
    assert calls == [(i + 1, 10) for i in range(10)]
    recording = open_recording(path)
    assert recording.roles == {
        "image": "/image",
        "points": "/points",
        "odom": "/odom",
        "camera_info": "/camera_info",
        "tf": "/tf",
        "tf_static": "/tf_static",
    }
    every = [item.frame for item in recording.frames()]
    tf = [frame for frame in every if isinstance(frame, Transforms)]
    assert [t.static for t in tf] == [True] + [False] * (len(tf) - 1) and len(tf) > 2
    read = [frame for frame in every if not isinstance(frame, Transforms)]
    written = [f for f in drive if isinstance(f, Odometry | CameraInfo | ImageFrame | Scan)]
    assert [type(f) for f in read] == [type(f) for f in written]
    for ours, theirs in zip(written, read, strict=True):
        assert theirs is not None and ours.stamp_ns == theirs.stamp_ns
        for name in ours.__slots__:
            a, b = getattr(ours, name), getattr(theirs, name)
            if isinstance(a, np.ndarray):
                assert np.allclose(a, b, atol=1e-12), name
            else:
                assert a == b, name
    counts = {topic.name: topic.count for topic in recording.topics}
    truths = ("/ground_truth/instances", "/ground_truth/point_labels", "/ground_truth/pose")
    assert [counts[name] for name in truths] == [5, 5, 11]
    assert (counts["/tf"], counts["/tf_static"]) == (11, 1)
