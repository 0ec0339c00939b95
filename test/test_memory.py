"""SAM 2's memory on a stream: it follows, it forgets, and it does not grow."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VideoModel, Sam2VisionConfig

from robot_perception.core.segmentation.memory import VideoMemory
from robot_perception.core.segmentation.promptable import Encoded
from robot_perception.core.segmentation.sam2 import PromptableSam2
from robot_perception.core.segmentation.tracking import Tracker

SIDE = 64


@pytest.fixture(scope="module")
def model() -> PromptableSam2:
    """SAM 2's memory attention, memory encoder and decoder with random weights, in small."""
    torch.manual_seed(0)
    trunk = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
        image_size=[SIDE, SIDE], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=trunk, backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = Sam2VideoConfig(
        vision_config=vision, image_size=SIDE, prompt_encoder_config={"image_size": SIDE},
        memory_attention_rope_feat_sizes=[4, 4], memory_attention_num_layers=1,
    )  # fmt: skip
    return PromptableSam2(Sam2VideoModel(config).eval(), "sam2.1:small")


def image(model: PromptableSam2, shift: int) -> Encoded:
    rgb = np.full((48, 64, 3), 60, np.uint8)
    rgb[10:30, 5 + shift : 25 + shift] = (220, 40, 40)
    return model.encode(rgb)


def tensors() -> tuple[int, int]:
    """How many tensors there are, and their elements."""
    gc.collect()
    alive = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return len(alive), sum(t.numel() for t in alive)


@pytest.mark.parametrize("frames", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_a_stream_does_not_grow(model: PromptableSam2, frames: int) -> None:
    memory = VideoMemory(model, most=1)
    seen = [image(model, 4 * i) for i in range(8)]
    labels = np.zeros((48, 64), np.int32)
    labels[10:30, 5:25] = 1
    counts = []
    for i in range(frames):
        predicted = memory.predict(seen[i % 8])
        assert predicted.shape == (48, 64) and set(np.unique(predicted)) <= {0, 7}
        memory.learn(labels, np.array([7]))
        if i in (20, frames - 1):  # sixteen pointers are the most it keeps
            counts.append(tensors())
    assert memory.ids == [7]
    assert counts[0] == counts[1]


def test_the_memory_is_that_of_the_makers_session(model: PromptableSam2) -> None:
    """What is dropped was not looked at: a session that keeps everything predicts the same."""
    bounded, unbounded = VideoMemory(model, most=1), VideoMemory(model, most=1)
    unbounded._forget = lambda session: None  # type: ignore[method-assign]
    mask = np.zeros((48, 64), np.int32)
    mask[10:30, 5:25] = 1
    for i in range(20):
        seen = image(model, i)
        for memory in (bounded, unbounded):
            memory.predict(seen)
            memory.learn(mask, np.array([3]))
    last = image(model, 21)
    logits = []
    for memory in (bounded, unbounded):
        memory._frame += 1
        with torch.inference_mode():
            memory._see(last)
            logits.append(memory._run(memory._sessions[3])[0])
    torch.testing.assert_close(logits[0], logits[1])
    assert len(unbounded._sessions[3].output_dict_per_obj[0]["non_cond_frame_outputs"]) == 20


def test_segments_nobody_finds_are_given_up(model: PromptableSam2) -> None:
    memory = VideoMemory(model, most=1)
    labels = np.ones((48, 64), np.int32)
    memory.predict(image(model, 0))
    memory.learn(labels, np.array([5]))
    for _ in range(31):
        assert memory.ids == [5]
        memory.learn(labels, np.array([6]))
    assert memory.ids == [6]


def test_ids_follow_a_prediction() -> None:
    """A thing that jumps keeps its id where the memory has seen the jump, and only there."""
    before, after = np.zeros((20, 40), np.int32), np.zeros((20, 40), np.int32)
    before[5:15, 2:12], after[5:15, 25:35] = 1, 1
    tracker = Tracker(0.3, 5)
    (first,) = tracker.step(before, 1)
    tracker.expect((after * first).astype(np.int32))
    assert tracker.step(after, 1)[0] == first
    for _ in range(8):  # lost, and its id given up by the tracker alone
        tracker.step(np.zeros((20, 40), np.int32), 0)
    tracker.expect((before * first).astype(np.int32))
    assert tracker.step(before, 1)[0] == first
    assert tracker.step(after, 1)[0] != first
