"""The network that chooses among what geometry proposes: stand, move on, be left out; per horizon.

In the manner of ATPPNet (Pal et al., ICRA 2024): range images, a recurrent network over the past
scans, channel and spatial attention. Unlike it: the past is warped to the present, so that what the
recurrence sees is motion and noise rather than the drive; it runs at one coarse resolution, with
multi-head attention over its states; the azimuth is circular; all horizons come in one pass; and
the answer is a choice between measured points, so no point is ever predicted in mid-air.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from robot_perception.core.forecast.features import CHANNELS, HORIZONS, LAGS

# Horizontal patch of the first layer: all further layers work on a quarter of the columns.
PATCH = 4
_WIDTHS = (24, 40, 64)
_HIDDEN, _HEADS = 32, 4
# Rows and columns of the input are multiples of these.
ROWS, COLUMNS = 4, 4 * PATCH
# Per pixel and horizon: leave out, move on, recall the memory, near if seen, near if recalled.
OUTPUTS = 5


class Selector(nn.Module):
    """Features (B, C, H, W) to logits (B, T, 5, H, W); zero, so no more than geometry, untrained.

    H is a multiple of 4, W of 16.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.patch = _Conv(CHANNELS, a, (3, PATCH + 2), (1, PATCH))
        self.fine = _Conv(a, a)
        self.middle = nn.Sequential(_Conv(a, b, stride=(2, 2)), _Conv(b, b))
        self.coarse = _Conv(b, c, stride=(2, 2))
        self.step = nn.Sequential(
            _Conv(3, 16, (3, PATCH + 2), (1, PATCH)),
            _Conv(16, 24, stride=(2, 2)),
            _Conv(24, _HIDDEN, stride=(2, 2)),
        )
        self.recur = _ConvGRU(_HIDDEN, _HIDDEN)
        self.attend = _TemporalAttention(_HIDDEN, c)
        self.channel = nn.Sequential(nn.Linear(c, c // 4), nn.ReLU(), nn.Linear(c // 4, c))
        self.spatial = _Plain(2, 1, (5, 5))
        self.join = _Conv(c + _HIDDEN, c)
        self.up_middle = _Conv(c + b, b)
        self.up_fine = _Conv(b // 2 + a, a)
        self.squeeze = nn.Conv2d(b, b // 2, 1)
        self.head = nn.Conv2d(a, HORIZONS * OUTPUTS * PATCH, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        return shuffled(self.patches(image))

    def patches(self, image: Tensor) -> Tensor:
        """The logits by patch: (B, H, W / 4, T, 5, 4)."""
        return self.at_patches(self.trunk(image))

    def at_patches(self, known: Tensor) -> Tensor:
        """The logits by patch (B, H, W / 4, T, 5, 4) from what the trunk knows of each."""
        weight, bias = self.head.weight.flatten(1), self.head.bias
        logits = F.linear(known.permute(0, 2, 3, 1), weight, bias)
        return logits.reshape(*logits.shape[:3], HORIZONS, OUTPUTS, PATCH)

    def trunk(self, image: Tensor) -> Tensor:
        """All but the head: what is known of each patch, (B, 24, H, W / 4)."""
        fine, middle, coarse = self.encoded(image)
        return self.refined(self.joined(coarse, self.states(sequence_in(image))), middle, fine)

    def encoded(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All features at three scales."""
        fine = self.fine(self.patch(image))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)

    def states(self, steps: Tensor) -> Tensor:
        """The states (B, P, C, h, w) of the recurrence over the past and the present, of which
        `steps` (P, B, 3, H, W) has log range, residual and mask."""
        seen: Tensor = self.step(steps.flatten(0, 1))
        states: Tensor = self.recur(seen.reshape(*steps.shape[:2], *seen.shape[1:]))
        return states

    def joined(self, coarse: Tensor, states: Tensor) -> Tensor:
        """What is known at the coarse scale, (B, 64, H / 4, W / 16), from `encoded`, `states`."""
        coarse = self.join(torch.cat([coarse, self.attend(coarse, states)], 1))
        coarse = coarse * torch.sigmoid(self.channel(coarse.mean((2, 3))))[:, :, None, None]
        maps = torch.cat([coarse.mean(1, keepdim=True), coarse.amax(1, keepdim=True)], 1)
        return coarse * torch.sigmoid(self.spatial(maps))

    def refined(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        """What is known of each patch, (B, 24, H, W / 4), from `joined` and `encoded`."""
        return self.at_fine(self.at_middle(coarse, middle), fine)

    def at_middle(self, coarse: Tensor, middle: Tensor) -> Tensor:
        """What is known at the middle scale, (B, 20, H / 2, W / 8)."""
        up = F.interpolate(coarse, size=middle.shape[2:], mode="nearest")
        known: Tensor = self.squeeze(self.up_middle(torch.cat([up, middle], 1)))
        return known

    def at_fine(self, known: Tensor, fine: Tensor) -> Tensor:
        """What is known of each patch, from what is at the middle scale."""
        up = F.interpolate(known, size=fine.shape[2:], mode="nearest")
        refined: Tensor = self.up_fine(torch.cat([up, fine], 1))
        return refined

    def rows(self, coarse: Tensor, middle: Tensor, fine: Tensor, first: int, last: int) -> Tensor:
        """The logits by patch of rows `first` to `last`, multiples of 4, from `joined` and
        `encoded`."""
        # With what their convolutions see beside them.
        above, below = max(first - 4, 0) // 2, min(last + 4, fine.shape[2]) // 2
        known = self.at_middle(coarse[:, :, above // 2 : below // 2], middle[:, :, above:below])
        top, bottom = max(first - 2, 0), min(last + 2, fine.shape[2])
        known = known[:, :, top // 2 - above : bottom // 2 - above]
        refined = self.at_fine(known, fine[:, :, top:bottom])
        return self.at_patches(refined[:, :, first - top : last - top])


def shuffled(patches: Tensor) -> Tensor:
    """Logits (B, H, W / 4, T, 5, 4) by patch as images (B, T, 5, H, W)."""
    images: Tensor = patches.permute(0, 3, 4, 1, 2, 5).flatten(4)
    return images


def folded(model: Selector) -> Selector:
    """The same network, to be used only, with its normalisation folded into the convolutions."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _Conv):
            convolution, normalisation = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d)
            module[0], module[1] = fuse_conv_bn_eval(convolution, normalisation), nn.Identity()
            module[2] = nn.LeakyReLU(0.1, inplace=True)
    return model.to(memory_format=torch.channels_last)


def sequence_in(image: Tensor) -> Tensor:
    """The past, oldest first, then the present: (P, B, 3, H, W) log range, residual, mask."""
    # Channels last: each step stands together in memory, as the convolutions want it.
    image = image.permute(0, 2, 3, 1)
    present = image[..., :1]
    past = [
        torch.cat([present, image[..., 2 + 2 * lag : 4 + 2 * lag]], 3)
        for lag in reversed(range(LAGS))
    ]
    now = torch.cat([present, torch.zeros_like(present), image[..., 1:2]], 3)
    return torch.stack([*past, now]).permute(0, 1, 4, 2, 3)


class _Plain(nn.Conv2d):
    """A convolution whose columns go round."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, ((kernel[0] - 1) // 2, 0))
        self._around = (kernel[1] - stride[1] + 1) // 2 if stride[1] > 2 else (kernel[1] - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_round(x, self._around) if self._around else x)


class _Conv(nn.Sequential):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(
            _Plain(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
        )


class _ConvGRU(nn.Module):
    """Convolutional gated recurrent unit (Ballas et al., ICLR 2016); gives all of its states."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = _Plain(inputs + hidden, 2 * hidden)
        self.candidate = _Plain(inputs + hidden, hidden)

    def forward(self, steps: Tensor) -> Tensor:
        gates, candidate, inputs = self.gates, self.candidate, steps.shape[2]
        # What the inputs say does not depend on the states: all steps at once.
        said = F.conv2d(
            _round(steps.flatten(0, 1)),
            torch.cat([gates.weight[:, :inputs], candidate.weight[:, :inputs]]),
            torch.cat([_bias(gates), _bias(candidate)]),
            padding=gates.padding,
        )
        states: list[Tensor] = []
        for step in said.reshape(*steps.shape[:2], *said.shape[1:]):
            opens, fresh = step.split([2 * self.hidden, self.hidden], 1)
            if not states:
                # From the state zero.
                states.append(torch.sigmoid(opens[:, self.hidden :]) * torch.tanh(fresh))
                continue
            state = states[-1]
            opens = opens + _of_state(gates, inputs, state)
            reset, update = torch.sigmoid(opens).chunk(2, 1)
            fresh = torch.tanh(fresh + _of_state(candidate, inputs, reset * state))
            states.append((1 - update) * state + update * fresh)
        return torch.stack(states, 1)


def _of_state(convolution: nn.Conv2d, inputs: int, state: Tensor) -> Tensor:
    """The part of a convolution of inputs and state, joined, that is the state's."""
    weight = convolution.weight[:, inputs:]
    return F.conv2d(_round(state), weight, padding=convolution.padding)


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def _round(x: Tensor, around: int = 1) -> Tensor:
    """The image with so many columns of the other end at each end."""
    return torch.cat([x[..., -around:], x, x[..., :around]], 3)


class _TemporalAttention(nn.Module):
    """Multi-head attention of the present, at each place, over the states (B, P, C, h, w)."""

    def __init__(self, channels: int, query: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(query, channels, 1)
        self.key = nn.Conv2d(channels, channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, present: Tensor, states: Tensor) -> Tensor:
        batch, steps, channels, height, width = states.shape
        flat = states.flatten(0, 1)
        heads = (batch, steps, _HEADS, channels // _HEADS, height, width)
        key, value = self.key(flat).reshape(heads), self.value(flat).reshape(heads)
        query = self.query(present).reshape(batch, 1, *heads[2:])
        score = (query * key).sum(3) / (channels // _HEADS) ** 0.5
        weight = torch.softmax(score, 1)[:, :, :, None]
        mixed: Tensor = self.out((weight * value).sum(1).reshape(batch, channels, height, width))
        return mixed
