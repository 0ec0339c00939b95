"""ATPPNet's training: the Chamfer loss, the two phases, and what is seen of the samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_perception.core.config import ForecastConfig
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.forecast.atppnet_training import (
    LEARNING_RATE,
    _losses,
    next_phase,
    train_atppnet,
)
from robot_perception.core.forecast.chamfer import _nearest, chamfer_loss, directions
from robot_perception.core.forecast.dataset import load_sample, samples
from robot_perception.core.forecast.image_batches import load_images, revolutions, windows
from robot_perception.core.forecast.resume import Epoch
from robot_perception.core.forecast.training import TrainingConfig
from robot_perception.core.metrics import chamfer_m2
from robot_perception.core.range_image import SensorModel, unproject
from robot_perception.core.weights import load_into, load_state_dict
from robot_perception.pipeline.simulator.config import SimulatorConfig
from robot_perception.pipeline.simulator.variety import scans

LIMITS, CPU = (1.0, 85.0), torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Samples of 16 x 128 and of 8 x 128."""
    folder, made = tmp_path_factory.mktemp("samples"), []
    for beams in (16, 8):
        config = ForecastConfig(beams=beams, columns=256)
        drive = SimulatorConfig(seed=beams, beams=beams, columns=256, cars=2)
        for i, sample in enumerate(samples(scans(drive, 14), config, 2, np.random.default_rng(0))):
            sample.save(folder / f"{beams}_{i}.npz")
            made.append(folder / f"{beams}_{i}.npz")
    return made


def _clouds(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two pairs of clouds, some points of which do not count."""
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.uniform(-30, 30, (2, 400, 3)).astype(np.float32)) for _ in "ab")
    shown, seen = (torch.from_numpy(rng.random((2, 400)) < 0.7) for _ in "ab")
    return a, shown, b, seen


def test_chamfer_loss_is_the_metric() -> None:
    a, shown, b, seen = _clouds(0)
    found = chamfer_loss(a, shown, b, seen)
    for i in range(2):
        expected = chamfer_m2(a[i][shown[i]].numpy(), b[i][seen[i]].numpy())
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)
    # Of points drawn: about the same.
    drawn = torch.stack([chamfer_loss(a, shown, b, seen, asked=100) for _ in range(50)]).mean(0)
    torch.testing.assert_close(drawn, found, rtol=0.1, atol=0)
    # An empty cloud has no distance, and spoils no other's.
    shown[1] = False
    assert chamfer_loss(a, shown, b, seen).tolist() == [pytest.approx(float(found[0])), 0.0]


def test_neighbours_by_all_distances_are_those_of_the_trees() -> None:
    a, _, b, seen = _clouds(1)
    found = _nearest(a, b, seen)
    for i in range(2):
        index = torch.cdist(a[i], b[i]).masked_fill(~seen[i], torch.inf).argmin(1)
        torch.testing.assert_close(found[i], index)


def test_chamfer_loss_pulls_ranges_to_the_truth() -> None:
    elevations = np.deg2rad(np.linspace(5, -20, 8))
    model = SensorModel(elevations, 64, *LIMITS)
    rays = directions(torch.from_numpy(elevations)[None].float(), 64, 64)
    np.testing.assert_allclose(rays[0].numpy(), model.directions, atol=1e-5)
    true = torch.linspace(8, 14, 64).expand(1, 8, 64)
    ranges = torch.full((1, 8, 64), 12.0, requires_grad=True)
    every = torch.ones(1, 512, dtype=torch.bool)
    optimiser = torch.optim.Adam([ranges], 0.1)

    def step() -> float:
        clouds = ((rays * r[..., None]).flatten(1, 2) for r in (ranges, true))
        predicted, came = clouds
        loss = chamfer_loss(predicted, every, came, every).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    losses = [step() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
    predicted = unproject(ranges.detach()[0].numpy(), model)
    assert chamfer_m2(predicted, unproject(true[0].numpy(), model)) < 0.2 * losses[0]


def test_windows_are_cut_turned_and_mirrored(paths: list[Path]) -> None:
    groups = load_images(paths, warped=False)
    assert {images.past.shape[2] for images in groups} == {8, 16}
    whole = list(revolutions(groups, 2, CPU))
    assert sum(len(b) for b in whole) == len(paths)
    sample = load_sample(paths[0])
    np.testing.assert_array_equal(whole[0].future[0].numpy(), sample.future.astype(np.float32))
    np.testing.assert_array_equal(whole[0].elevations[0].numpy(), sample.elevations_rad)
    shapes, found = set(), 0
    double = np.concatenate([sample.past, sample.past], axis=2).astype(np.float32)
    for batch in windows(groups, 3, 100, np.random.default_rng(0), CPU):
        shapes.add(batch.past.shape[2:])
        for past in batch.past.numpy() if batch.past.shape[2] == 16 else ():
            found += any(
                np.array_equal(double[:, :, i : i + 64], image)
                for image in (past, past[:, :, ::-1])
                for i in range(128)
            )
    assert shapes == {(8, 64), (16, 64)} and found == 1


def test_phases_follow_epochs_patience_and_time() -> None:
    config = TrainingConfig(epochs=3, chamfer_epochs=2, patience=2)

    def after(*epochs: tuple[int, float], minutes: float | None = None) -> int | None:
        made = [Epoch(i, 0, 0, g, 0, 60.0, phase) for i, (phase, g) in enumerate(epochs)]
        return next_phase(made, replace(config, minutes=minutes))

    assert after() == 0 and after((0, 1), (0, 2)) == 0
    assert after((0, 1), (0, 2), (0, 3)) == 1
    assert after((0, 1), (0, 2), (0, 3), (1, 0)) == 1
    assert after((0, 1), (0, 2), (0, 3), (1, 0), (1, 1)) is None
    # Nothing gained for two epochs: the second phase begins.
    assert next_phase([Epoch(i, 0, 0, -i, 0) for i in range(3)], replace(config, epochs=9)) == 1
    # Three of five minutes are the first phase's; no epoch begins that would end too late.
    assert after((0, 1), (0, 2), minutes=5) == 0
    assert after((0, 1), (0, 2), minutes=4.9) == 1
    assert after((0, 1), minutes=1.9) is None
    assert next_phase([], replace(config, chamfer_epochs=0, minutes=0.1)) == 0


def test_steps_lower_the_loss(paths: list[Path]) -> None:
    torch.manual_seed(0)
    batch = next(windows(load_images(paths[:2], False), 2, 64, np.random.default_rng(0), CPU))
    model = ATPPNet(*LIMITS)
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    losses = []
    for _ in range(12):
        loss, chamfer = _losses(model, batch, with_chamfer=False)
        assert chamfer == 0
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
    assert _losses(model, batch, with_chamfer=True)[1] > 0


def test_samples_of_other_steps_are_refused(paths: list[Path], tmp_path: Path) -> None:
    with np.load(paths[0]) as arrays:
        cut = {name: arrays[name] for name in arrays}
    cut["future"] = cut["future"][:3]
    np.savez(tmp_path / "cut.npz", **cut)
    with pytest.raises(ValueError, match="5 past"):
        load_images([tmp_path / "cut.npz"], warped=False)


def test_training_goes_through_both_phases_and_resumes(paths: list[Path], tmp_path: Path) -> None:
    fit, check = paths[:2] + paths[-2:], paths[2:3] + paths[-3:-2]
    config = TrainingConfig(epochs=2, chamfer_epochs=2, batch=2, crop=64)

    def trained(name: str, *configs: TrainingConfig) -> tuple[list[Epoch], dict[str, torch.Tensor]]:
        epochs: list[Epoch] = []
        for one in configs:
            train_atppnet(fit, check, tmp_path / name, one, LIMITS, CPU, epochs.append, warped=True)
        return epochs, load_state_dict(tmp_path / name)

    once, weights = trained("once.safetensors", config)
    assert [(e.epoch, e.phase) for e in once] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert once[2].train > once[1].train  # the Chamfer distance is in it
    again, resumed = trained("twice.safetensors", replace(config, chamfer_epochs=1), config)
    assert [replace(e, seconds=0) for e in again] == [replace(e, seconds=0) for e in once]
    assert all(torch.equal(v, weights[k]) for k, v in resumed.items())
    load_into(ATPPNet(*LIMITS), weights)
