"""ATPPNet against the published results, its checkpoints, its seam, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from atppnet_golden import SHOWN, images, published_like
from safetensors.torch import save_file
from torch import Tensor, nn

from robot_perception.core.config import ForecastConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.forecast.atppnet import STEPS, ATPPNet
from robot_perception.core.forecast.atppnet_layers import WrappedConv
from robot_perception.core.forecast.atppnet_recurrent import ConvLSTM
from robot_perception.core.forecast.atppnet_weights import load_weights, published_name
from robot_perception.core.forecast.features import network_model
from robot_perception.core.forecast.methods import gmac, method
from robot_perception.core.forecast.network import load_atppnet, predict_images
from robot_perception.core.range_image import SensorModel

CONFIG = ForecastConfig(method="atppnet", beams=64, columns=256, device="cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """Names and shapes of the published checkpoints, and what the network answers."""
    found: dict[str, Any] = json.loads((Path(__file__).parent / "data_atppnet.json").read_text())
    return found


def lightning(folder: Path, state: dict[str, Tensor]) -> ForecastConfig:
    """A configuration that names a file as PyTorch Lightning leaves it."""
    path = folder / "min_val_loss.ckpt"
    parts = {"epoch": 49, "pytorch-lightning_version": "2.0.3", "callbacks": {}, "loops": {}}
    parameters = {"MODEL": {"CHANNELS": [16, 32, 64, 128]}, "TRAIN": {}}
    torch.save({**parts, "state_dict": state, "hyper_parameters": parameters}, path)
    return replace(CONFIG, checkpoint=str(path))


def test_it_gives_the_published_results(golden: dict[str, Any], tmp_path: Path) -> None:
    config = lightning(tmp_path, published_like(golden["shapes"]))
    model, device = load_atppnet(config)
    with torch.inference_mode():
        ranges, logits = model(images())
    np.testing.assert_allclose(ranges[0][SHOWN], golden["range_m"], atol=1e-3)
    np.testing.assert_allclose(logits[0][SHOWN], golden["logits"], atol=2e-4)
    # Valid from a probability of one half on.
    seen, probability = predict_images(model, device, list(images()[0].numpy()))
    np.testing.assert_array_equal(seen > 0, probability >= 0.5)
    np.testing.assert_array_equal(seen[seen > 0], ranges[0].numpy()[seen > 0])
    assert 0.2 < (seen > 0).mean() < 0.8


def test_it_has_the_published_size_and_work(golden: dict[str, Any]) -> None:
    """11.04 M parameters and 83.4 GMAC."""
    model = ATPPNet(1.0, 85.0)
    assert sum(p.numel() for p in model.parameters()) == 11_036_759
    names = {published_name(name): list(x.shape) for name, x in model.state_dict().items()}
    assert {**names, "mean": [5], "std": [5]} == golden["shapes"]
    # As published, each step looks at all five maps anew: 25 of them instead of 9, the query five
    # times, and at both halves of what is reduced to a quarter of the channels.
    pixels = {32: 32 * 512, 64: 16 * 128, 128: 8 * 32}
    anew = sum(n * c * c * (25 - 9 + 25 - 5 + (2 * 25 - 9 - 5) / 4) for c, n in pixels.items())
    found = gmac("atppnet", ForecastConfig(columns=4096))
    assert found + anew / 1e9 == pytest.approx(83.40, abs=0.005)
    assert found == pytest.approx(82.08, abs=0.005)


def test_its_own_weights_and_a_bare_state_dict_are_loaded_too(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    state = published_like(golden["shapes"])
    torch.save(state, tmp_path / "bare.pt")
    bare, own = ATPPNet(1.0, 85.0), ATPPNet(1.0, 85.0)
    load_weights(bare, tmp_path / "bare.pt")
    assert torch.equal(bare.up[2].enlarge[0].weight, state["UpLayers.2.conv0.weight"])
    save_file(bare.state_dict(), tmp_path / "own.safetensors")
    load_weights(own, tmp_path / "own.safetensors")
    weights = bare.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in own.state_dict().items())


def test_other_checkpoints_are_refused(golden: dict[str, Any], tmp_path: Path) -> None:
    whole = published_like(golden["shapes"])
    for name, wrong in (
        ("encoder.0.cell_list.0.W_ci", {"encoder.0.cell_list.0.W_ci": torch.zeros(1, 32, 1, 1)}),
        ("CNN3D_block.DownLayers.0", {"CNN3D_block.DownLayers.0.conv.weight": torch.zeros(1)}),
        ("time_norm.weight is", {"norm.weight": torch.zeros(6)}),
        ("not finite", {"norm.weight": torch.full((5,), torch.nan)}),
    ):
        with pytest.raises(WeightsRejected, match=name):
            load_atppnet(lightning(tmp_path, whole | wrong))
    cut = {name: value for name, value in whole.items() if not name.startswith("decoder.2.")}
    with pytest.raises(WeightsRejected, match="missing scales.2.ahead"):
        load_atppnet(lightning(tmp_path, cut))
    with pytest.raises(WeightsRejected, match="another model"):
        load_atppnet(lightning(tmp_path, {"stem.0.weight": torch.zeros(16, 1, 3, 3)}))
    config = lightning(tmp_path, whole)
    path = Path(config.checkpoint)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsRejected, match="cannot be read"):
        load_atppnet(config)
    torch.save({"state_dict": whole, "callbacks": {"x": SHOWN}}, path)
    with pytest.raises(WeightsRejected, match="cannot be read"):
        load_atppnet(config)
    with pytest.raises(WeightsRejected, match="checkpoint"):
        load_atppnet(CONFIG)


def test_sizes_and_steps_that_do_not_fit_are_refused(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    config = lightning(tmp_path, published_like(golden["shapes"]))
    for change in ({"columns": 250}, {"beams": 60}, {"elevations_rad": (0.1, 0.0, -0.1)}):
        with pytest.raises(ValueError, match="multiples"):
            load_atppnet(replace(config, **change))  # type: ignore[arg-type]
    for change in ({"past": 4}, {"horizons": 10}):
        with pytest.raises(ValueError, match="5 scans"):
            load_atppnet(replace(config, **change))  # type: ignore[arg-type]
    # An evaluation has half of the columns.
    for columns in (64, 192):
        with pytest.raises(ValueError, match=f"64 x {columns // 2}"):
            method("atppnet", replace(config, columns=columns), config.checkpoint)
    model = SensorModel(np.linspace(0.1, -0.4, 64), 96, 1.0, 85.0)
    assert network_model(model).columns == 48


def test_columns_go_round_where_they_did(golden: dict[str, Any], tmp_path: Path) -> None:
    """In what sees one image at a time they do; in the recurrent part they end at the seam."""
    model, _ = load_atppnet(lightning(tmp_path, published_like(golden["shapes"])))
    torch.manual_seed(0)
    with torch.inference_mode():
        turned = model.encode(images().roll(64, 3))
        for scale, (found, before) in enumerate(zip(turned, model.encode(images()), strict=True)):
            expected = before.roll(64 // 4 ** (scale + 1), 4)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        image = torch.zeros(1, 2, 4, 8)
        image[..., -1] = 1.0
        assert WrappedConv(2, 2)(image)[..., 0].any()
        # Above and below nothing goes round.
        assert not WrappedConv(2, 2)(image.transpose(2, 3))[:, :, 0].any()
        lstm = ConvLSTM(2, 2).eval()
        for cell in lstm.cells:
            nn.init.ones_(cell.bias)
        still, _ = lstm(torch.zeros_like(image), lstm.initial(image))
        seen, _ = lstm(image, lstm.initial(image))
        assert (seen != still)[..., -1].any() and torch.equal(seen[..., 0], still[..., 0])


def test_no_return_is_minus_one_inside() -> None:
    model = ATPPNet(1.0, 85.0).eval()
    seen: list[Tensor] = []
    model.stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    past = torch.zeros(1, STEPS, 8, 64)
    past[0, :, 2] = torch.arange(1.0, 6.0)[:, None]
    with torch.inference_mode():
        ranges, logits = model(past)
    assert ranges.shape == logits.shape == (1, STEPS, 8, 64)
    assert 1.0 <= ranges.min() <= ranges.max() <= 85.0
    assert seen[0].shape == (STEPS, 1, 8, 64)
    assert seen[0][:, 0, 2, 0].tolist() == [1, 2, 3, 4, 5] and (seen[0][:, 0, 3] == -1).all()


def test_half_precision_keeps_the_range(golden: dict[str, Any], tmp_path: Path) -> None:
    model, _ = load_atppnet(lightning(tmp_path, published_like(golden["shapes"])))
    with torch.inference_mode():
        expected, _ = model(images())
        with torch.autocast("cpu", torch.bfloat16):
            ranges, logits = model(images())
    assert ranges.dtype == logits.dtype == torch.float32
    assert (ranges - expected).abs().mean() < 1.0
    # Not steps of 0.25 m and more, as in half precision itself.
    assert len(ranges.unique()) > 10_000


def test_dropout_and_norms_are_those_of_training() -> None:
    torch.manual_seed(0)
    model = ATPPNet(1.0, 85.0)
    past = torch.rand(2, STEPS, 8, 64) * 50
    with torch.no_grad():
        assert not torch.equal(model(past)[0], model(past)[0])
        # Once for each scale.
        assert model.time_norm.num_batches_tracked == 2 * 3
        model.eval()
        together, _ = model(past)
        alone, _ = model(past[1:])
    torch.testing.assert_close(alone, together[1:], atol=1e-3, rtol=0)
