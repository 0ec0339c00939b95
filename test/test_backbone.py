"""DINO features: official checkpoints, no prefix tokens, one forward for all who ask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from robot_perception.core.backbone import Backbone, Layer
from robot_perception.core.config import RevisitConfig, SegmentationConfig
from robot_perception.core.errors import WeightsRejected
from robot_perception.core.types import ImageFrame, Revisit, Segmentation
from robot_perception.pipeline.perception import Pipeline, Tasks

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of the official DINO files, which is timm's without a head."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "dino.pth"
    torch.save(timm.create_model(NAME, num_classes=0).state_dict(), path)
    return path


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


def test_features_are_those_of_the_model_without_its_class_token(checkpoint: Path) -> None:
    backbone = Backbone(NAME, str(checkpoint), "cpu")
    rgb = picture()
    features = backbone.features(rgb)
    # 518 pixels on the longer side, in multiples of 16.
    assert features.shape == (24, 32, 192)
    tokens: list[torch.Tensor] = []
    backbone._model.norm.register_forward_hook(lambda *hook: tokens.append(hook[2]))
    again = backbone.features(rgb.copy())
    np.testing.assert_array_equal(features, again)
    np.testing.assert_allclose(again.reshape(-1, 192), tokens[0][0, 1:].numpy(), atol=1e-5)


def test_blocks_and_facets_are_those_of_the_model(checkpoint: Path) -> None:
    backbone, rgb = Backbone(NAME, str(checkpoint), "cpu"), picture()
    layers = [Layer(3, facet) for facet in ("token", "query", "key", "value")]
    watched = [backbone.watch(layer) for layer in (*layers, Layer(-1, "value"), Layer())]
    assert watched[4] == Layer(11, "value") and watched[5] == Layer(11, "token")
    found = [backbone.features(rgb, layer).reshape(-1, 192) for layer in watched]
    assert backbone.forwards == 1
    np.testing.assert_array_equal(found[5], backbone.features(rgb).reshape(-1, 192))
    # The third block's output is what the fourth takes: its attention's projections of that.
    third = backbone.watch(Layer(2))
    tokens = torch.from_numpy(backbone.features(rgb, third).reshape(1, -1, 192))
    block = backbone._model.blocks[3]
    with torch.no_grad():
        projected = block.attn.qkv(block.norm1(tokens))[0].reshape(-1, 3, 192)
    for i in range(3):
        np.testing.assert_allclose(found[1 + i], projected[:, i].numpy(), atol=1e-4)
    with pytest.raises(WeightsRejected, match="12 blocks"):
        backbone.watch(Layer(12, "value"))


def test_segments_are_pooled_to_unit_length(checkpoint: Path) -> None:
    backbone = Backbone(NAME, str(checkpoint), "cpu")
    features = np.zeros((2, 2, 3), np.float32)
    features[0, 0], features[0, 1], features[1] = [3, 0, 0], [0, 4, 0], [0, 0, 5]
    labels = np.kron(np.array([[7, 7], [9, 9]]), np.ones((10, 10), int))
    pooled = backbone.pool(features, labels, np.array([7, 9]))
    np.testing.assert_allclose(pooled, [[0.6, 0.8, 0], [0, 0, 1]], atol=1e-6)


def test_one_forward_serves_segmentation_and_revisit(checkpoint: Path) -> None:
    named = {"backbone": NAME, "backbone_checkpoint": str(checkpoint), "device": "cpu"}
    revisit = RevisitConfig(backend="dino", keyframe_period_s=0.0, fit_keyframes=1, **named)
    pipeline = Pipeline(Tasks(SegmentationConfig(**named), revisit))
    before = next(iter(pipeline._backbones.values())).forwards
    results = pipeline.step(ImageFrame(1_000_000_000, "camera", picture()))
    assert next(iter(pipeline._backbones.values())).forwards == before + 1
    assert len(pipeline._backbones) == 1
    segmentation, keyframe = results
    assert isinstance(segmentation, Segmentation) and segmentation.descriptors is not None
    norms = np.linalg.norm(segmentation.descriptors, axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    assert isinstance(keyframe, Revisit) and keyframe.backend.startswith(f"dino:{NAME} block 11")


def test_other_checkpoints_and_unknown_models_are_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsRejected):
        Backbone("vit_small_patch14_dinov2", str(checkpoint), "cpu")
    with pytest.raises(WeightsRejected):
        Backbone("no_such_model", str(checkpoint), "cpu")
    with pytest.raises(WeightsRejected):
        Backbone(NAME, "/nowhere.pth", "cpu")
