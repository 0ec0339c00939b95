"""SAM 2.1 (Ravi et al., "SAM 2: Segment Anything in Images and Videos", 2024).

The model is that of `transformers`; the official checkpoint's names are turned into its own.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resize
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.segmentation.promptable import Encoded, passing
from robot_perception.core.types import U8
from robot_perception.core.weights import load_checkpoint, load_into, pick_device

_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

# Width, heads, blocks in each stage, blocks of global attention, windows, background of the window
# position embedding: table 12 of the paper, and the published configurations.
_VARIANTS: dict[str, tuple[int, int, list[int], list[int], list[int], list[int]]] = {
    "tiny": (96, 1, [1, 2, 7, 2], [5, 7, 9], [8, 4, 14, 7], [7, 7]),
    "small": (96, 1, [1, 2, 11, 2], [7, 10, 13], [8, 4, 14, 7], [7, 7]),
    "base_plus": (112, 2, [2, 3, 16, 3], [12, 16, 20], [8, 4, 14, 7], [14, 14]),
    "large": (144, 2, [2, 6, 36, 4], [23, 33, 43], [8, 4, 16, 8], [7, 7]),
}

# Official names to those of transformers, in this order.
_NAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
    (r"pe_layer\.positional_encoding_gaussian_matrix$", "shared_embedding.positional_embedding"),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"mlp\.layers\.0\.", "mlp.proj_in."),
    (r"mlp\.layers\.1\.", "mlp.proj_out."),
    (r"(mlps\.\d+|_head|pointer_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d+|_head|pointer_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(mlps\.\d+|_head|pointer_proj)\.layers\.2\.", r"\1.proj_out."),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.gamma$", ".scale"),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv([12])\.", r".pointwise_conv\1."),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.out_proj\.", ".o_proj."),
)
_DOWNSAMPLER = re.compile(r"mask_downsampler\.encoder\.(\d+)\.")
_POINTS = "sam_prompt_encoder.point_embeddings.{}.weight"


class PromptableSam2:
    """`model` behind the Promptable interface; encoder and decoder run in `precision`."""

    def __init__(self, model: Any, name: str, precision: torch.dtype = torch.float32) -> None:
        self.model = model
        self.name = name
        self.notice = ""
        self._precision = precision

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def to_cpu(self) -> None:
        self.model.cpu()

    @torch.inference_mode()
    def encode(self, rgb: U8) -> Encoded:
        with self._autocast():
            features = self.model.get_image_embeddings(self.pixels(rgb))
        low = float(self.model.image_size // 4)
        return Encoded((rgb.shape[0], rgb.shape[1]), [f.float() for f in features], (low, low))

    def pixels(self, rgb: U8) -> Tensor:
        """The model's input (1, 3, 1024, 1024): scaled to that size whatever the shape."""
        side = self.model.image_size
        image = torch.from_numpy(rgb).to(self.device).permute(2, 0, 1).float() / 255
        scaled: Tensor = resize(image, [side, side], antialias=True)
        normal: Tensor = (scaled - _MEAN.to(self.device)) / _STD.to(self.device)
        return normal[None]

    @torch.inference_mode()
    def decode(
        self, image: Encoded, points: Tensor, labels: Tensor, several: bool
    ) -> tuple[Tensor, Tensor]:
        size = points.new_tensor([image.size[1], image.size[0]])
        # A box's corners (labels 2 and 3) are points to this model; it pads by itself.
        scaled = (points / size * self.model.image_size).float()
        with self._autocast():
            sparse, dense = self.model.prompt_encoder(scaled[None], labels[None], None, None)
            *fine, coarse = (feature.to(self.device) for feature in image.features)
            low, iou, _, _ = self.model.mask_decoder(
                image_embeddings=coarse,
                image_positional_embeddings=self.model.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=several,
                high_resolution_features=fine,
            )
        return low[0].float().clamp(-32, 32), iou[0].float()

    def decode_passing(
        self, image: Encoded, points: Tensor, labels: Tensor, least_iou: float
    ) -> tuple[Tensor, Tensor]:
        return passing(*self.decode(image, points, labels, several=True), least_iou)

    @torch.inference_mode()
    def upsample(self, image: Encoded, low: Tensor) -> Tensor:
        logits: Tensor = interpolate(low[:, None], image.size, mode="bilinear", align_corners=False)
        return logits[:, 0]

    def _autocast(self) -> torch.autocast:
        lower = self._precision != torch.float32
        return torch.autocast(self.device.type, self._precision, enabled=lower)


def load_sam2(config: SegmentationConfig) -> PromptableSam2:
    """The variant `config.model` with the official checkpoint; raises WeightsRejected."""
    if config.model not in _VARIANTS:
        known = ", ".join(_VARIANTS)
        raise WeightsRejected(f"backend sam2 has no model {config.model}: {known}")
    state = load_checkpoint(config.checkpoint)
    model = build(config.model)
    load_into(model, renamed(state))
    precision = getattr(torch, config.precision)
    device = pick_device(config.device)
    return PromptableSam2(model.to(device).eval(), f"sam2.1:{config.model}", precision)


def build(variant: str) -> Any:
    """The published model with random weights."""
    width, heads, blocks, global_blocks, windows, background = _VARIANTS[variant]
    trunk = Sam2HieraDetConfig(
        hidden_size=width,
        num_attention_heads=heads,
        blocks_per_stage=blocks,
        embed_dim_per_stage=[width * 2**i for i in range(4)],
        num_attention_heads_per_stage=[heads * 2**i for i in range(4)],
        window_size_per_stage=windows,
        global_attention_blocks=global_blocks,
        window_positional_embedding_background_size=background,
    )
    channels = [width * 2**i for i in reversed(range(4))]
    vision = Sam2VisionConfig(backbone_config=trunk, backbone_channel_list=channels)
    model: Any = Sam2VideoModel(Sam2VideoConfig(vision_config=vision))
    return model.eval()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official checkpoint under the names of transformers' model.

    Raises WeightsRejected where the four point embeddings, which become one tensor, are missing.
    """
    state = dict(state)
    parts = [state.pop(_POINTS.format(i), None) for i in range(4)]
    points = [part for part in parts if part is not None]
    if len(points) != 4:
        raise WeightsRejected("weights of another model: no point embeddings of SAM 2")
    new = {_rename(name): tensor for name, tensor in state.items()}
    new["prompt_encoder.point_embed.weight"] = torch.cat(points)
    shared = new.get("prompt_encoder.shared_embedding.positional_embedding")
    if shared is not None:
        new["shared_image_embedding.positional_embedding"] = shared
    return new


def _rename(name: str) -> str:
    for old, new in _NAMES:
        name = re.sub(old, new, name)
    found = _DOWNSAMPLER.search(name)
    if found is None:
        return name
    # Convolution, norm and activation take turns.
    layer, kind = divmod(int(found[1]), 3)
    part = ("conv", "layer_norm")[kind] if kind < 2 else "?"
    return _DOWNSAMPLER.sub(f"mask_downsampler.layers.{layer}.{part}.", name)
