"""SAM (Kirillov et al., ICCV 2023) and MobileSAM (Zhang et al., 2023).

The models are those of the `segment_anything` and `mobile_sam` packages; loading is ours.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.nn.functional import interpolate

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.segmentation.decoder import FoldedDecoder
from robot_perception.core.segmentation.promptable import Encoded, passing
from robot_perception.core.types import U8
from robot_perception.core.weights import load_checkpoint, load_into, pick_device

VARIANTS = ("vit_t", "vit_b", "vit_l", "vit_h")


class PromptableSam:
    """`model` behind the Promptable interface; encoder and decoder run in `precision`.

    `folded`: many prompts go through FoldedDecoder, else through the published modules. `compiled`:
    the encoder is compiled for its one input size when it first runs; where that fails, it runs as
    it is, and `notice` says so.
    """

    def __init__(
        self,
        model: Sam,
        name: str = "sam",
        precision: torch.dtype = torch.float32,
        folded: bool = True,
        compiled: bool = False,
    ) -> None:
        self.model = model
        self.name = name
        self.notice = ""
        self._precision = precision
        self._wants_folded = folded
        self._folded: FoldedDecoder | None = None
        encoder = model.image_encoder
        self._encoder = torch.compile(encoder, dynamic=False) if compiled else encoder
        self._resize = ResizeLongestSide(model.image_encoder.img_size)

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def to_cpu(self) -> None:
        self.model.cpu()
        self._folded = None

    @torch.inference_mode()
    def encode(self, rgb: U8) -> Encoded:
        pixels = torch.as_tensor(self._resize.apply_image(rgb), device=self.device)
        height, width = pixels.shape[:2]
        inputs = self.model.preprocess(pixels.permute(2, 0, 1)[None].contiguous())
        with self._autocast():
            features = self._features(inputs).float()
        return Encoded((rgb.shape[0], rgb.shape[1]), features, (height / 4, width / 4))

    def _features(self, inputs: Tensor) -> Tensor:
        try:
            return cast("Tensor", self._encoder(inputs))
        except TorchDynamoException as error:
            self._encoder = self.model.image_encoder
            self.notice = f"the encoder was not compiled: {str(error).strip().splitlines()[0]}"
            return cast("Tensor", self._encoder(inputs))

    @torch.inference_mode()
    def decode(
        self, image: Encoded, points: Tensor, labels: Tensor, several: bool
    ) -> tuple[Tensor, Tensor]:
        encoder = self.model.prompt_encoder
        with self._autocast():
            low, iou = self.model.mask_decoder(
                image_embeddings=image.features.to(self.device),
                image_pe=encoder.get_dense_pe(),
                sparse_prompt_embeddings=self._sparse(image, points, labels),
                dense_prompt_embeddings=self._dense().expand(len(points), -1, -1, -1),
                multimask_output=several,
            )
        return low.float(), iou.float()

    @torch.inference_mode()
    def decode_passing(
        self, image: Encoded, points: Tensor, labels: Tensor, least_iou: float
    ) -> tuple[Tensor, Tensor]:
        decoder = self.model.mask_decoder
        if not (self._wants_folded and FoldedDecoder.fits(decoder)):
            return passing(*self.decode(image, points, labels, several=True), least_iou)
        if self._folded is None:
            self._folded = FoldedDecoder(decoder, self._precision)
        encoder = self.model.prompt_encoder
        shared = self._folded.share(
            image.features.to(self.device), encoder.get_dense_pe(), self._dense()
        )
        sparse = self._sparse(image, points, labels)
        # One low-resolution pixel beyond the image takes part in its upsampling; four are a place.
        rows, columns = (
            min(side, math.ceil((math.ceil(valid) + 1) / 4))
            for side, valid in zip(shared.side, image.valid, strict=True)
        )
        return self._folded.decode(shared, sparse, least_iou, (rows, columns))

    @torch.inference_mode()
    def upsample(self, image: Encoded, low: Tensor) -> Tensor:
        # As Sam.postprocess_masks, but for logits that lack the padding.
        padded = interpolate(low[:, None], scale_factor=4, mode="bilinear", align_corners=False)
        rows, columns = (round(valid * 4) for valid in image.valid)
        logits: Tensor = interpolate(
            padded[..., :rows, :columns], image.size, mode="bilinear", align_corners=False
        )
        return logits[:, 0]

    def _sparse(self, image: Encoded, points: Tensor, labels: Tensor) -> Tensor:
        """Tokens (N, T, C) of points and corners of boxes."""
        scaled = self._resize.apply_coords_torch(points, image.size)
        box = labels.shape[1] and bool((labels > 1).any())
        # A prompt without a box is padded with a point that is none, as in training.
        if not box:
            scaled = torch.cat([scaled, scaled.new_zeros(len(scaled), 1, 2)], 1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], 1)
        encoder = self.model.prompt_encoder
        sparse: Tensor = encoder._embed_points(scaled, labels, pad=False)
        return _with_corners(encoder, sparse, scaled, labels) if box else sparse

    def _dense(self) -> Tensor:
        """The dense prompt (1, C, h, w) where no mask is given."""
        encoder = self.model.prompt_encoder
        dense: Tensor = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return dense.expand(1, -1, *encoder.image_embedding_size)

    def _autocast(self) -> torch.autocast:
        lower = self._precision != torch.float32
        return torch.autocast(self.device.type, self._precision, enabled=lower)


def _with_corners(encoder: Any, sparse: Tensor, xy: Tensor, labels: Tensor) -> Tensor:
    """Point embeddings with those of a box's corners, which `_embed_points` does not know."""
    kinds = [encoder.point_embeddings[i].weight for i in (2, 3)]
    bare = encoder.pe_layer.forward_with_coords(xy + 0.5, encoder.input_image_size)
    for label, weight in zip((2, 3), kinds, strict=True):
        sparse = torch.where((labels == label)[..., None], bare + weight, sparse)
    return sparse


def load_sam(config: SegmentationConfig) -> PromptableSam:
    """The variant `config.model` with the official checkpoint; raises WeightsRejected."""
    if config.model not in VARIANTS:
        raise WeightsRejected(f"backend sam has no model {config.model}: {', '.join(VARIANTS)}")
    state = load_checkpoint(config.checkpoint)
    model = build(config.model)
    load_into(model, state)
    precision = getattr(torch, config.precision)
    device = pick_device(config.device)
    folded = config.decoder == "folded"
    name = f"sam:{config.model}"
    return PromptableSam(model.to(device).eval(), name, precision, folded, config.compile)


def build(variant: str) -> Sam:
    """The published model with random weights."""
    if variant != "vit_t":
        return sam_model_registry[variant](checkpoint=None)
    from mobile_sam import sam_model_registry as mobile

    # Only the encoder differs: in the SAM of `segment_anything` both go the same way.
    tiny = mobile["vit_t"](checkpoint=None)
    mean, std = ([float(v) for v in t.flatten()] for t in (tiny.pixel_mean, tiny.pixel_std))
    return Sam(tiny.image_encoder, *_heads(), mean, std).eval()


def _heads() -> tuple[Any, Any]:
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    prompts = PromptEncoder(256, (64, 64), (1024, 1024), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=transformer,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=256,
    )
    return prompts, decoder
