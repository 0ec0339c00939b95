"""From the network's logits to what is predicted of each candidate."""

from __future__ import annotations

import torch
from torch import Tensor

# What geometry says, in logits: the network has to argue against it.
PRIOR = 3.0
_NEVER = -1e4
STAND, MOVE, LEAVE_OUT = 0, 1, 2


def at_pixels(logits: Tensor, pixel: Tensor) -> Tensor:
    """Logits (T, 5, H, W) of one scene at the pixels (K,) of its candidates: (T, 5, K)."""
    return logits.flatten(2)[:, :, pixel]


def scores(logits: Tensor, memory: Tensor, moving: Tensor, visible: Tensor) -> Tensor:
    """Logits (T, K, 3) of standing, moving on and being left out, from the network's (T, 5, K).

    `memory` (K,), `moving` (K,) and `visible` (T, K) are what geometry knows of the candidates.
    Zero logits give geometry's own choice: what is visible of the scan, standing or moving as its
    cluster does.
    """
    side = torch.where(visible, -PRIOR, PRIOR)
    leave_out = torch.where(memory, torch.zeros_like(side), logits[:, 0] + side)
    recall = logits[:, 2] - torch.where(visible, PRIOR, 2 * PRIOR)
    stand = torch.where(memory, recall, torch.zeros_like(side))
    stand = torch.where(moving, -logits[:, 1] - PRIOR, stand)
    move = torch.where(moving, torch.zeros_like(side), torch.full_like(side, _NEVER))
    return torch.stack([stand, move, leave_out], -1)


def default(memory: Tensor, moving: Tensor, visible: Tensor) -> Tensor:
    """Geometry's choice (T, K)."""
    return torch.where(visible & ~memory, torch.where(moving, MOVE, STAND), LEAVE_OUT)


def choose(score: Tensor, standard: Tensor, gate: float) -> Tensor:
    """The choice (T, K): the best by `score` (T, K, 3) where it beats the standard one by more than
    `gate`, else that."""
    best, index = score.max(-1)
    lead = best - score.gather(-1, standard[..., None])[..., 0]
    return torch.where(lead > gate, index, standard)


def near_logit(logits: Tensor, memory: Tensor) -> Tensor:
    """Logit (T, K) that a predicted point is within 0.3 m of the truth."""
    return torch.where(memory, logits[:, 4], logits[:, 3])
