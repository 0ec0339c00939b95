"""Trains ATPPNet on the same samples, with the losses of its paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.forecast.dataset import Sample, load_sample
from robot_perception.core.forecast.training import Epoch, TrainingConfig

# Adam at 3e-4, multiplied by 0.99 an epoch, as published.
_LEARNING_RATE, _DECAY = 3e-4, 0.99


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
    """Train on sample files, range L1 and mask cross-entropy; write the best weights to `out`.

    `warped`: on the past as seen from the present, instead of as it was measured. What is
    reported as `gain` is the negative validation loss. Raises ValueError without samples, and
    where several processes train together.
    """
    if not training or not validation:
        raise ValueError("training needs samples to train on and samples to validate on")
    if ranks.world() > 1:
        raise ValueError("ATPPNet is trained by one process")
    torch.manual_seed(config.seed)
    future = load_sample(training[0]).future.shape[0]
    model = ATPPNet(future, *limits_m).to(device)
    optimiser = torch.optim.Adam(model.parameters(), _LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
    best: Epoch | None = None
    for number in range(config.epochs):
        rng = np.random.default_rng([config.seed, number])
        model.train()
        losses = []
        order = rng.permutation(len(training))
        for first in range(0, len(order), config.batch):
            samples = [load_sample(training[i]) for i in order[first : first + config.batch]]
            for height in sorted({s.past.shape[1] for s in samples}):
                group = [s for s in samples if s.past.shape[1] == height]
                start = int(rng.integers(group[0].past.shape[2]))
                loss = _loss(model, group, warped, start, config.crop, device)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                losses.append(float(loss.detach()))
        schedule.step()
        model.eval()
        with torch.no_grad():
            # Two windows of each: the whole revolution costs seconds.
            checked = [
                float(_loss(model, [load_sample(p)], warped, start, config.crop, device))
                for p in validation
                for start in (0, config.crop)
            ]
        loss_now = float(np.mean(checked))
        epoch = Epoch(number, float(np.mean(losses)), loss_now, -loss_now, 0.0)
        report(epoch)
        if best is None or epoch.gain > best.gain:
            best = epoch
            tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
            save_file(tensors, out)
        elif number - best.epoch >= config.patience:
            break
    assert best is not None
    return best


def _loss(
    model: ATPPNet,
    samples: Sequence[Sample],
    warped: bool,
    start: int,
    crop: int,
    device: torch.device,
) -> Tensor:
    def window(images: list[np.ndarray]) -> Tensor:
        cut = [np.roll(i, -start, axis=2)[:, :, :crop].astype(np.float32) for i in images]
        return torch.from_numpy(np.stack(cut)).to(device)

    past = window([s.warped if warped else s.past for s in samples])
    true = window([s.future for s in samples])
    ranges, logits = model(past)
    seen = true > 0
    distance = (ranges - true).abs()[seen].mean() if seen.any() else ranges.sum() * 0
    total: Tensor = distance + F.binary_cross_entropy_with_logits(logits, seen.float())
    return total
