"""Checkpoints: only whole state dicts get in, and nothing in a file runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robot_perception.core.errors import WeightsRejected
from robot_perception.core.weights import (
    file_sha256,
    load_into,
    load_state_dict,
    pick_device,
    resolve,
)


class Payload:
    """A pickle that makes a file when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_state_dicts_load_from_both_formats(tmp_path: Path, wrapper: str | None) -> None:
    state = nn.Linear(3, 2).state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "a.pth")
    save_file(state, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        module = nn.Linear(3, 2)
        load_into(module, load_state_dict(tmp_path / name))
        assert torch.equal(module.weight, state["weight"])


def test_a_hostile_pickle_does_not_run(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    torch.save({"weight": Payload(planted)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Payload(planted)))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsRejected):
            load_state_dict(tmp_path / name)
    assert not planted.exists()


def test_broken_files_are_rejected(tmp_path: Path) -> None:
    good = tmp_path / "good.pth"
    torch.save(nn.Linear(30, 20).state_dict(), good)
    data = good.read_bytes()
    for i, cut in enumerate((0, 10, len(data) // 2, len(data) - 5)):
        path = tmp_path / f"{i}.pth"
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsRejected):
            load_state_dict(path)
    with pytest.raises(WeightsRejected, match="sha256"):
        load_state_dict(good, "0" * 64)
    assert load_state_dict(good, file_sha256(good))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsRejected, match="no state dict"):
        load_state_dict(tmp_path / "list.pth")


def test_weights_of_another_model_are_rejected() -> None:
    with pytest.raises(WeightsRejected, match="mismatch"):
        load_into(nn.Linear(3, 2), nn.Linear(4, 2).state_dict())
    bad = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}
    with pytest.raises(WeightsRejected, match="finite"):
        load_into(nn.Linear(3, 2), bad)


def test_names_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOT_PERCEPTION_WEIGHTS", str(tmp_path))
    (tmp_path / "x.pth").write_bytes(b"")
    assert resolve("x.pth") == tmp_path / "x.pth"
    for missing in ("", "y.pth"):
        with pytest.raises(WeightsRejected):
            resolve(missing)
    with pytest.raises(ValueError):
        pick_device("toaster")
