"""Trains ATPPNet on the same samples, with the losses of its paper, in its two phases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.forecast.chamfer import chamfer_loss, directions
from robot_perception.core.forecast.image_batches import (
    Images,
    load_images,
    revolutions,
    windows,
)
from robot_perception.core.forecast.resume import Epoch, Training, state_file, time_is_up
from robot_perception.core.forecast.training import TrainingConfig
from robot_perception.core.weights import load_into, load_state_dict

# Adam at 3e-4, multiplied by 0.99 an epoch, as published.
LEARNING_RATE, _DECAY = 3e-4, 0.99


def train_atppnet(
    training: Sequence[Path],
    validation: Sequence[Path],
    out: Path,
    config: TrainingConfig,
    limits_m: tuple[float, float],
    device: torch.device,
    report: Callable[[Epoch], None],
    *,
    warped: bool = False,
) -> Epoch:
    """Train on sample files; write the best weights to `out` (safetensors).

    `epochs` of range L1 and mask cross-entropy, then, from the best weights so far,
    `chamfer_epochs` with the Chamfer distance added. A phase ends early when `patience` epochs of
    it brought nothing, or at its share of `minutes`. What is best has the least sum of all three
    on the validation samples, of which `gain` is the negative. Goes on from `out`.state if an
    earlier run was interrupted. `warped`: on the past as seen from the present, instead of as it
    was measured. Raises ValueError without samples, where several processes train together, and
    where the losses grow beyond all bounds.
    """
    if not training or not validation:
        raise ValueError("training needs samples to train on and samples to validate on")
    if ranks.world() > 1:
        raise ValueError("ATPPNet is trained by one process")
    fit, check = load_images(training, warped), load_images(validation, warped)
    torch.manual_seed(config.seed)
    model = ATPPNet(*limits_m).to(device)
    for parameter in model.parameters():
        if parameter.dim() == 4:
            # The layout that convolutions in half precision want.
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
    kept = Training(state_file(out), model, optimiser, schedule)
    history = kept.resume(device)
    while (phase := next_phase(history, config)) is not None:
        begun, number = time.perf_counter(), len(history)
        if phase and not history[-1].phase:
            load_into(model, load_state_dict(out))
        torch.manual_seed(config.seed + number)
        rng = np.random.default_rng([config.seed, number])
        model.train()
        losses = []
        for batch in windows(fit, config.batch, config.crop, rng, device):
            image, chamfer = _losses(model, batch, with_chamfer=bool(phase))
            loss = image + chamfer
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(loss.detach())
        schedule.step()
        validated = _validated(model, check, config.batch, device)
        trained = float(torch.stack(losses).mean())
        if not np.isfinite(trained + validated):
            raise ValueError(f"the losses of epoch {number} are not finite")
        seconds = time.perf_counter() - begun
        epoch = Epoch(number, trained, validated, -validated, 0.0, seconds, phase)
        if epoch.gain > max((e.gain for e in history), default=-np.inf):
            tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            save_file(tensors, out)
        history.append(epoch)
        kept.save(history)
        report(epoch)
    return max(history, key=lambda e: e.gain)


def next_phase(history: Sequence[Epoch], config: TrainingConfig) -> int | None:
    """The phase of the epoch that comes after `history`: 0, 1, or None at the end."""
    first = [e for e in history if e.phase == 0]
    second = [e for e in history if e.phase == 1]
    minutes = config.minutes
    share = config.epochs / (config.epochs + config.chamfer_epochs)
    ends = minutes * share if minutes is not None else None
    if not second and not _over(first, config.epochs, config) and not time_is_up(history, ends):
        return 0
    if _over(second, config.chamfer_epochs, config) or time_is_up(history, minutes):
        return None
    return 1


def _over(epochs: Sequence[Epoch], limit: int, config: TrainingConfig) -> bool:
    if len(epochs) >= limit or not epochs:
        return len(epochs) >= limit
    best = max(epochs, key=lambda e: e.gain)
    return epochs[-1].epoch - best.epoch >= config.patience


def _losses(model: ATPPNet, batch: Images, *, with_chamfer: bool) -> tuple[Tensor, Tensor]:
    """Range L1 with the cross-entropy of the mask, and the Chamfer distance in m^2 or 0."""
    device = batch.past.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        ranges, logits = model(batch.past)
    true = batch.future
    seen = true > 0
    # Over all pixels, also those without a return, as published.
    distance = ((ranges - true).abs() * seen).mean()
    image = distance + F.binary_cross_entropy_with_logits(logits, seen.float())
    if not with_chamfer:
        return image, image.new_zeros(())
    rays = directions(batch.elevations, true.shape[3], batch.revolution)
    rays = rays.repeat_interleave(true.shape[1], 0).flatten(1, 2)
    predicted, came = (rays * x.flatten(0, 1).flatten(1)[..., None] for x in (ranges, true))
    shown, there = (x.flatten(0, 1).flatten(1) for x in (logits >= 0, seen))
    return image, chamfer_loss(predicted, shown, came, there).mean()


@torch.no_grad()
def _validated(model: ATPPNet, check: Sequence[Images], size: int, device: torch.device) -> float:
    """The mean of all three losses over the samples, whole revolutions of them."""
    model.eval()
    total, count = torch.zeros((), device=device), 0
    for batch in revolutions(check, size if device.type == "cuda" else 1, device):
        image, chamfer = _losses(model, batch, with_chamfer=True)
        total += (image + chamfer) * len(batch)
        count += len(batch)
    return float(total) / count
