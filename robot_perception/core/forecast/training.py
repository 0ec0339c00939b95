"""Trains the network on samples, by the Chamfer distance that its choices are expected to have.

With the probabilities of the choices as independent chances, the expected distance of a true point
to the nearest prediction is a sum over its neighbours: nearest there, or next nearest, and so on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.batches import Batch, batch_of
from robot_perception.core.forecast.choice import (
    MOVE,
    STAND,
    at_pixels,
    choose,
    default,
    near_logit,
    scores,
)
from robot_perception.core.forecast.dataset import (
    CAP_M2,
    MOVING,
    NEAR_M,
    REMEMBERED,
    STANDING,
    load_sample,
)
from robot_perception.core.forecast.resume import Epoch, Training, state_file, time_is_up
from robot_perception.core.forecast.selection import FORMAT, read_gate
from robot_perception.core.forecast.selector import Selector
from robot_perception.core.weights import load_into, load_state_dict

# Gates tried on the validation samples; the last one leaves everything to geometry.
_GATES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 1e9)


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train; `crop` columns of an image are seen at a time. The gate is
    at least `least_gate`; `pretraining` epochs of filling in what is hidden come first. The second
    phase of ATPPNet has `chamfer_epochs`. `minutes`: no epoch begins that would end later."""

    epochs: int = 30
    batch: int = 4
    crop: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 6
    near_weight: float = 0.1
    least_gate: float = 1.0
    pretraining: int = 0
    chamfer_epochs: int = 10
    minutes: float | None = None
    seed: int = 0


def train(
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    config: TrainingConfig,
    device: torch.device,
    report: Callable[[Epoch], None],
    start: dict[str, Tensor] | None = None,
) -> Epoch:
    """Train on sample files, and write the best weights to `out` (safetensors).

    Goes on from `out`.state if an earlier run was interrupted there. `start`: weights to adapt.
    Stops when the validation gain has not risen for `patience` epochs, or the time is up. Processes
    that have joined (`ranks`) share the samples, and rank 0 alone writes. Raises ValueError without
    samples of both kinds.
    """
    if not training or not validation:
        raise ValueError("training needs samples to train on and samples to validate on")
    torch.manual_seed(config.seed)
    model = Selector().to(device)
    if start is not None:
        model.load_state_dict(start)
    optimiser = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs)
    kept = Training(state_file(out), model, optimiser, schedule)
    history = kept.resume(device)
    best = max(history, key=lambda e: e.gain, default=None)
    parallel = ranks.parallel(model)
    for number in range(len(history), config.epochs):
        if ranks.agreed(time_is_up(history, config.minutes)):
            break
        begun = time.perf_counter()
        model.train()
        losses = []
        for batch in ranks.shared_batches(training, config.batch, config.crop, config.seed, number):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = parallel(batch.image.to(device))
            loss = _loss(logits.float(), batch, config)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        schedule.step()
        ranks.agree(model)
        mean = float(np.mean(ranks.gathered(losses)))
        epoch = _validated(model, ranks.share(validation), config, device, number, mean)
        epoch = replace(epoch, seconds=time.perf_counter() - begun)
        history.append(epoch)
        report(epoch)
        if best is None or epoch.gain > best.gain:
            best = epoch
            if ranks.rank() == 0:
                save_weights(model, out, epoch)
        if ranks.rank() == 0:
            kept.save(history)
        if number - best.epoch >= config.patience:
            break
    assert best is not None
    return best


def save_weights(model: Selector, path: Path, epoch: Epoch) -> None:
    """Write the weights with what is needed to use them: the gate."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    metadata = {"format": FORMAT, "gate": str(epoch.gate), "epoch": json.dumps(asdict(epoch))}
    save_file(tensors, path, metadata)


def _loss(logits: Tensor, batch: Batch, config: TrainingConfig) -> Tensor:
    losses = []
    for answer, cpu in zip(logits, batch.points, strict=True):
        p = {k: v.to(answer.device) for k, v in cpu.items()}
        found = at_pixels(answer, p["pixel"])
        share = torch.softmax(scores(found, p["memory"], p["moving"], p["visible"]), -1)
        near = _near_shares(answer, p)
        standard = F.one_hot(default(p["memory"], p["moving"], p["visible"]), 3).float()
        expected = _chamfer(share, near, p) / _chamfer(standard, _near_standard(p), p)
        wrong = F.binary_cross_entropy_with_logits(
            near_logit(found, p["memory"]),
            (p["gap"].gather(-1, p["moving"].long().expand(len(share), -1)[..., None])[..., 0]
             < NEAR_M**2).float(),
            reduction="none",
        )  # fmt: skip
        shown = p["visible"] * p["weight"]
        calibration = (wrong * shown).sum() / shown.sum().clamp_min(1)
        losses.append(expected.mean() + config.near_weight * calibration)
    return torch.stack(losses).mean()


def _chamfer(share: Tensor, near: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Chamfer distance (T,) in m^2 expected of choices made with the chances `share` (T, K, 3), and
    of the neighbours with the chances `near` (T, Q, R)."""
    shown = share[..., :2] * p["weight"][:, None]
    forward = (shown * p["gap"]).sum((1, 2)) / shown.sum((1, 2)).clamp_min(1)
    # Only true points whose nearest candidate is in the window.
    inside = (p["near_pixel"][..., 0] >= 0).float()
    left = torch.cumprod(1 - near, -1)
    first = torch.cat([torch.ones_like(left[..., :1]), left[..., :-1]], -1) * near
    backward = (first * p["near_gap"]).sum(-1) + left[..., -1] * CAP_M2
    return forward + (backward * inside).sum(1) / inside.sum(1).clamp_min(1)


def _near_shares(answer: Tensor, p: dict[str, Tensor]) -> Tensor:
    """The chance (T, Q, R) that each neighbour is predicted."""
    pixel, kind = p["near_pixel"], p["near_kind"]
    steps, asked, count = pixel.shape
    index = pixel.clamp_min(0).reshape(steps, 1, -1).expand(-1, answer.shape[1], -1)
    found = answer.flatten(2).gather(2, index)
    memory = (kind == REMEMBERED).reshape(steps, -1)
    moving, visible = p["near_moving"].reshape(steps, -1), p["near_visible"].reshape(steps, -1)
    share = torch.softmax(scores(found, memory, moving, visible), -1)
    chosen = torch.where((kind == MOVING).reshape(steps, -1), share[..., MOVE], share[..., STAND])
    # Outside of the window geometry decides.
    chosen = chosen.reshape(steps, asked, count)
    return torch.where(pixel >= 0, chosen, _near_standard(p))


def _near_standard(p: dict[str, Tensor]) -> Tensor:
    kind = torch.where(p["near_moving"], MOVING, STANDING)
    return (p["near_visible"] & (p["near_kind"] == kind)).float()


@torch.no_grad()
def _validated(
    model: Selector,
    paths: Sequence[Path],
    config: TrainingConfig,
    device: torch.device,
    number: int,
    loss: float,
) -> Epoch:
    model.eval()
    gates = [gate for gate in _GATES if gate >= config.least_gate]
    losses, gains = [], []
    for batch, logits, p in _answers(model, paths, device):
        losses.append(float(_loss(logits, batch, config)))
        gains.append(_gains(logits[0], p, gates))
    losses, gains = ranks.gathered(losses), ranks.gathered(gains)
    mean = np.mean(gains, axis=0)
    best = int(mean.argmax())
    return Epoch(number, loss, float(np.mean(losses)), float(mean[best]), gates[best])


def _answers(
    model: Selector, paths: Sequence[Path], device: torch.device
) -> Iterator[tuple[Batch, Tensor, dict[str, Tensor]]]:
    """Each sample with the network's logits (1, T, 5, H, W) and what is known of its points."""
    for path in paths:
        batch = batch_of([load_sample(path)])
        logits = model(batch.image.to(device)).float()
        yield batch, logits, {k: v.to(device) for k, v in batch.points[0].items()}


@torch.no_grad()
def gain_of(weights: Path, validation: Sequence[Path], device: torch.device) -> float:
    """The share of geometry's Chamfer distance that `weights` with their own gate save on sample
    files; raises WeightsRejected for weights that cannot be used."""
    model = Selector()
    load_into(model, load_state_dict(weights))
    model.to(device).eval()
    gates, gains = [read_gate(weights)], []
    for _, logits, p in _answers(model, validation, device):
        gains += _gains(logits[0], p, gates)
    return float(np.mean(gains))


def _gains(answer: Tensor, p: dict[str, Tensor], gates: Sequence[float]) -> list[float]:
    """The share of geometry's Chamfer distance that the choices save with each of `gates`."""
    score = scores(at_pixels(answer, p["pixel"]), p["memory"], p["moving"], p["visible"])
    standard = default(p["memory"], p["moving"], p["visible"])
    base = _chamfer(F.one_hot(standard, 3).float(), _near_standard(p), p)
    found = []
    for gate in gates:
        chosen = F.one_hot(choose(score, standard, gate), 3).float()
        found.append(float(1 - (_chamfer(chosen, _near_chosen(answer, p, gate), p) / base).mean()))
    return found


def _near_chosen(answer: Tensor, p: dict[str, Tensor], gate: float) -> Tensor:
    """Whether each neighbour (T, Q, R) is predicted with `gate`."""
    pixel, kind = p["near_pixel"], p["near_kind"]
    steps = len(pixel)
    index = pixel.clamp_min(0).reshape(steps, 1, -1).expand(-1, answer.shape[1], -1)
    found = answer.flatten(2).gather(2, index)
    memory = (kind == REMEMBERED).reshape(steps, -1)
    moving, visible = p["near_moving"].reshape(steps, -1), p["near_visible"].reshape(steps, -1)
    choice = choose(scores(found, memory, moving, visible), default(memory, moving, visible), gate)
    wanted = torch.where(kind == MOVING, MOVE, STAND)
    return (choice.reshape(pixel.shape) == wanted).float()
