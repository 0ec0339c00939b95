"""ATPPNet: Attention-based Temporal Point cloud Prediction Network (Pal et al., ICRA 2024).

The network as published, so that its checkpoints give its results: an encoder of each past image;
at each of three scales ConvLSTMs over the past and, with attention over their states, into the
future; pointwise 3-D convolutions beside the coarsest; a decoder of each future image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robot_perception.core.forecast.atppnet_layers import Up, WrappedConv, down
from robot_perception.core.forecast.atppnet_recurrent import Recurrence

# Images that it sees and images that it predicts: the 3-D branch needs as many of one as of the
# other, and there is a scale and an offset for each.
STEPS = 5
# What the height and the width of its images are multiples of.
ROWS, COLUMNS = 8, 64

_WIDTHS = (16, 32, 64, 128)
_VOLUME = 256
_NO_RETURN = -1.0


class ATPPNet(nn.Module):
    """Past range images (B, 5, H, W) in metres, 0 without return, oldest first, to the next five.

    Returns range (B, 5, H, W) in `min_range_m`..`max_range_m` and the logit of a return, of the
    same shape: there is one where it is not negative. H is a multiple of 8, W of 64; the weights
    fit any.
    """

    def __init__(self, min_range_m: float, max_range_m: float) -> None:
        super().__init__()
        self.min_range_m, self.max_range_m = min_range_m, max_range_m
        self.stem = nn.Conv2d(1, _WIDTHS[0], 1)
        pairs = list(zip(_WIDTHS[:-1], _WIDTHS[1:], strict=True))
        self.down = nn.ModuleList(down(a, b) for a, b in pairs)
        # One for all scales.
        self.time_norm = nn.BatchNorm3d(STEPS)
        self.scales = nn.ModuleList(Recurrence(c) for c in _WIDTHS[1:])
        coarsest = _WIDTHS[-1]
        self.volume = nn.Sequential(
            nn.Conv3d(coarsest, _VOLUME, 1), nn.Conv3d(_VOLUME, coarsest, 1)
        )
        self.join = WrappedConv(2 * coarsest, coarsest)
        self.up = nn.ModuleList(Up(b, a, skip=b != coarsest) for a, b in reversed(pairs))
        self.head = nn.Conv2d(_WIDTHS[0], 2, 1)

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        pyramid = self.encode(past)
        future = [
            scale(features, self.time_norm)
            for scale, features in zip(self.scales, pyramid, strict=True)
        ]
        *skips, coarsest = (features.flatten(0, 1) for features in future)
        beside = self._beside(pyramid[-1]).flatten(0, 1)
        features = self.join(torch.cat([coarsest, beside], 1))
        for up, skip in zip(self.up, [None, *reversed(skips)], strict=True):
            features = up(features, skip)
        # In half precision a range would be right to a third of a metre only.
        with torch.autocast(features.device.type, enabled=False):
            found = self.head(features.float())
            shares, logits = found.reshape(len(past), STEPS, *found.shape[1:]).unbind(2)
            span = self.max_range_m - self.min_range_m
            return self.min_range_m + span * torch.sigmoid(shares), logits

    def encode(self, past: Tensor) -> list[Tensor]:
        """Features (B, 5, C, h, w) of each past image by itself, at three scales, finest first."""
        images = torch.where(past > 0, past, _NO_RETURN).flatten(0, 1)[:, None]
        features, pyramid = self.stem(images), []
        for layer in self.down:
            features = layer(features)
            pyramid.append(features.reshape(len(past), STEPS, *features.shape[1:]))
        return pyramid

    def _beside(self, features: Tensor) -> Tensor:
        """What the 3-D branch adds for each future step (B, 5, C, h, w).

        The memory of (step, channel) is read as (channel, step), and that of the answer the other
        way round: no transposition, and so it was published.
        """
        batch, steps, channels, *size = features.shape
        mixed: Tensor = self.volume(features.reshape(batch, channels, steps, *size))
        return mixed.reshape(batch, steps, channels, *size)
