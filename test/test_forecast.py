"""Range images, ego-motion, the warp and the forecaster, on shapes whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import InputRejected
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.forecast.motion import MotionEstimator, exp_se3, log_se3
from robot_perception.core.forecast.sensor import image_columns
from robot_perception.core.forecast.warp import cloud_at_horizon, transform
from robot_perception.core.metrics import chamfer_m2
from robot_perception.core.range_image import (
    SensorModel,
    calibrate_elevations,
    project,
    unproject,
)
from robot_perception.core.types import Odometry, Scan
from robot_perception.pipeline.sources import open_recording

ELEVATIONS = np.linspace(np.deg2rad(3), np.deg2rad(-25), 32)
SMALL = ForecastConfig(beams=32, columns=512, elevations_rad=tuple(ELEVATIONS))


def street(x: float, stamp_ns: int, seed: int = 0) -> Scan:
    """Points of a street with houses and posts, seen by a sensor that stands at x."""
    rng = np.random.default_rng(seed)
    along = rng.uniform(-60, 60, 9000)
    walls = np.stack([along, np.sign(rng.normal(size=9000)) * 8, rng.uniform(-1.7, 3, 9000)], 1)
    ground = np.stack([along, rng.uniform(-8, 8, 9000), np.full(9000, -1.7)], 1)
    posts = np.repeat(np.arange(-55, 60, 7.3), 200)
    posts = np.stack(
        [posts, np.where(posts > 0, 5.0, -6.0), np.tile(np.linspace(-1.7, 4, 200), 16)], 1
    )
    xyz = np.concatenate([walls, ground, posts]) - [x, 0, 0]
    elevation = np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1]))
    seen = (elevation < ELEVATIONS[0]) & (elevation > ELEVATIONS[-1])
    seen &= np.linalg.norm(xyz, axis=1) < 50
    return Scan(stamp_ns, "velodyne", xyz[seen].astype(np.float32))


def test_a_range_image_survives_the_round_trip() -> None:
    model = SensorModel(ELEVATIONS, 512, 1.0, 85.0)
    image = np.random.default_rng(0).uniform(1, 85, (32, 512)).astype(np.float32)
    image[5:7, 100:200] = 0
    again, index = project(unproject(image, model), model)
    np.testing.assert_allclose(again, image, rtol=1e-5)
    assert (index[image == 0] == -1).all()


def test_the_nearest_point_of_a_pixel_wins_and_the_first_of_equals() -> None:
    model = SensorModel(ELEVATIONS, 512, 1.0, 85.0)
    xyz = np.array([[20, 0, 0], [10, 0, 0], [10, 0, 0], [90, 0, 0], [0, 0, 30]], np.float32)
    image, index = project(xyz, model)
    assert image.max() == 10
    assert sorted(index[index >= 0]) == [1]


def test_beams_are_found_from_the_points() -> None:
    model = SensorModel(ELEVATIONS, 1024, 1.0, 85.0)
    xyz = unproject(np.full((32, 1024), 20, np.float32), model)
    noisy = xyz + np.random.default_rng(0).normal(0, 0.005, xyz.shape).astype(np.float32)
    np.testing.assert_allclose(calibrate_elevations(noisy, 32), ELEVATIONS, atol=np.deg2rad(0.1))
    ring = np.repeat(np.arange(32), 1024).astype(np.uint16)
    np.testing.assert_allclose(
        calibrate_elevations(noisy, 32, ring), ELEVATIONS, atol=np.deg2rad(0.01)
    )
    with pytest.raises(InputRejected):
        calibrate_elevations(noisy[:100], 32)


def test_twists_and_transforms_are_inverse() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.0, 1e-9, 0.3, 2.0):
        twist = rng.normal(size=6) * scale
        np.testing.assert_allclose(log_se3(exp_se3(twist)), twist, atol=1e-9)


@pytest.mark.parametrize("with_odometry", [True, False])
def test_constant_velocity_is_foreseen(with_odometry: bool) -> None:
    """At 5 m/s the scan half a second ahead is met better than by repeating the last."""
    forecaster = Forecaster(SMALL)
    forecast = None
    for i in range(4):
        pose = np.eye(4)
        pose[0, 3] = 0.5 * i
        stamp = 100_000_000 * (i + 1)
        odometry = Odometry(stamp, "odom", "velodyne", pose) if with_odometry else None
        forecast = forecaster.step(street(0.5 * i, stamp), odometry)
    assert forecast is not None
    assert forecast.frame_id == "velodyne" and forecast.stamp_ns == 400_000_000
    np.testing.assert_allclose(forecast.sensor_poses[-1][:3, 3], [2.5, 0, 0], atol=0.15)
    truth = street(0.5 * 8, 0).xyz
    warped = chamfer_m2(cloud_at_horizon(forecast, 4), truth)
    assert warped < 0.7 * chamfer_m2(street(1.5, 0).xyz, truth)
    assert all(0 < p.min() <= p.max() <= 1 for p in forecast.probabilities)


def test_a_standing_robot_foresees_what_it_sees() -> None:
    forecaster = Forecaster(SMALL)
    scan = street(0.0, 100_000_000)
    assert forecaster.step(scan) is None
    forecast = forecaster.step(Scan(200_000_000, "velodyne", scan.xyz))
    assert forecast is not None
    inside = np.linalg.norm(scan.xyz, axis=1) >= SMALL.min_range_m
    for cloud in forecast.clouds:
        np.testing.assert_array_equal(cloud, scan.xyz[inside])


def test_odometry_of_another_frame_is_not_taken_for_the_sensors() -> None:
    forecaster = Forecaster(SMALL)
    forecast = None
    for i in range(3):
        pose = np.eye(4)
        pose[0, 3] = 40.0 * i
        stamp = 100_000_000 * (i + 1)
        forecast = forecaster.step(street(0.0, stamp), Odometry(stamp, "odom", "base_link", pose))
    assert forecast is not None
    np.testing.assert_allclose(forecast.sensor_poses[-1], np.eye(4), atol=1e-6)


def test_what_cannot_be_used_is_rejected_and_a_gap_starts_anew() -> None:
    forecaster = Forecaster(SMALL)
    forecaster.step(street(0.0, 100_000_000))
    with pytest.raises(InputRejected, match="too small"):
        forecaster.step(Scan(200_000_000, "velodyne", np.ones((50, 3), np.float32)))
    with pytest.raises(InputRejected, match="stamp"):
        forecaster.step(street(0.0, 100_000_000))
    assert forecaster.step(street(0.5, 200_000_000)) is not None
    assert forecaster.step(street(0.5, 5_000_000_000)) is None


def test_the_same_scans_give_the_same_bits() -> None:
    forecaster = Forecaster(SMALL)
    runs = []
    for _ in range(2):
        forecaster.reset()
        runs.append([forecaster.step(street(0.4 * i, 100_000_000 * (i + 1))) for i in range(3)][-1])
    first, second = runs
    assert first is not None and second is not None
    for a, b in zip(first.clouds, second.clouds, strict=True):
        assert a.tobytes() == b.tobytes()


def test_atppnet_forecasts_from_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "atppnet.pt"
    torch.manual_seed(0)
    torch.save(ATPPNet(1.0, 85.0).state_dict(), path)
    config = ForecastConfig(
        method="atppnet", checkpoint=str(path), beams=32, columns=128,
        elevations_rad=tuple(ELEVATIONS), device="cpu",
    )  # fmt: skip
    forecaster = Forecaster(config)
    made = [forecaster.step(street(0.3 * i, 100_000_000 * (i + 1))) for i in range(5)]
    assert made[:4] == [None] * 4
    forecast = made[4]
    assert forecast is not None and forecast.method == "atppnet"
    assert forecast.range_images.shape == (5, 32, 128)
    assert len(forecast.clouds[0]) == (forecast.range_images[0] > 0).sum()


def test_the_warp_beats_repeating_on_a_real_drive() -> None:
    """KITTI at 3 m/s: half the error of repeating the last scan or less, half a second ahead."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / "kitti_city"
    if not path.is_dir():
        pytest.skip(f"no recording at {path}")
    scans = [i.frame for i in open_recording(path).frames() if isinstance(i.frame, Scan)][:12]
    forecaster = Forecaster(ForecastConfig(device="cpu"))
    forecasts = [forecaster.step(scan) for scan in scans[:7]]
    last, truth = forecasts[-1], scans[11].xyz
    assert last is not None
    assert chamfer_m2(cloud_at_horizon(last, 4), truth) < 0.5 * chamfer_m2(scans[6].xyz, truth)
    assert transform(scans[0].xyz, np.eye(4)).dtype == np.float32
    # A CPU has half the columns, unless told otherwise.
    assert forecaster.sensor_model is not None and forecaster.sensor_model.columns == 1024
    assert image_columns(ForecastConfig(device="cpu", columns=2048)) == 2048


def test_a_ground_robot_does_not_go_on_pitching_but_a_tilted_sensor_goes_on_sinking() -> None:
    points = np.zeros((200, 3), np.float32)
    tilt = exp_se3(np.array([0.0, 0.2, 0.0, 0.0, 0.0, 0.0]))
    found = {}
    for model in ("ground", "free"):
        estimator = MotionEstimator("odom", 0.1, model)
        for i in range(30):
            # 10 m/s ahead, nodding, the sensor tilted down by 0.2 rad.
            nod = exp_se3(np.array([0.0, 0.02 * np.sin(i), 0.0, 1.0 * i, 0.0, 0.0]))
            pose = nod @ tilt
            stamp = i * 100_000_000
            found[model] = estimator.step(
                Scan(stamp, "lidar", points), Odometry(stamp, "odom", "lidar", pose)
            )
    ground, free = found["ground"], found["free"]
    assert ground is not None and free is not None
    assert not ground.twist[:2].any() and abs(free.twist[1]) > 0.05
    np.testing.assert_allclose(ground.twist[3:], [10 * np.cos(0.2), 0, 10 * np.sin(0.2)], atol=0.6)


def test_ego_motion_is_found_in_a_small_room_too() -> None:
    low, high = np.array([-3.0, -2.5, -0.6]), np.array([3.0, 2.5, 1.9])
    beams = SensorModel(np.deg2rad(np.linspace(15, -15, 32)), 1024, 0.0, np.inf)
    rays = beams.directions.reshape(-1, 3)
    rng = np.random.default_rng(0)
    estimator, step = MotionEstimator("clouds", 0.1), exp_se3(np.array([0, 0, 0.04, 0.08, 0, 0]))
    pose = np.eye(4)
    for i in range(4):
        # From the inside, a ray ends at the first wall that it comes to.
        turned = rays @ pose[:3, :3].T
        walls = np.where(turned > 0, high, low) - pose[:3, 3]
        reach = (walls / np.where(turned == 0, 1e-9, turned)).min(axis=1)
        reach += rng.normal(0, 0.02, len(reach))
        scan = Scan(i * 100_000_000, "lidar", (rays * reach[:, None]).astype(np.float32))
        found = estimator.step(scan, None)
        if found is not None:
            assert found.source == "clouds"
            error = log_se3(np.linalg.inv(step) @ found.relative)
            assert np.linalg.norm(error[:3]) < 0.005 and np.linalg.norm(error[3:]) < 0.01
        pose = pose @ step
