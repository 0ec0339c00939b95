"""The processes that train together, as torch's launcher starts them; one where it did not.

torchrun --nproc-per-node 2 -m robot_perception.apps.cli forecast train ...
"""

from __future__ import annotations

import atexit
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import distributed, nn

from robot_perception.core.forecast.batches import Batch, batches

T = TypeVar("T")
# Rank 0 makes the samples while the others wait.
_PATIENCE = timedelta(days=7)


def rank() -> int:
    """The number of this process; 0 alone writes files."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def join(device: torch.device) -> torch.device:
    """Join the processes of torch's launcher, if it started this one; the device to train on,
    a GPU of its own for each process. Raises ValueError where a machine has too few of them."""
    if not distributed.is_torchelastic_launched() or distributed.is_initialized():
        return device
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ValueError(f"process {local} has no GPU: there are {torch.cuda.device_count()}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=_PATIENCE)
    atexit.register(distributed.destroy_process_group)
    return device


@contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 goes first, and the others when it is through."""
    if rank():
        gathered([])
    yield
    if world() > 1 and not rank():
        gathered([])


def gathered(part: Sequence[T]) -> list[T]:
    """The parts of all processes joined in the order of rank, the same in each."""
    if world() == 1:
        return list(part)
    parts: list[list[T]] = [[] for _ in range(world())]
    distributed.all_gather_object(parts, list(part))
    return [item for each in parts for item in each]


def agreed(answer: bool) -> bool:
    """The answer of rank 0, in each process."""
    return gathered([answer])[0]


def share(items: Sequence[T]) -> list[T]:
    """What of `items` falls to this process."""
    return list(items[rank() :: world()])


def parallel(model: nn.Module) -> nn.Module:
    """The model with gradients that are the mean over all processes."""
    if world() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def agree(model: nn.Module) -> None:
    """Make the running statistics of normalisation the mean over all processes."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer.div_(world())


def shared_batches(
    paths: Sequence[Path], size: int, crop: int, seed: int, epoch: int
) -> Iterator[Batch]:
    """This process's part of all samples in random order; as many batches in each process."""
    if world() == 1:
        yield from batches(paths, size, crop, np.random.default_rng([seed, epoch]))
        return
    by_beams: dict[int, list[Path]] = {}
    for i in np.random.default_rng([seed, epoch]).permutation(len(paths)):
        by_beams.setdefault(beams_of(paths[i]), []).append(paths[i])
    # A batch holds one number of beams.
    groups = [g[i : i + size] for g in by_beams.values() for i in range(0, len(g), size)]
    # Short of a whole round, some are seen twice: each process must take as many steps.
    groups += list(islice(cycle(groups), -len(groups) % world()))
    rng = np.random.default_rng([seed, epoch, 1])
    order = rng.permutation(len(groups))
    own = np.random.default_rng([seed, epoch, 2 + rank()])
    for i in order[rank() :: world()]:
        yield from batches(groups[i], size, crop, own)


def beams_of(path: Path) -> int:
    """The rows of a sample's image, by the header alone."""
    with zipfile.ZipFile(path) as archive, archive.open("image.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape = read(file)[0]
    return int(shape[1])
