"""Masked pre-training: tiles of the network's view are hidden, and it learns to fill them in.

In the manner of masked autoencoders (He et al., CVPR 2022), on range images. It needs no future and
no labels, and leaves the network's head as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from robot_perception.core.forecast import ranks
from robot_perception.core.forecast.features import CHANNELS, UNSEEN
from robot_perception.core.forecast.selector import PATCH, Selector
from robot_perception.core.forecast.training import TrainingConfig
from robot_perception.core.weights import load_state_dict

# Rows and columns that are hidden together, and how much of the image is.
_TILE = (8, 32)
_HIDDEN_SHARE = 0.5


class _Filler(nn.Module):
    """Log range and the logit of a return, (B, 2, H, W), of an image of which parts are hidden."""

    def __init__(self, selector: Selector) -> None:
        super().__init__()
        self.selector = selector
        self.fill = nn.Conv2d(selector.head.in_channels, 2 * PATCH, 1)

    def forward(self, image: Tensor) -> Tensor:
        filled: Tensor = self.fill(self.selector.trunk(image))
        batch, _, height, width = filled.shape
        patches = filled.reshape(batch, 2, PATCH, height, width)
        images: Tensor = patches.permute(0, 1, 3, 4, 2).flatten(3)
        return images


def pretrain(
    training: Sequence[Path],
    out: Path,
    config: TrainingConfig,
    device: torch.device,
    report: Callable[[int, float], None],
    start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Weights to start `training.train` from, after `config.pretraining` epochs; `report` has the
    loss of each. Written to `out`, and read from there if an earlier run got so far."""
    if out.exists():
        return load_state_dict(out)
    torch.manual_seed(config.seed)
    filler = _Filler(Selector()).to(device)
    if start is not None:
        filler.selector.load_state_dict(start)
    # The head takes no part: its gradient is none.
    filler.selector.head.requires_grad_(False)
    learnt = [p for p in filler.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learnt, config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.pretraining)
    parallel = ranks.parallel(filler)
    for epoch in range(config.pretraining):
        filler.train()
        losses = []
        rng = np.random.default_rng([config.seed, epoch, 3 + ranks.rank()])
        # Other windows than those of the training proper.
        seed = config.seed + 1
        for batch in ranks.shared_batches(training, config.batch, config.crop, seed, epoch):
            image = batch.image.to(device)
            hidden = torch.from_numpy(
                hidden_tiles(len(image), image.shape[2], image.shape[3], rng)
            ).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                filled = parallel(without(image, hidden))
            loss = filling_loss(filled.float(), image, hidden)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        schedule.step()
        ranks.agree(filler)
        report(epoch, float(np.mean(ranks.gathered(losses))))
    weights = {k: v.detach().cpu().contiguous() for k, v in filler.selector.state_dict().items()}
    if ranks.rank() == 0:
        aside = out.with_name(out.name + ".part")
        save_file(weights, aside)
        aside.replace(out)
    return weights


def hidden_tiles(batch: int, height: int, width: int, rng: Generator) -> NDArray[np.bool_]:
    """What is hidden of each image: (B, 1, H, W), in whole tiles."""
    rows, columns = -(-height // _TILE[0]), -(-width // _TILE[1])
    tiles = rng.random((batch, 1, rows, columns)) < _HIDDEN_SHARE
    return tiles.repeat(_TILE[0], axis=2).repeat(_TILE[1], axis=3)[:, :, :height, :width]


def without(image: Tensor, hidden: Tensor) -> Tensor:
    """The image (B, C, H, W) with all that was seen in `hidden` (B, 1, H, W) set to zero."""
    seen = torch.ones(CHANNELS, dtype=torch.bool, device=image.device)
    seen[list(UNSEEN)] = False
    return image.masked_fill(hidden & seen[:, None, None], 0.0)


def filling_loss(filled: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
    """How far what was filled in (B, 2, H, W) is from log range and mask of `image`, where it was
    hidden; the range counts where there was a return."""
    hidden = hidden[:, 0]
    returned = image[:, 1]
    there = hidden & (returned > 0)
    log_range = F.smooth_l1_loss(filled[:, 0], image[:, 0], reduction="none", beta=0.05)
    mask = F.binary_cross_entropy_with_logits(filled[:, 1], returned, reduction="none")
    of_range = (log_range * there).sum() / there.sum().clamp_min(1)
    return 10 * of_range + (mask * hidden).sum() / hidden.sum().clamp_min(1)
