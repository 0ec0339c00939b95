"""The forecast's steps on tensors give what the loops give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast import flow
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.forecast.selection import SelectorForecaster
from robot_perception.core.forecast.tensors import moving
from robot_perception.core.forecast.tensors.projection import Lens, moved, nearest
from robot_perception.core.forecast.tensors.recorded import Recorded
from robot_perception.core.forecast.tensors.steps import TensorSteps
from robot_perception.core.range_image import SensorModel, look
from robot_perception.core.types import Forecast, Scan
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU"))]  # fmt: skip
CONFIG = ForecastConfig(beams=32, columns=512, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def drive() -> list[Scan]:
    config = SimulatorConfig(seed=3, beams=32, columns=512, cars=8, speed_mps=8.0)
    return list(scans(config, 10))


def forecaster(method: str, device: str, min_range_m: float = 1.0) -> Forecaster:
    """One that takes the steps on tensors, on a CPU too."""
    config = replace(CONFIG, method=method, min_range_m=min_range_m)
    made = Forecaster(config)
    config = replace(config, device=device)
    network = SelectorForecaster(config) if method == "ours" else None
    made._steps = TensorSteps(config.past, network, torch.device(device))
    return made


def assert_same(a: Forecast, b: Forecast) -> None:
    """But for what rounding puts into a neighbouring pixel or cell."""
    np.testing.assert_allclose(a.sensor_poses, b.sensor_poses)
    for p, q in zip(a.clouds, b.clouds, strict=True):
        for one, other in ((p, q), (q, p)):
            assert (cKDTree(other).query(one)[0] > 1e-4).mean() < 2e-3
    assert a.moving is not None and b.moving is not None
    for h, (p, q) in enumerate(zip(a.moving, b.moving, strict=True)):
        assert abs(int(p.sum()) - int(q.sum())) <= 2 + 0.02 * p.sum()
        assert np.isclose(a.range_images[h], b.range_images[h], rtol=1e-4).mean() > 0.995
        difference = abs(a.probabilities[h].mean() - b.probabilities[h].mean())
        assert difference < 1e-3


@pytest.mark.parametrize("device", DEVICES)
# From 6 m on, there are points that the network does not see and the sensor will.
@pytest.mark.parametrize(
    ("method", "nearest_m"), [("scene_flow", 1.0), ("ours", 1.0), ("ours", 6.0)]
)
def test_tensors_forecast_what_the_loops_do(
    drive: list[Scan], method: str, nearest_m: float, device: str
) -> None:
    loops = Forecaster(replace(CONFIG, method=method, min_range_m=nearest_m))
    tensors = forecaster(method, device, nearest_m)
    compared, moves = 0, 0
    for scan in drive:
        a, b = loops.step(scan), tensors.step(scan)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_same(a, b)
            compared += 1
            moves += int(a.moving[0].sum()) if a.moving else 0
    assert compared == len(drive) - 1 and moves > 100


@pytest.mark.parametrize("device", DEVICES)
def test_a_reset_and_a_larger_scan(drive: list[Scan], device: str) -> None:
    """As if it had been made anew; and a cloud of more points than pixels, which is padded anew."""
    used, new = forecaster("ours", device), forecaster("ours", device)
    for scan in drive[:4]:
        used.step(scan)
    used.reset()
    twice = [replace(s, xyz=np.concatenate([s.xyz, s.xyz + np.float32(0.01)])) for s in drive[6:9]]
    assert len(twice[0].xyz) > 32 * 512
    for scan in [*drive[4:6], *twice]:
        a, b = used.step(scan), new.step(scan)
        if a is not None and b is not None:
            for p, q in zip(a.clouds, b.clouds, strict=True):
                np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_that_failed_is_tried_again(
    drive: list[Scan], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, faulty = forecaster("ours", device), forecaster("ours", device)
    for i, scan in enumerate(drive[:6]):
        expected = plain.step(scan)
        if i == 4:
            with monkeypatch.context() as patch:
                patch.setattr(faulty, "_chosen", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    faulty.step(scan)
        found = faulty.step(scan)
        if expected is not None and found is not None:
            np.testing.assert_array_equal(expected.range_images, found.range_images)


@pytest.mark.parametrize("device", DEVICES)
def test_projection(device: str) -> None:
    model = SensorModel(np.deg2rad(np.linspace(3, -25, 64)), 2048, 1.0, 85.0)
    rng = np.random.default_rng(0)
    xyz = (rng.normal(size=(50_000, 3)) * [30, 30, 4]).astype(np.float32)
    xyz[:3] = [[0, 0, 5], [0, 0, 0], [np.nan] * 3]
    pose = np.eye(4)
    pose[:3, 3] = [1.0, -0.5, 0.1]
    image, ranges, pixels = look(xyz, pose, model)
    lens = Lens(model, torch.device(device))
    points = torch.from_numpy(xyz.T.copy()).to(device)
    matrix = torch.from_numpy(pose.astype(np.float32)[None]).to(device)
    view = lens.look(moved(points, matrix)[0])
    drawn = nearest(view.range, view.pixel, lens.size)[: lens.size].cpu().numpy()
    inside = view.inside.cpu().numpy()
    assert (inside == (pixels >= 0)).mean() > 0.9999 and not inside[1:3].any()
    both = inside & (pixels >= 0)
    assert (view.pixel.cpu().numpy()[both] == pixels[both]).mean() > 0.9995
    np.testing.assert_allclose(view.range.cpu().numpy()[both], ranges[both], rtol=1e-5)
    drawn[np.isinf(drawn)] = 0
    assert np.isclose(drawn, image.ravel(), rtol=1e-4).mean() > 0.9995


@pytest.mark.parametrize("device", DEVICES)
def test_velocities_of_several_clusters(device: str) -> None:
    rng = np.random.default_rng(0)
    true = np.array([[6.0, 1.0], [0.0, 0.0], [-12.3, 4.56]])
    sizes, boxes = np.array([500, 90, 2140]), []
    for k, size in enumerate(sizes):
        box = rng.uniform(-1, 1, (size, 3)) * [2, 1, 0.5] + [8.0 * k, 12 - 6.0 * k, 0]
        boxes.append(box.astype(np.float32))
    ages, past = (0.2, 0.4), []
    for age in ages:
        back = [b - np.r_[v * age, 0] for b, v in zip(boxes, true, strict=True)]
        there = np.concatenate(back).astype(np.float32)
        past.append(flow.PastScan(there, there, np.zeros((1, 1), np.float32), np.eye(4), age))
    maps = np.stack([flow._distance_map(scan) for scan in past])
    stood = torch.from_numpy(np.stack([p.stand.T for p in past])).to(device)
    found = moving.distance_maps(stood, torch.ones_like(stood[:, 0], dtype=torch.bool))
    np.testing.assert_allclose(found.cpu().numpy(), maps, atol=1e-6)
    now = torch.from_numpy(np.concatenate(boxes).T.copy()).to(device)
    cluster = torch.from_numpy(np.repeat([3, 1, 2], sizes).astype(np.int32)).to(device)
    velocity, moves = moving.velocities(now, cluster, sizes[[1, 2, 0]], found, ages)
    starts = np.cumsum(sizes) - sizes
    for start, box in zip(starts, boxes, strict=True):
        best = flow._best_velocity(box, maps, np.array(ages, np.float32))
        assert bool(moves[start]) == (best is not None)
        expected = np.zeros(2) if best is None else best
        np.testing.assert_allclose(velocity[:2, start].cpu().numpy(), expected, atol=1e-5)
    assert moves[starts].tolist() == [True, False, True]


@pytest.mark.parametrize("device", DEVICES)
def test_recorded_function_plays_back_for_each_shape(device: str) -> None:
    calls = []

    def double(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(len(x))
        return (2 * x,)

    recorded = Recorded(double)
    for count in (3, 5, 3):
        x = torch.randn(count, device=device)
        torch.testing.assert_close(recorded(x)[0], 2 * x)
    if device == "cuda":
        before = len(calls)
        recorded(torch.randn(3, device=device))
        assert len(calls) == before
