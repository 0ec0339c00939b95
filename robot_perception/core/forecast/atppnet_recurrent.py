"""The recurrent part of ATPPNet at one scale: the past remembered, the future step by step."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LAYERS = 3
_DROPOUT = 0.2

State: TypeAlias = list[tuple[Tensor, Tensor]]
"""Hidden state and cell (B, C, h, w) of each layer."""

Keys: TypeAlias = tuple[Tensor, Tensor]
"""What maps (B, T, C, h, w) have to do with their weights: by channel (B, T, C), by place
(B, T, C / 4, h, w). It stays while the query changes, and so is found once."""


class Recurrence(nn.Module):
    """Features (B, T, C, h, w) of the past, oldest first, to those of as many future steps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.past = ConvLSTM(channels, channels)
        self.attend = Attention(channels)
        self.ahead = ConvLSTM(2 * channels, channels)

    def forward(self, features: Tensor, time_norm: nn.Module) -> Tensor:
        """`time_norm` takes the hidden states (B, T, C, h, w) of the past."""
        state = self.past.initial(features[:, 0])
        hidden, future = [], list[Tensor]()
        for step in features.unbind(1):
            output, state = self.past(step, state)
            hidden.append(output)
        memory = time_norm(torch.stack(hidden, 1))
        keys = self.attend.keys(memory)
        query = memory[:, -1]
        for _ in hidden:
            if future:
                # What was foreseen takes the place of what was seen longest ago.
                newest = query[:, None]
                memory = _shifted(memory, newest)
                found = self.attend.keys(newest)
                keys = _shifted(keys[0], found[0]), _shifted(keys[1], found[1])
            context = self.attend(memory, keys, query)
            query, state = self.ahead(torch.cat([context, query], 1), state)
            future.append(query)
        return torch.stack(future, 1)


class ConvLSTM(nn.Module):
    """A stack of ConvLSTM cells (Shi et al., NeurIPS 2015), 3 x 3, with ReLU6 for the tangent."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(
            nn.Conv2d((channels if i else inputs) + channels, 4 * channels, 3, padding=1)
            for i in range(_LAYERS)
        )

    def initial(self, like: Tensor) -> State:
        """Zeros for inputs like (B, C, h, w), in float32: the cells add up."""
        zero = torch.zeros_like(like, dtype=torch.float32)
        return [(zero, zero) for _ in self.cells]

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        after = []
        for gates, (hidden, cell) in zip(self.cells, state, strict=True):
            seen = F.dropout(F.relu6(inputs), _DROPOUT, self.training)
            i, f, g, o = gates(torch.cat([seen, hidden], 1)).chunk(4, 1)
            kept = torch.sigmoid(f) * cell + torch.sigmoid(i) * F.relu6(g)
            inputs = torch.sigmoid(o) * F.relu6(kept)
            after.append((inputs, kept))
        return inputs, after


class Attention(nn.Module):
    """Maps (B, T, C, h, w), each weighted by channel and by place for the query, and added up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        few = channels // 4
        self.memory = nn.Conv2d(channels, channels, 1)
        self.query = nn.Conv2d(channels, channels, 1)
        # These two take the map's channels first, then the query's.
        self.channel = nn.Conv1d(2 * channels, channels, 1)
        self.reduce = nn.Conv2d(2 * channels, few, 1)
        self.spread = nn.Conv2d(few, few, 3, padding=4, dilation=4)
        self.place = nn.Conv2d(few, 1, 1)

    def keys(self, maps: Tensor) -> Keys:
        """The part of the weights of `maps` that needs no query."""
        half, each = self.memory.out_channels, maps.shape[:2]
        seen = F.relu(self.memory(maps.flatten(0, 1)))
        channels = F.linear(seen.mean((2, 3)), self.channel.weight[:, :half, 0])
        places = F.conv2d(seen, self.reduce.weight[:, :half])
        return channels.reshape(*each, -1), places.reshape(*each, *places.shape[1:])

    def forward(self, maps: Tensor, keys: Keys, query: Tensor) -> Tensor:
        """The context (B, C, h, w) of `query`, of the same shape, from `maps` with their `keys`."""
        half = self.memory.out_channels
        asked = F.relu(self.query(query))
        channels = F.linear(asked.mean((2, 3)), self.channel.weight[:, half:, 0], self.channel.bias)
        channels = F.relu(_normalised(keys[0] + channels[:, None], 1))
        places = F.conv2d(asked, self.reduce.weight[:, half:], self.reduce.bias)
        places = F.relu(_normalised((keys[1] + places[:, None]).flatten(0, 1), 2))
        places = self.place(F.relu(_normalised(self.spread(places), 2)))
        places = places.reshape(*maps.shape[:2], 1, *maps.shape[3:])
        weights = torch.sigmoid(channels[..., None, None] * places)
        return (maps * weights).sum(1)


def _normalised(values: Tensor, axes: int) -> Tensor:
    """`values` with mean 0 and variance 1 over the last `axes`."""
    return F.layer_norm(values, values.shape[-axes:])


def _shifted(sequence: Tensor, newest: Tensor) -> Tensor:
    """`sequence` (B, T, ...) without its first, and with `newest` (B, 1, ...) as its last."""
    return torch.cat([sequence[:, 1:], newest], 1)
