"""The network that chooses, what it is trained on, and how it is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from robot_perception.apps.search import searched
from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.forecast.augment import Augmentation, faster, thinned
from robot_perception.core.forecast.candidates import candidates
from robot_perception.core.forecast.choice import at_pixels, choose, default, near_logit, scores
from robot_perception.core.forecast.dataset import load_sample, samples
from robot_perception.core.forecast.decide import decide
from robot_perception.core.forecast.evaluate import evaluate
from robot_perception.core.forecast.features import (
    CHANNELS,
    UNSEEN,
    features,
    network_model,
    sequence,
)
from robot_perception.core.forecast.flow import (
    PastScan,
    Standing,
    above_ground,
    compare,
    nearest_around,
    velocities,
)
from robot_perception.core.forecast.forecaster import Forecaster
from robot_perception.core.forecast.measures import measure, truth
from robot_perception.core.forecast.methods import gmac
from robot_perception.core.forecast.motion import Motion, MotionEstimator
from robot_perception.core.forecast.pretraining import hidden_tiles, pretrain, without
from robot_perception.core.forecast.reliability import of_warp
from robot_perception.core.forecast.resume import Epoch
from robot_perception.core.forecast.scene import Scene, SceneBuilder, observe
from robot_perception.core.forecast.selection import SelectorForecaster, bundled_weights
from robot_perception.core.forecast.selector import Selector, sequence_in, shuffled
from robot_perception.core.forecast.selfscore import SelfScorer
from robot_perception.core.forecast.sensor import SensorFinder
from robot_perception.core.forecast.training import TrainingConfig, save_weights, train
from robot_perception.core.forecast.warp import predicted_poses
from robot_perception.core.metrics import chamfer_m2
from robot_perception.core.range_image import SensorModel, look, unproject
from robot_perception.core.types import F32, Scan
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans

CONFIG = ForecastConfig(beams=32, columns=512)
HORIZONS = (0.1, 0.2, 0.3, 0.4, 0.5)


@pytest.fixture(scope="module")
def drive() -> list[Scan]:
    config = SimulatorConfig(seed=3, beams=32, columns=512, cars=8, speed_mps=8.0)
    return list(scans(config, 13))


@pytest.fixture(scope="module")
def scene(drive: list[Scan]) -> tuple[Scene, SensorModel]:
    return _scene(drive, CONFIG)


def _scene(drive: list[Scan], config: ForecastConfig) -> tuple[Scene, SensorModel]:
    motion, builder, finder = MotionEstimator("auto", 0.1), SceneBuilder(5), SensorFinder(config)
    made: Scene | None = None
    for scan in drive[:8]:
        made = builder.step(observe(scan, finder.model(scan)), motion.step(scan, None))
    assert made is not None and finder.found is not None
    return made, finder.found


def _model() -> SensorModel:
    return SensorModel(np.deg2rad(np.linspace(5, -25, 64)), 1024, 1.0, 85.0)


def _box(x: float, y: float) -> F32:
    """The points of a car's side and back, standing on a floor 1.7 m below the sensor."""
    rng = np.random.default_rng(0)
    side = rng.uniform((-2, -0.9, -1.3), (2, -0.9, 0.0), (3000, 3))
    back = rng.uniform((-2, -0.9, -1.3), (-2, 0.9, 0.0), (2000, 3))
    return (np.concatenate([side, back]) + [x, y, 0]).astype(np.float32)


def _floor() -> F32:
    """Rings on the floor, and a round wall at 45 m."""
    around = np.arange(-np.pi, np.pi, 0.005)
    r, a = np.meshgrid(1.7 / np.tan(np.deg2rad(np.arange(2.2, 24, 0.2))), around)
    floor = np.stack([r * np.cos(a), r * np.sin(a), np.full_like(r, -1.7)], -1).reshape(-1, 3)
    z, a = np.meshgrid(np.arange(-1.7, 3, 0.2), around)
    wall = np.stack([45 * np.cos(a), 45 * np.sin(a), z], -1).reshape(-1, 3)
    return np.concatenate([floor, wall]).astype(np.float32)


def test_velocity_of_a_moving_car_and_of_a_standing_one() -> None:
    model, past = _model(), []
    true = np.array([6.0, 1.0])
    for age in (0.2, 0.4):
        xyz = np.concatenate([_floor(), _box(12 - true[0] * age, 6 - true[1] * age), _box(8, -7)])
        image, _, _ = look(xyz, np.eye(4), model)
        past.append(PastScan(xyz, above_ground(xyz)[1], nearest_around(image), np.eye(4), age))
    now = np.concatenate([_floor(), _box(12, 6), _box(8, -7)])
    stands = Standing(*above_ground(now))
    found, moves = velocities(len(now), stands, compare(stands, past, model))
    np.testing.assert_array_equal(moves, found.any(axis=1))
    floor, moving, parked = np.split(found, [len(_floor()), len(_floor()) + 5000])
    np.testing.assert_allclose(np.median(moving[:, :2], axis=0), true, atol=0.4)
    assert not floor.any() and not parked.any() and not moving[:, 2].any()


def test_memory_keeps_what_a_passing_car_hides() -> None:
    model, builder = _model(), SceneBuilder(5)
    wall = np.stack(
        [np.full(3000, 20.0), *np.random.default_rng(1).uniform((-4, -1.6), (4, 1), (3000, 2)).T], 1
    ).astype(np.float32)

    still = Motion(np.zeros(6), np.eye(4), "odom")
    builder.step(observe(Scan(0, "lidar", np.concatenate([_floor(), wall])), model), None)
    car = np.concatenate([_floor(), _box(10, 0)])
    seen = builder.step(observe(Scan(100_000_000, "lidar", car), model), still)
    on_wall = (np.abs(seen.memory[:, 0] - 20) < 0.1) & (seen.memory[:, 2] > -1.4)
    remembered = seen.memory[on_wall]
    assert len(remembered) > 20
    assert (seen.memory_age_s == np.float32(0.1)).all()
    # Two seconds later it is no longer believed.
    for i in range(2, 25):
        seen = builder.step(observe(Scan(i * 100_000_000, "lidar", car), model), still)
    on_wall = (np.abs(seen.memory[:, 0] - 20) < 0.1) & (seen.memory[:, 2] > -1.4)
    assert not on_wall.any()


def test_untrained_network_answers_as_geometry_does(drive: list[Scan], tmp_path: Path) -> None:
    # Of what is too near to be in the image now, some is far enough soon.
    known, model = _scene(drive, replace(CONFIG, min_range_m=6.0))
    found = candidates(known, predicted_poses(known.twist, HORIZONS), HORIZONS, model)
    save_weights(Selector(), tmp_path / "w.safetensors", Epoch(0, 0, 0, 0, 1.0))
    config = replace(CONFIG, checkpoint=str(tmp_path / "w.safetensors"))
    outside = features(known, found, network_model(model)).pixel[: found.observed] < 0
    selected = SelectorForecaster(config).select(known, found, model)
    for h, chosen in enumerate(selected):
        visible = found.visible[h][: found.observed]
        assert (visible & outside).any()
        np.testing.assert_array_equal(chosen.points, found.at(h)[: found.observed][visible])
        warped = of_warp(found.ranges[h][: found.observed], HORIZONS[h])[visible]
        unseen = outside[visible]
        np.testing.assert_array_equal(chosen.probability[unseen], warped[unseen])


def test_network_goes_round_and_is_small() -> None:
    torch.manual_seed(0)
    network = Selector().eval()
    torch.nn.init.normal_(network.head.weight)
    image = torch.randn(1, CHANNELS, 16, 128)
    with torch.inference_mode():
        turned = network(torch.roll(image, 32, 3))
        torch.testing.assert_close(turned, torch.roll(network(image), 32, 4), atol=1e-4, rtol=1e-4)
    large = ForecastConfig(columns=2048)
    assert gmac("ours", large) < 3.0
    assert gmac("atppnet", large) > 10 * gmac("ours", large)


@pytest.mark.parametrize("rows", [4, 12, 16])
def test_its_parts_side_by_side_are_the_network(rows: int) -> None:
    network = SelectorForecaster(CONFIG)
    image = np.random.default_rng(0).standard_normal((rows, 128, CHANNELS)).astype(np.float32)
    image = image.transpose(2, 0, 1)
    expected = network.logits(torch.from_numpy(image)[None])
    assert expected.std() > 0.1
    steps = sequence_in(torch.from_numpy(image)[None])[:, 0].permute(0, 2, 3, 1).numpy()
    found = network.logits_on_cpu(image, network.states(steps))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_the_recurrence_sees_is_in_the_features(scene: tuple[Scene, SensorModel]) -> None:
    known, model = scene
    found = candidates(known, predicted_poses(known.twist, HORIZONS), HORIZONS, model)
    image = features(known, found, network_model(model)).image
    steps = torch.from_numpy(sequence(known.image, known.past, network_model(model)))
    assert (steps[:, ..., 1] != 0).any() and (steps[:, ..., 2].sum((1, 2)) > 1000).all()
    trained = sequence_in(torch.from_numpy(image)[None])[:, 0]
    torch.testing.assert_close(steps.permute(0, 3, 1, 2), trained, atol=0, rtol=0)


def test_choice_needs_a_lead_over_geometry() -> None:
    memory, moving = torch.tensor([False, True]), torch.tensor([False, False])
    visible = torch.tensor([[True, True]])
    logits = torch.zeros(1, 5, 2)
    logits[0, 0, 0] = 4.0  # leave out: beats its prior of 3 by 1
    score, standard = scores(logits, memory, moving, visible), default(memory, moving, visible)
    assert choose(score, standard, 0.5).tolist() == [[2, 2]]
    assert choose(score, standard, 1.5).tolist() == [[0, 2]]


def test_live_decision_is_that_of_training(scene: tuple[Scene, SensorModel]) -> None:
    known, model = scene
    found = candidates(known, predicted_poses(known.twist, HORIZONS), HORIZONS, model)
    seen = features(known, found, network_model(model))
    moving = found.moves
    assert moving.any()
    height, width = seen.image.shape[1:]
    size = (height, width // 4, 5, 5, 4)
    patches = (4 * np.random.default_rng(0).standard_normal(size)).astype(np.float32)
    choice, near = decide(patches, seen.pixel, found, 1.0)
    logits = shuffled(torch.from_numpy(patches)[None])[0]
    inside = np.flatnonzero(seen.pixel >= 0)
    at = at_pixels(logits, torch.from_numpy(seen.pixel[inside].astype(np.int64)))
    memory = torch.from_numpy(inside >= found.observed)
    flags = memory, torch.from_numpy(moving[inside]), torch.from_numpy(found.visible[:, inside])
    expected = choose(scores(at, *flags), default(*flags), 1.0)
    np.testing.assert_array_equal(choice[:, inside], expected.numpy())
    np.testing.assert_array_equal(near[:, inside], near_logit(at, memory).numpy())
    assert {0, 1, 2} == set(np.unique(choice).tolist())
    unseen = np.flatnonzero(seen.pixel < 0)
    flags = torch.from_numpy(unseen >= found.observed), torch.from_numpy(moving[unseen])
    usual = default(*flags, torch.from_numpy(found.visible[:, unseen]))
    np.testing.assert_array_equal(choice[:, unseen], usual.numpy())


def test_training_learns_resumes_and_its_weights_load(drive: list[Scan], tmp_path: Path) -> None:
    made = list(samples(drive, CONFIG, 2, np.random.default_rng(0)))
    assert made
    paths = []
    for i, sample in enumerate(made):
        sample.save(tmp_path / f"{i}.npz")
        paths.append(tmp_path / f"{i}.npz")
    assert np.isfinite(load_sample(paths[0]).gap).all()
    out, epochs = tmp_path / "w.safetensors", []
    config = TrainingConfig(epochs=4, batch=2, crop=256, learning_rate=5e-3)
    train(paths, paths, out, replace(config, epochs=2), torch.device("cpu"), epochs.append)
    train(paths, paths, out, config, torch.device("cpu"), epochs.append)
    assert [e.epoch for e in epochs] == [0, 1, 2, 3]
    assert epochs[-1].train < epochs[0].train
    SelectorForecaster(replace(CONFIG, checkpoint=str(out)))


def test_pretraining_fills_in_what_is_hidden(drive: list[Scan], tmp_path: Path) -> None:
    paths = []
    for i, sample in enumerate(samples(drive, CONFIG, 2, np.random.default_rng(0))):
        sample.save(tmp_path / f"{i}.npz")
        paths.append(tmp_path / f"{i}.npz")
    image = torch.from_numpy(load_sample(paths[0]).image.astype(np.float32))[None]
    hidden = torch.from_numpy(hidden_tiles(1, *image.shape[2:], np.random.default_rng(0)))
    assert 0.2 < hidden.float().mean() < 0.8
    seen = without(image, hidden)
    told = [c for c in range(CHANNELS) if c not in UNSEEN]
    assert not seen[:, told][hidden.expand(-1, len(told), -1, -1)].any()
    torch.testing.assert_close(seen.where(~hidden, image), image)

    config = TrainingConfig(batch=2, crop=256, learning_rate=5e-3, pretraining=6)
    out, losses = tmp_path / "w.pretrained.safetensors", []
    first = pretrain(paths, out, config, torch.device("cpu"), lambda _, loss: losses.append(loss))
    assert len(losses) == 6 and losses[-1] < 0.8 * losses[0]
    # The head still answers as geometry does; the rest starts elsewhere.
    assert not first["head.weight"].any()
    # What was begun is not begun again.
    again = pretrain(paths, out, config, torch.device("cpu"), lambda *_: pytest.fail("twice"))
    assert all(torch.equal(again[k], first[k]) for k in first)
    train(paths, paths, tmp_path / "w.safetensors", replace(config, epochs=1), torch.device("cpu"),
          lambda _: None, again)  # fmt: skip
    SelectorForecaster(replace(CONFIG, checkpoint=str(tmp_path / "w.safetensors")))


def test_search_tries_settings_and_goes_on(drive: list[Scan], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    path = tmp_path / "0.npz"
    next(samples(drive, CONFIG, 2, np.random.default_rng(0))).save(path)
    config, quiet = TrainingConfig(crop=128), Console(quiet=True)

    def search(trials: int) -> tuple[TrainingConfig, float]:
        device = torch.device("cpu")
        return searched([path], [path], tmp_path / "search", config, trials, device, None, quiet)

    search(1)
    found, gain = search(2)
    assert found.learning_rate != config.learning_rate and found.epochs == config.epochs
    assert np.isfinite(gain)
    # Nothing is left to try.
    assert search(2) == (found, gain)


def test_other_robots_are_made_of_one_recording(drive: list[Scan]) -> None:
    half = list(thinned(drive[:2], 2, CONFIG))
    finder = SensorFinder(replace(CONFIG, beams=16))
    assert all(0.4 < len(h.xyz) / len(d.xyz) < 0.6 for h, d in zip(half, drive, strict=False))
    np.testing.assert_allclose(
        finder.model(half[0]).elevations_rad,
        SensorFinder(CONFIG).model(drive[0]).elevations_rad[::2],
        atol=np.deg2rad(0.3),
    )
    twice = list(faster(drive, 2))
    assert len(twice) == 7 and twice[2].stamp_ns - twice[0].stamp_ns == 200_000_000
    worse = Augmentation(scan_dropout=0.3, pose_noise_mps=0.5)
    plain = list(samples(drive, CONFIG, 1, np.random.default_rng(0)))
    lossy = list(samples(drive, CONFIG, 1, np.random.default_rng(0), worse))
    assert 0 < len(lossy) < len(plain)
    assert not np.array_equal(lossy[0].image, plain[0].image)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for content in (b"", b"\x00" * 64, bundled_weights().read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(WeightsRejected):
            SelectorForecaster(replace(CONFIG, checkpoint=str(path)))
    save_file({"x": torch.zeros(1)}, path, {"format": "another", "gate": "1"})
    with pytest.raises(WeightsRejected):
        SelectorForecaster(replace(CONFIG, checkpoint=str(path)))


def test_evaluation_has_every_method_on_the_same_frames(drive: list[Scan]) -> None:
    table = evaluate(drive, CONFIG, stride=3)
    assert set(table) == {
        "repeat", "ego_warp", "ego_warp_oracle", "raytrace", "scene_flow", "ours",
    }  # fmt: skip
    assert len({m["frames"] for m in table.values()}) == 1
    assert table["ego_warp"]["chamfer_mean_m2"] < table["repeat"]["chamfer_mean_m2"]
    assert table["repeat"]["mask_iou"] < 1 and table["ours"]["gmac"] > 0
    assert table["ego_warp"]["vs_ego_warp_ci95"]["chamfer_mean_m2"] == [0.0, 0.0]


def test_range_error_beyond_a_baseline_is_over_the_same_pixels() -> None:
    model = _model()
    wall = unproject(np.full((64, 1024), 20.0, np.float32), model)
    true = truth(wall, np.zeros((64, 1024), np.float32), np.eye(4), model)
    half = np.zeros((64, 1024), np.float32)
    half[:, :512] = 20.5
    # As good where both predict, and something far off where the baseline has nothing.
    more = half.copy()
    more[:, 512:] = 25.0
    found = measure(unproject(more, model), true, model, half)
    assert found.range_l1_m == pytest.approx(2.75, abs=0.01)
    assert found.range_l1_beyond_m == pytest.approx(0.0, abs=0.01)
    better = measure(unproject(np.where(half > 0, 20.1, 25.0), model), true, model, half)
    assert better.range_l1_beyond_m == pytest.approx(-0.4, abs=0.01)


def test_live_scores_make_a_bad_network_step_aside(drive: list[Scan], tmp_path: Path) -> None:
    bad = Selector()
    assert bad.head.bias is not None
    # Leaves nearly everything out.
    torch.nn.init.constant_(bad.head.bias, 0.0)
    with torch.no_grad():
        bad.head.bias.view(5, 5, -1)[:, 0] = 8.0
    path = tmp_path / "bad.safetensors"
    save_weights(bad, path, Epoch(0, 0, 0, 0, 0.0))
    long = list(scans(SimulatorConfig(seed=5, beams=16, columns=256), 52))
    small = replace(CONFIG, beams=16, columns=256)
    forecaster = Forecaster(replace(small, method="ours", checkpoint=str(path)))
    methods = [f.method for f in map(forecaster.step, long) if f is not None]
    assert methods[0] == "ours" and methods[-1] == "scene_flow" and forecaster.falls_back
    known = forecaster.self_scores()
    assert known is not None
    assert np.nanmean(known["forecast"]["chamfer_m2"]) > np.nanmean(known["geometry"]["chamfer_m2"])


def test_scores_of_a_forecast_whose_future_never_comes_are_not_made(drive: list[Scan]) -> None:
    scorer = SelfScorer(HORIZONS)
    scorer.add_forecast(drive[0], drive[0].xyz, drive[0].xyz, np.eye(4))
    late = replace(drive[1], stamp_ns=drive[0].stamp_ns + 10**10)
    scorer.add_scan(late, _model())
    # Scores count from the next scan on.
    scorer.add_scan(replace(late, stamp_ns=late.stamp_ns + 10**8), _model())
    assert np.isnan(scorer.means()["forecast"]["chamfer_m2"]).all()


def test_a_sector_is_scored_against_what_is_beside_it_too() -> None:
    def ring(shift_deg: float) -> F32:
        """Posts, one to a degree, 20 m away."""
        azimuth, z = np.meshgrid(np.deg2rad(np.arange(360) + shift_deg), np.linspace(-1, 1, 25))
        posts = np.stack([20 * np.cos(azimuth), 20 * np.sin(azimuth), z], -1)
        return posts.reshape(-1, 3).astype(np.float32)

    # The nearest to the last of each sector is the first of the next one.
    true, predicted = ring(0.1), ring(0.8)
    scorer = SelfScorer(HORIZONS)
    scorer.add_forecast(Scan(0, "lidar", true), predicted, predicted, np.eye(4))
    for i in (1, 2):
        scorer.add_scan(Scan(i * 100_000_000, "lidar", true), _model())
    found = scorer.means()["forecast"]["chamfer_m2"][0]
    assert found == pytest.approx(chamfer_m2(predicted, true), rel=1e-4)
