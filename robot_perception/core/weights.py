"""Checkpoints: which there are, where they are, and loading them without running their contents.

Loading never uses the network; `fetch` does, when somebody asks for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException, HTTPResponse
from importlib.resources import files
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from robot_perception.core.errors import WeightsRejected

_WRAPPERS = ("model", "state_dict", "teacher")
_CHUNK = 1 << 20
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Checkpoint:
    """An official file. `model` is the parameter value it belongs to; None: not known."""

    name: str
    kind: str
    model: str
    url: str
    sha256: str | None
    size: int | None
    licence: str

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def path(self) -> Path:
        """Where it is kept once fetched."""
        return cache_folder() / self.file


@cache
def manifest() -> dict[str, Checkpoint]:
    """The registered checkpoints by name."""
    text = files("robot_perception.core").joinpath("weights.yaml").read_text(encoding="utf-8")
    return {name: Checkpoint(name=name, **entry) for name, entry in yaml.safe_load(text).items()}


def cache_folder() -> Path:
    """$ROBOT_PERCEPTION_WEIGHTS, else ~/.cache/robot_perception."""
    named = os.environ.get("ROBOT_PERCEPTION_WEIGHTS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "robot_perception"


def resolve(name: str) -> Path:
    """The file of a checkpoint given by path, registered name, or file name in the cache folder.

    Raises WeightsRejected, saying how to get it, where there is no such file.
    """
    if not name:
        raise WeightsRejected("no checkpoint is named: set the parameter to the path of one")
    registered = manifest().get(name)
    if registered is not None:
        if registered.path.is_file():
            return registered.path
        raise WeightsRejected(
            f"{name} is not at {registered.path}: fetch it with `robot-perception weights fetch "
            f"{name}`, or put {registered.url} there"
        )
    for path in (Path(name).expanduser(), cache_folder() / name):
        if path.is_file():
            return path
    raise WeightsRejected(
        f"there is no checkpoint {name}, nor one of that name in {cache_folder()}; registered are "
        + ", ".join(manifest())
    )


def load_checkpoint(name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by path or name; one by registered name must have its sha256."""
    registered = manifest().get(name)
    return load_state_dict(resolve(name), registered.sha256 if registered else None)


def load_state_dict(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file by name.

    PyTorch files are read with `weights_only=True`, and never otherwise. Raises WeightsRejected for
    anything that is not wholly a state dict, and for another `sha256` than the one given.
    """
    state: Any
    try:
        if sha256 is not None and file_sha256(path) != sha256:
            raise WeightsRejected(f"{path.name} is not the file it should be: its sha256 differs")
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsRejected:
        raise
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsRejected(f"{path.name} cannot be read as weights: {reason}") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        raise WeightsRejected(f"{path.name} holds no state dict")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsRejected(f"{path.name} holds no state dict: {key!s:.60} is no tensor")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise WeightsRejected(f"{path.name}: {key:.60} is no dense tensor")
    return dict(state)


def load_into(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Load `state` into `module`; raises WeightsRejected unless every name and shape fits.

    Floating-point values of another precision are converted, others are not.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        theirs, ours = state[name], own[name]
        if theirs.shape != ours.shape:
            problems.append(f"{name} is {tuple(theirs.shape)}, not {tuple(ours.shape)}")
        elif theirs.dtype != ours.dtype and not (
            theirs.is_floating_point() and ours.is_floating_point()
        ):
            problems.append(f"{name} is {theirs.dtype}, not {ours.dtype}")
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        raise WeightsRejected(f"weights of another model: {len(problems)} mismatches, {shown}")
    state = {name: value.to(own[name].dtype) for name, value in state.items()}
    if not all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()):
        raise WeightsRejected("the weights hold values that are not finite")
    module.load_state_dict(state)


def verify(name: str) -> bool:
    """Whether the registered checkpoint's sha256 is known and was found right.

    False: the file is there, but nothing is known to compare it with. Raises WeightsRejected for an
    absent or a different file, and for an unregistered name.
    """
    checkpoint = _registered(name)
    path = resolve(name)
    _check(checkpoint, path)
    return checkpoint.sha256 is not None


def fetch(name: str, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Download a registered checkpoint into the cache folder, unless it is there and right.

    An interrupted download goes on where it stopped. `progress(done, total)` in bytes; total None
    where the server does not tell. The file gets its name only once it is whole and its sha256, if
    one is known, is right. Raises WeightsRejected with the reason otherwise.
    """
    checkpoint = _registered(name)
    target = checkpoint.path
    try:
        if target.is_file():
            _check(checkpoint, target)
            return target
    except WeightsRejected:
        pass  # damaged: fetched anew, and replaced only by a good one
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsRejected(f"{name} is being fetched by another process") from error
            _download(checkpoint, file, progress)
            file.flush()
            try:
                _check(checkpoint, part)
            except WeightsRejected:
                part.unlink()
                raise
            part.replace(target)
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise WeightsRejected(
            f"{name} could not be fetched from {checkpoint.url}: {error}"
        ) from error
    return target


def _registered(name: str) -> Checkpoint:
    try:
        return manifest()[name]
    except KeyError:
        known = ", ".join(manifest())
        raise WeightsRejected(f"{name} is not registered; these are: {known}") from None


def _check(checkpoint: Checkpoint, path: Path) -> None:
    """Raise WeightsRejected where the file's size or sha256 is not the one known."""
    size = path.stat().st_size
    if checkpoint.size is not None and size != checkpoint.size:
        raise WeightsRejected(f"{path.name} has {size} bytes instead of {checkpoint.size}")
    if checkpoint.sha256 is not None and file_sha256(path) != checkpoint.sha256:
        raise WeightsRejected(f"{path.name} is not the file it should be: its sha256 differs")


def _download(
    checkpoint: Checkpoint, file: IO[bytes], progress: Callable[[int, int | None], None] | None
) -> None:
    """Append to `file` what it lacks, or begin anew where the server cannot go on."""
    done = file.seek(0, os.SEEK_END)
    if done and done == checkpoint.size:
        return
    try:
        response = _request(checkpoint.url, done)
    except HTTPError as error:
        if error.code != 416 or not done:  # Range Not Satisfiable: the part is not of this file
            raise
        response = _request(checkpoint.url, 0)
    with response:
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status != 206 or place is None or int(place[1]) != done:
            if response.status == 206:
                raise HTTPException("the server sent another part of the file than asked for")
            done = file.truncate(0)
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdigit() else checkpoint.size
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise HTTPException(f"the connection ended after {done} of {total} bytes; run it again")


def _request(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "robot_perception"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_TIMEOUT_S)
    return response


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
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
