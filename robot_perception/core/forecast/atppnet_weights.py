"""Weights for ATPPNet: checkpoints of its authors' network, or what was trained here."""

from __future__ import annotations

import re
from pathlib import Path

from robot_perception.core.forecast.atppnet import ATPPNet
from robot_perception.core.weights import load_into, load_state_dict

# Names of ours, and what the authors call the same.
_NAMES = (
    (r"^stem\.", "input_layer.conv."),
    (r"^down\.(\d)\.(\d)\.0\.", r"DownLayers.\1.conv\2.conv."),
    (r"^down\.(\d)\.(\d)\.1\.", r"DownLayers.\1.norm\2.norm."),
    (r"^time_norm\.", "norm."),
    (r"^scales\.(\d)\.past\.cells\.(\d)\.", r"encoder.\1.cell_list.\2.conv."),
    (r"^scales\.(\d)\.ahead\.cells\.(\d)\.", r"decoder.\1.cell_list.\2.conv."),
    (r"^scales\.(\d)\.attend\.memory\.", r"attention.\1.W_l."),
    (r"^scales\.(\d)\.attend\.query\.", r"attention.\1.W_g."),
    (r"^scales\.(\d)\.attend\.channel\.", r"attention.\1.gate_c.gate_c_fc_reduce0."),
    (r"^scales\.(\d)\.attend\.reduce\.", r"attention.\1.gate_s.gate_s_conv_reduce0."),
    (r"^scales\.(\d)\.attend\.spread\.", r"attention.\1.gate_s.gate_s_conv_reduce_di_0."),
    (r"^scales\.(\d)\.attend\.place\.", r"attention.\1.gate_s.gate_s_conv_final."),
    (r"^volume\.0\.", "CNN3D_block.input_layer.conv."),
    (r"^volume\.1\.", "CNN3D_block.output_layer.conv."),
    (r"^join\.", "conv_skip.conv."),
    (r"^up\.(\d)\.merge\.0\.", r"UpLayers.\1.conv_skip.conv."),
    (r"^up\.(\d)\.merge\.1\.", r"UpLayers.\1.norm_skip.norm."),
    (r"^up\.(\d)\.enlarge\.0\.", r"UpLayers.\1.conv0."),
    (r"^up\.(\d)\.enlarge\.1\.", r"UpLayers.\1.norm0.norm."),
    (r"^up\.(\d)\.refine\.0\.", r"UpLayers.\1.conv1.conv."),
    (r"^up\.(\d)\.refine\.1\.", r"UpLayers.\1.norm1.norm."),
    (r"^head\.", "output_layer.conv."),
)
# In the authors' checkpoints, of no use: the mean and the deviation of all ranges.
_UNUSED = ("mean", "std")
# How often a norm was trained. Nothing depends on it.
_COUNTER = "num_batches_tracked"


def load_weights(model: ATPPNet, path: Path) -> None:
    """Fill `model` from a file of the authors' layout (Lightning's .ckpt, or its state dict alone)
    or of ours; raises WeightsRejected for anything else."""
    own = model.state_dict()
    theirs = {published_name(name): name for name in own}
    state = {
        theirs.get(name, name): tensor
        for name, tensor in load_state_dict(path).items()
        if name not in _UNUSED and not name.endswith(_COUNTER)
    }
    counters = {name: tensor for name, tensor in own.items() if name.endswith(_COUNTER)}
    load_into(model, state | counters)


def published_name(name: str) -> str:
    """What the authors call the parameter or buffer `name` of ATPPNet."""
    for ours, theirs in _NAMES:
        name, found = re.subn(ours, theirs, name)
        if found:
            return name
    raise KeyError(name)
