"""The mask decoder of SAM for many prompts on one image, in fewer operations.

The published decoder repeats the image for every prompt and projects each of its places anew. But a
prompt has a handful of tokens, and the image is the same for all, so that by linearity

- what the first layer needs of the image is worked out once;
- the projections of places are moved to the tokens: q . (W k) = (W' q) . k, and sums over places
  weighted by attention are projected after the sum;
- the predicted IoU is known before the masks are, and masks below the threshold are never made;
- nor is the part of a mask that lies in the image's padding.

The result is that of the published modules up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# A CPU is fastest with as few prompts at once as its caches hold.
_CPU_PROMPTS = 4


@dataclass(frozen=True, eq=False)
class _Attention:
    """Weights of an attention by head: projections (H, c, C), their biases (H, 1, c)."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_bias: Tensor
    k_bias: Tensor
    v_bias: Tensor
    out: Tensor
    out_bias: Tensor

    @staticmethod
    def of(module: Any, dtype: torch.dtype) -> _Attention:
        heads = module.num_heads
        scale = 1 / math.sqrt(math.sqrt(module.internal_dim // heads))

        def split(linear: Any, factor: float = 1.0) -> tuple[Tensor, Tensor]:
            weight, bias = linear.weight.detach() * factor, linear.bias.detach() * factor
            width = len(bias) // heads
            return weight.reshape(heads, width, -1).to(dtype), bias.reshape(heads, 1, width)

        (q, q_bias), (k, k_bias) = split(module.q_proj, scale), split(module.k_proj, scale)
        v, v_bias = split(module.v_proj)
        out = module.out_proj.weight.detach().T.reshape(heads, v.shape[1], -1).to(dtype)
        bias = module.out_proj.bias.detach()
        return _Attention(
            q, k, v, q_bias.to(dtype), k_bias.to(dtype), v_bias.to(dtype), out, bias.to(dtype)
        )


@dataclass(frozen=True, eq=False)
class SharedImage:
    """What all prompts on an image share: `places` (P, C), and projections by head (H, P, c)."""

    side: tuple[int, int]
    places: Tensor
    first_k: Tensor
    first_v: Tensor
    first_q: Tensor
    # Position encodings, projected as keys and queries of the attentions that come later.
    second_k: Tensor
    second_q: Tensor
    final_k: Tensor


class FoldedDecoder:
    """The weights of a `segment_anything` MaskDecoder, arranged for many prompts, in `dtype`.

    The weights are copied: make a new one after the module's have changed or moved.
    """

    def __init__(self, decoder: Any, dtype: torch.dtype) -> None:
        transformer = decoder.transformer
        self._decoder, self._dtype = decoder, dtype
        self._layers = transformer.layers
        self._to_image = [
            _Attention.of(a, dtype)
            for a in (
                *(layer.cross_attn_token_to_image for layer in self._layers),
                transformer.final_attn_token_to_image,
            )
        ]
        self._to_tokens = [
            _Attention.of(layer.cross_attn_image_to_token, dtype) for layer in self._layers
        ]
        first, norm, _, second, _ = decoder.output_upscaling
        self._first, self._norm, self._second = (
            _as_linear(first, dtype),
            norm,
            _as_linear(second, dtype),
        )

    @staticmethod
    def fits(decoder: nn.Module) -> bool:
        """Whether `decoder` is one of two layers as published."""
        transformer = getattr(decoder, "transformer", None)
        return len(getattr(transformer, "layers", ())) == 2

    def share(self, features: Tensor, positions: Tensor, dense: Tensor) -> SharedImage:
        """Of image features, their position encodings and the dense prompt, (1, C, h, w) each."""
        height, width = features.shape[2:]
        places = (features + dense).flatten(2)[0].T.to(self._dtype)
        positions = positions.flatten(2)[0].T.to(self._dtype)
        first, second, final = self._to_image
        back, again = self._to_tokens
        both = places + positions
        return SharedImage(
            (height, width),
            places.contiguous(),
            both @ first.k.mT + first.k_bias,
            places @ first.v.mT + first.v_bias,
            both @ back.q.mT + back.q_bias,
            # A bias of the keys adds the same to all places and falls out of the softmax.
            positions @ second.k.mT,
            positions @ again.q.mT + again.q_bias,
            positions @ final.k.mT,
        )

    def decode(
        self, image: SharedImage, sparse: Tensor, least_iou: float, shown: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (K, 4 h, 4 w) and predicted IoU (K,) of the masks that pass.

        `sparse` (N, T, C) prompt tokens, three masks each, of which those with a predicted IoU
        above `least_iou` are made; `shown` the rows h and columns w of the features to make.
        """
        batch = _CPU_PROMPTS if sparse.device.type == "cpu" else len(sparse)
        parts = [self._part(image, part, least_iou, shown) for part in torch.split(sparse, batch)]
        return torch.cat([low for low, _ in parts]), torch.cat([iou for _, iou in parts])

    def _part(
        self, image: SharedImage, sparse: Tensor, least_iou: float, shown: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        tokens, places = self._transform(image, sparse)
        decoder = self._decoder
        iou = decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
        passing = iou > least_iou
        some = passing.any(1)
        heads = decoder.output_hypernetworks_mlps[1:]
        hyper = torch.stack([head(tokens[some, 2 + i]) for i, head in enumerate(heads)], 1)
        low = self._masks(image, places[some], hyper, shown)
        return low[passing[some]].float(), iou[passing].float()

    def _transform(self, image: SharedImage, sparse: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 5 + T, C) and places (N, P, C) after the two-way transformer."""
        decoder, transformer = self._decoder, self._decoder.transformer
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        start = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)
        first, second = self._layers

        tokens = first.norm1(first.self_attn(start, start, start))
        # Here all prompts look at the same places.
        q = _by_head(tokens + start, self._to_image[0].q, self._to_image[0].q_bias)
        looked = (q @ image.first_k.mT).softmax(-1) @ image.first_v
        tokens = first.norm2(tokens + _joined(looked, self._to_image[0], len(sparse)))
        tokens = first.norm3(tokens + first.mlp(tokens))
        k = _by_head(tokens + start, self._to_tokens[0].k, self._to_tokens[0].k_bias)
        scores = _by_prompt(k @ image.first_q.mT, len(sparse))
        everywhere = image.places.expand(len(sparse), -1, -1)
        places = _answered(self._to_tokens[0], scores, tokens, everywhere, first.norm4)

        q = tokens + start
        tokens = second.norm1(tokens + second.self_attn(q, q, tokens))
        looked = _looked(self._to_image[1], tokens + start, places, image.second_k)
        tokens = second.norm2(tokens + looked)
        tokens = second.norm3(tokens + second.mlp(tokens))
        k = _by_head(tokens + start, self._to_tokens[1].k, self._to_tokens[1].k_bias)
        scores = _scores(k, self._to_tokens[1].q, places, image.second_q)
        places = _answered(self._to_tokens[1], scores, tokens, places, second.norm4)

        looked = _looked(self._to_image[2], tokens + start, places, image.final_k)
        return transformer.norm_final_attn(tokens + looked), places

    def _masks(
        self, image: SharedImage, places: Tensor, hyper: Tensor, shown: tuple[int, int]
    ) -> Tensor:
        """Logits (N, M, 4 h, 4 w) of places (N, P, C) and mask weights (N, M, c)."""
        rows, columns = shown
        number, width = len(places), places.shape[-1]
        seen = places.reshape(number, *image.side, width)[:, :rows, :columns].reshape(-1, width)
        fine = functional.linear(seen, *self._first)
        fine = fine.reshape(-1, len(self._norm.weight))
        scale, shift = (t.to(self._dtype) for t in (self._norm.weight, self._norm.bias))
        fine = functional.layer_norm(fine, fine.shape[1:], scale, shift, self._norm.eps)
        finer = functional.linear(functional.gelu(fine), *self._second)
        finer = functional.gelu(finer).reshape(number, rows * columns * 16, hyper.shape[-1])
        logits = hyper.to(self._dtype) @ finer.mT
        logits = logits.reshape(number, hyper.shape[1], rows, columns, 2, 2, 2, 2)
        logits = logits.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(number, hyper.shape[1], rows * 4, columns * 4)


def _as_linear(convolution: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A transposed convolution of stride and side 2 as weights (4 D, C) and biases (4 D,)."""
    weight = convolution.weight.detach().permute(2, 3, 1, 0)
    bias = convolution.bias.detach().repeat(4)
    return weight.reshape(-1, weight.shape[-1]).to(dtype).contiguous(), bias.to(dtype)


def _by_head(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Tokens (N, T, C) projected by head: (H, N T, c)."""
    return tokens.flatten(0, 1).to(weight.dtype) @ weight.mT + bias


def _by_prompt(values: Tensor, number: int) -> Tensor:
    """(H, N T, X) as (N, H T, X)."""
    heads, _, width = values.shape
    return values.reshape(heads, number, -1, width).transpose(0, 1).reshape(number, -1, width)


def _joined(values: Tensor, attention: _Attention, number: int) -> Tensor:
    """The output projection (N, T, C) of values by head (H, N T, c)."""
    summed = (values @ attention.out).sum(0) + attention.out_bias
    return summed.reshape(number, -1, summed.shape[-1]).float()


def _scores(mine: Tensor, weight: Tensor, places: Tensor, positions: Tensor) -> Tensor:
    """(N, H T, P) of projected tokens (H, N T, c) and places (N, P, C), which are not projected."""
    number = len(places)
    known = _by_prompt(mine @ positions.mT, number)
    return torch.baddbmm(known, _by_prompt(mine @ weight, number), places.mT)


def _looked(attention: _Attention, tokens: Tensor, places: Tensor, positions: Tensor) -> Tensor:
    """What tokens (N, T, C) see at places (N, P, C): (N, T, C)."""
    number, count, width = tokens.shape
    q = _by_head(tokens, attention.q, attention.q_bias)
    weights = _scores(q, attention.k, places, positions).softmax(-1)
    seen = (weights @ places).reshape(number, -1, count, width).transpose(0, 1).flatten(1, 2)
    return _joined(seen @ attention.v.mT + attention.v_bias, attention, number)


def _answered(
    attention: _Attention, scores: Tensor, tokens: Tensor, places: Tensor, norm: Any
) -> Tensor:
    """Places (N, P, C) with what they see of the tokens (N, T, C), by scores (N, H T, P)."""
    number, count, _ = tokens.shape
    weights = scores.reshape(number, -1, count, scores.shape[-1]).softmax(2).flatten(1, 2)
    v = _by_head(tokens, attention.v, attention.v_bias) @ attention.out
    # The weights of each head sum to one: each brings its share of the bias.
    v = _by_prompt(v + attention.out_bias / len(v), number)
    seen = torch.baddbmm(places, weights.mT, v)
    scale, shift = norm.weight.to(seen.dtype), norm.bias.to(seen.dtype)
    return functional.layer_norm(seen, seen.shape[-1:], scale, shift, norm.eps)
