"""Checkpoints: where they are, and loading them without running anything they contain."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robot_perception.core.errors import WeightsRejected

_WRAPPERS = ("model", "state_dict", "teacher")


def cache_folder() -> Path:
    """$ROBOT_PERCEPTION_WEIGHTS, else ~/.cache/robot_perception."""
    named = os.environ.get("ROBOT_PERCEPTION_WEIGHTS")
    return Path(named) if named else Path.home() / ".cache" / "robot_perception"


def resolve(name: str) -> Path:
    """The file of a checkpoint given by path, or by its file name in the cache folder."""
    if not name:
        raise WeightsRejected("no checkpoint is named: set the parameter to the path of one")
    for path in (Path(name).expanduser(), cache_folder() / name):
        if path.is_file():
            return path
    raise WeightsRejected(
        f"there is no checkpoint {name}, nor one of that name in {cache_folder()}"
    )


def load_state_dict(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file by name.

    PyTorch files are read with `weights_only=True`, and never otherwise. Raises WeightsRejected for
    anything that is not wholly a state dict, and for another `sha256` than the one given.
    """
    if sha256 is not None and file_sha256(path) != sha256:
        raise WeightsRejected(f"{path.name} is not the file it should be: its sha256 differs")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsRejected(f"{path.name} cannot be read as weights: {reason}") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors_only = isinstance(state, dict) and all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    )
    if not tensors_only or not state:
        raise WeightsRejected(f"{path.name} holds no state dict")
    return dict(state)


def load_into(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load `state` into `module`; raises WeightsRejected unless every name and shape fits."""
    own = module.state_dict()
    problems = [f"missing {name}" for name in own.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise WeightsRejected(f"weights of another model: {len(problems)} mismatches, {shown}")
    if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
        raise WeightsRejected("the weights hold values that are not finite")
    module.load_state_dict(state)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def pick_device(name: str) -> torch.device:
    """The torch device of a parameter: auto takes CUDA where there is one; raises ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name} is no device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name} was asked for, but torch finds no CUDA")
    return device
