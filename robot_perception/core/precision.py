"""Which number format a network computes in."""

from __future__ import annotations

import torch


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The format called `name`; auto: bfloat16 where the device multiplies in it, else float32."""
    if name == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
        name = "bfloat16" if native else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
