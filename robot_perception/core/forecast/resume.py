"""What a training needs to go on after an interruption, and when its time is up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from robot_perception.core.files import replacing


@dataclass(frozen=True)
class Epoch:
    """`train` and `validation` losses; `gain`: the share of geometry's Chamfer distance that the
    choices save on the validation samples at the best `gate`, with `gate`. It took `seconds`;
    `phase` 1 is the one in which ATPPNet's loss has the Chamfer distance."""

    epoch: int
    train: float
    validation: float
    gain: float
    gate: float
    seconds: float = 0.0
    phase: int = 0


@dataclass(frozen=True, eq=False)
class Training:
    """A network, its optimiser and its learning rate, which are kept in `path`."""

    path: Path
    model: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler

    def resume(self, device: torch.device) -> list[Epoch]:
        """Take up what `save` left, if anything; the epochs until then."""
        if not self.path.exists():
            return []
        state = torch.load(self.path, map_location=device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        return [Epoch(**e) for e in state["history"]]

    def save(self, history: Sequence[Epoch]) -> None:
        """Replace what was left before. Raises OSError."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(e) for e in history],
        }
        with replacing(self.path) as file:
            torch.save(state, file)


def state_file(out: Path) -> Path:
    """Where the training that writes the weights `out` keeps its state."""
    return out.with_name(out.name + ".state")


def time_is_up(history: Sequence[Epoch], minutes: float | None) -> bool:
    """Whether one more epoch, as long as the longest of the last three, would end after `minutes`
    of training. The first one, with all that a device does once, is not for ever the measure."""
    if minutes is None or not history:
        return False
    spent = [e.seconds for e in history]
    return sum(spent) + max(spent[-3:]) > 60 * minutes
