"""ATPPNet: Attention-based Temporal Point cloud Prediction Network (Pal et al., ICRA 2024).

Written from the paper's description: a convolutional encoder; at each of its three scales a stack
of ConvLSTMs over the past, channel and spatial attention over their hidden states, and a stack of
ConvLSTMs that decodes the future step by step; a 3-D convolutional branch beside them; a decoder
with heads for range and for the probability of a return. What the paper leaves open (widths of the
up-sampling path, normalisation) is chosen to meet its parameter count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SCALES = (32, 64, 128)
_STRIDE = (2, 4)
_LAYERS = 3


class ATPPNet(nn.Module):
    """Past range images (B, P, H, W) in metres to T future ones.

    Returns range (B, T, H, W) in `min_range_m`..`max_range_m` and the logit of a return, of the
    same shape. H is a multiple of 8, W of 64.
    """

    def __init__(self, future: int, min_range_m: float, max_range_m: float) -> None:
        super().__init__()
        self.future = future
        self.min_range_m, self.max_range_m = min_range_m, max_range_m
        self.stem = _block(1, 16)
        widths = (16, *_SCALES)
        self.down = nn.ModuleList(
            _block(a, b, _STRIDE)
            if b == _SCALES[-1]
            else nn.Sequential(_block(a, b, _STRIDE), _block(b, b))
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.past = nn.ModuleList(ConvLSTM(c, c, _LAYERS) for c in _SCALES)
        self.attend = nn.ModuleList(Attention(c) for c in _SCALES)
        self.ahead = nn.ModuleList(ConvLSTM(2 * c, c, _LAYERS) for c in _SCALES)
        self.volume = nn.ModuleList(nn.Conv3d(c, c, 3, padding=1) for c in _SCALES)
        self.up = nn.ModuleList(
            _Up(a, b) for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.range_head = nn.Conv2d(16, 1, 1)
        self.mask_head = nn.Conv2d(16, 1, 1)

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        batch, steps = past.shape[:2]
        scaled = (past / self.max_range_m).flatten(0, 1)[:, None]
        stem = self.stem(scaled)
        pyramid, features = [], stem
        for down in self.down:
            features = down(features)
            pyramid.append(features.reshape(batch, steps, *features.shape[1:]))
        # The branch sees all of the past at once; what it finds joins every future step.
        decoded = [
            self._predict(scale, i) + volume(scale.transpose(1, 2))[:, :, -1:].transpose(1, 2)
            for i, (scale, volume) in enumerate(zip(pyramid, self.volume, strict=True))
        ]
        features = decoded[-1].flatten(0, 1)
        latest = stem.reshape(batch, steps, *stem.shape[1:])[:, -1]
        skips = [latest.repeat_interleave(self.future, 0)]
        skips += [scale.flatten(0, 1) for scale in decoded[:-1]]
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip)
        # In half precision a range would be right to a third of a metre only.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            span = self.max_range_m - self.min_range_m
            ranges = self.min_range_m + span * torch.sigmoid(self.range_head(features))
            logits = self.mask_head(features)
        shape = (batch, self.future, *ranges.shape[2:])
        return ranges[:, 0].reshape(shape), logits[:, 0].reshape(shape)

    def _predict(self, features: Tensor, scale: int) -> Tensor:
        """Future features (B, T, C, h, w) of one scale from the past ones (B, P, C, h, w)."""
        past, attend, ahead = self.past[scale], self.attend[scale], self.ahead[scale]
        assert isinstance(past, ConvLSTM)
        state = past.initial(features[:, 0])
        hidden = []
        for step in range(features.shape[1]):
            output, state = past(features[:, step], state)
            hidden.append(output)
        memory = torch.stack(hidden, 1)
        output, future = hidden[-1], []
        for _ in range(self.future):
            context = attend(memory, output)
            output, state = ahead(torch.cat([context, output], 1), state)
            future.append(output)
        return torch.stack(future, 1)


class ConvLSTM(nn.Module):
    """A stack of ConvLSTM cells (Shi et al., NeurIPS 2015) with 3 x 3 kernels."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.ModuleList(
            nn.Conv2d((inputs if i == 0 else hidden) + hidden, 4 * hidden, 3, padding=1)
            for i in range(layers)
        )

    def initial(self, like: Tensor) -> list[tuple[Tensor, Tensor]]:
        zero = like.new_zeros(len(like), self.hidden, *like.shape[2:])
        return [(zero, zero) for _ in self.gates]

    def forward(
        self, inputs: Tensor, state: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after = []
        for gates, (hidden, cell) in zip(self.gates, state, strict=True):
            i, f, o, g = gates(torch.cat([inputs, hidden], 1)).chunk(4, 1)
            kept = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
            inputs = torch.sigmoid(o) * torch.tanh(kept)
            after.append((inputs, kept))
        return inputs, after


class Attention(nn.Module):
    """Each past state gated by channel and by place, given the present state; then their sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(2 * channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels)
        )
        self.spatial = nn.Conv2d(4, 1, 7, padding=3)

    def forward(self, memory: Tensor, present: Tensor) -> Tensor:
        batch, steps = memory.shape[:2]
        states = memory.flatten(0, 1)
        query = present.repeat_interleave(steps, 0)
        pooled = torch.cat([states.mean((2, 3)), query.mean((2, 3))], 1)
        gated = states * torch.sigmoid(self.channel(pooled))[:, :, None, None]
        maps = [f(x) for x in (gated, query) for f in (_mean_map, _max_map)]
        gated = gated * torch.sigmoid(self.spatial(torch.cat(maps, 1)))
        return gated.reshape(batch, steps, *gated.shape[1:]).sum(1)


class _Up(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.enlarge = nn.ConvTranspose2d(inputs, outputs, _STRIDE, _STRIDE)
        self.refine = nn.Sequential(_block(2 * outputs, outputs), _block(outputs, outputs))

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        refined: Tensor = self.refine(torch.cat([self.enlarge(features), skip], 1))
        return refined


def _block(inputs: int, outputs: int, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU()
    )


def _mean_map(features: Tensor) -> Tensor:
    return features.mean(1, keepdim=True)


def _max_map(features: Tensor) -> Tensor:
    return features.amax(1, keepdim=True)
