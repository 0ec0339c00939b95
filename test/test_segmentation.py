"""The embedded segmenter, SAM against its reference, and ids that stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch._dynamo.exc import TorchDynamoException

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.metrics import mask_iou
from robot_perception.core.segmentation import embedded
from robot_perception.core.segmentation.automatic import everything
from robot_perception.core.segmentation.evaluate import TrackScorer
from robot_perception.core.segmentation.motion import carried
from robot_perception.core.segmentation.sam import PromptableSam, load_sam
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.segmentation.tracking import Tracker
from robot_perception.core.types import U8, ImageFrame

SHAPES = ((60, 40, 90, 80), (200, 50, 260, 140), (120, 150, 190, 210))


def scene(shift: int = 0, seed: int = 0) -> U8:
    """Three plain boxes on a plain ground, with a little noise."""
    rgb = np.full((240, 320, 3), (90, 120, 90), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(SHAPES):
        rgb[y0:y1, x0 + shift : x1 + shift] = ((200, 40, 40), (40, 40, 200), (220, 220, 60))[i]
    noise = np.random.default_rng(seed).normal(0, 2, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def test_things_are_found_and_described_truly() -> None:
    segmentation = Segmenter(SegmentationConfig()).step(ImageFrame(7, "camera", scene()))
    assert segmentation.backend == "embedded:felzenszwalb"
    assert segmentation.labels.shape == (240, 320) and segmentation.labels.dtype == np.uint16
    for x0, y0, x1, y1 in SHAPES:
        truth = np.zeros((1, 240, 320), bool)
        truth[0, y0:y1, x0:x1] = True
        masks = np.stack([segmentation.labels == s.id for s in segmentation.segments])
        assert mask_iou(masks, truth).max() > 0.85
    for segment in segmentation.segments:
        mask = segmentation.labels == segment.id
        assert mask.sum() == segment.area
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert segment.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert 0 <= segment.stability <= 1
        assert np.allclose(segmentation.confidence[mask], segment.predicted_iou)


def test_images_may_change_their_size() -> None:
    segmenter = Segmenter(SegmentationConfig())
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(240, 320), (120, 160), (120, 160), (240, 320)] * 2):
        blocks = rng.integers(0, 255, (6, 8, 3), np.uint8)
        rgb = np.kron(blocks, np.ones((height // 6, width // 8, 1), np.uint8))
        result = segmenter.step(ImageFrame(i, "camera", np.ascontiguousarray(rgb)))
        assert result.labels.shape == (height, width) and len(result.segments) > 5


def test_ids_stay_on_moving_things_and_come_back_after_a_gap() -> None:
    segmenter = Segmenter(SegmentationConfig())
    seen = []
    for i, shift in enumerate((0, 3, 6, 9)):
        result = segmenter.step(ImageFrame(i, "camera", scene(shift, i)))
        seen.append(
            [
                int(result.labels[(y0 + y1) // 2, (x0 + x1) // 2 + shift])
                for x0, y0, x1, y1 in SHAPES
            ]
        )
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert len(set(seen[0])) == 3


def test_ids_follow_things_that_move_by_more_than_their_width() -> None:
    rng = np.random.default_rng(4)
    ground = cv2.GaussianBlur(rng.uniform(60, 140, (240, 480, 3)), (0, 0), 3).astype(np.uint8)
    for k, x in enumerate(range(20, 460, 40)):  # posts 8 pixels wide, alike but for their grey
        ground[40:200, x : x + 8] = 20 * k
    config = SegmentationConfig(min_area=200)
    kept = {}
    for motion in (False, True):
        segmenter = Segmenter(replace(config, track_motion=motion))
        frames = [np.ascontiguousarray(ground[:, shift : shift + 320]) for shift in (0, 12, 24)]
        found = [segmenter.step(ImageFrame(i, "camera", rgb)) for i, rgb in enumerate(frames)]
        posts = [
            [int(s.labels[120, x - shift + 4]) for x in range(60, 300, 40)]
            for shift, s in zip((0, 12, 24), found, strict=True)
        ]
        kept[motion] = sum(a == b for row in posts[1:] for a, b in zip(row, posts[0], strict=True))
    assert kept[True] >= 10 and kept[False] <= 6  # of 12


def test_the_flow_takes_images_of_any_size() -> None:
    for shape in ((16, 16), (16, 900), (33, 40), (48, 37)):
        rgb = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
        ids = np.full(shape, 65535, np.int32)
        assert np.isin(carried(ids, rgb, np.roll(rgb, 2, 1)), (0, 65535)).all()


def test_a_lost_id_is_remembered_and_none_is_given_twice() -> None:
    tracker = Tracker(0.3, 5)
    both = np.zeros((20, 20), np.int32)
    both[2:8, 2:8], both[12:18, 12:18] = 1, 2
    only = np.where(both == 1, 1, 0).astype(np.int32)
    first = tracker.step(both, 2)
    np.testing.assert_array_equal(tracker.step(only, 1), first[:1])
    np.testing.assert_array_equal(tracker.step(both, 2), first)
    elsewhere = np.zeros((20, 20), np.int32)
    elsewhere[0:2, 10:20] = 1
    assert tracker.step(elsewhere, 1)[0] not in first


def test_ids_wrap_without_zero_or_clash() -> None:
    tracker = Tracker(0.3, 1)
    tracker._next = 65535
    labels = np.zeros((9, 9), np.int32)
    labels[0:3], labels[3:6], labels[6:9] = 1, 2, 3
    assert tracker.step(labels, 3).tolist() == [65535, 1, 2]


def test_ids_are_found_even_when_nearly_all_are_alive() -> None:
    tracker = Tracker(0.3, 5)
    many = np.arange(1, 65001, dtype=np.int32).reshape(250, 260)
    first = tracker.step(many, 65000)
    # As many other segments: those lost have to give their ids up.
    other = np.zeros((260, 250), np.int32)
    other.flat = many.ravel()
    second = tracker.step(other, 65000)
    assert len(set(first.tolist())) == len(set(second.tolist())) == 65000
    assert second.min() > 0 and second.max() <= 65535


def test_slivers_join_the_neighbour_they_resemble() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[:, 14:16], labels[:, 16:] = 1, 2
    lab = np.full((20, 30, 3), 0.2, np.float32)
    lab[:, 14:16], lab[:, 16:] = 0.7, 0.8
    merged = embedded._without_slivers(labels, lab)
    assert merged.max() == 1
    assert np.ptp(merged[:, 14:]) == 0 and np.ptp(merged[:, :14]) == 0
    np.testing.assert_array_equal(embedded._without_slivers(merged, lab), merged)


def test_tiny_images_and_unknown_weights_are_refused() -> None:
    with pytest.raises(InputRejected):
        Segmenter(SegmentationConfig()).step(ImageFrame(0, "c", np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(WeightsRejected):
        Segmenter(SegmentationConfig(backend="sam", checkpoint="/nowhere.pth"))


def small_sam() -> Sam:
    """SAM with a narrow, shallow encoder of random weights; decoder and prompts as published."""
    torch.manual_seed(1)
    encoder = ImageEncoderViT(
        depth=1, embed_dim=32, img_size=256, mlp_ratio=2, num_heads=2, patch_size=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), qkv_bias=True, use_rel_pos=True,
        global_attn_indexes=[0], window_size=4, out_chans=256,
    )  # fmt: skip
    prompts = PromptEncoder(256, (16, 16), (256, 256), 16)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=256, num_heads=8)
    decoder = MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=256,
        iou_head_depth=3, iou_head_hidden_dim=256,
    )  # fmt: skip
    model = Sam(encoder, prompts, decoder, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    # Random logits are too faint for any mask to be stable: make them stronger.
    with torch.no_grad():
        for head in decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 100
    return model.eval()


def test_everything_equals_the_reference(kitti: Path) -> None:
    """Same masks as SamAutomaticMaskGenerator with the same weights, on a real image."""
    file = sorted((kitti / "image_02" / "data").glob("*.png"))[0]
    rgb = cv2.resize(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), (320, 200))
    model = small_sam()
    thresholds = {"pred_iou_thresh": -1.0, "stability_score_thresh": 0.5, "box_nms_thresh": 0.995}
    reference = SamAutomaticMaskGenerator(
        model, points_per_side=8, crop_n_layers=0, **thresholds
    ).generate(rgb)
    config = SegmentationConfig(points_per_side=8, decoder_batch=20, **thresholds)
    found = everything(PromptableSam(model), rgb, config).masks
    theirs = np.stack([r["segmentation"] for r in reference])
    assert len(theirs) > 2
    assert abs(len(found) - len(theirs)) <= 0.02 * len(theirs)
    best = mask_iou(theirs, found).max(axis=1)
    assert best.mean() >= 0.98


def test_the_folded_decoder_equals_the_published_one() -> None:
    """The same masks and scores, without the padding and without those that do not pass."""
    model = small_sam()
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform(0, 200, (9, 1, 2)))
    labels = torch.ones((9, 1), dtype=torch.int)
    folded, published = (PromptableSam(model, folded=kind) for kind in (True, False))
    image = published.encode(scene())
    assert image.valid == (48, 64)
    every, scores = published.decode_passing(image, points, labels, -1e9)
    assert every.shape == (27, 64, 64)
    for least in (-1e9, float(scores.median()), 1e9):
        low, iou = folded.decode_passing(image, points, labels, least)
        expected, their_iou = published.decode_passing(image, points, labels, least)
        assert low.shape == (len(expected), 52, 64)
        torch.testing.assert_close(iou, their_iou, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(low, expected[:, :52], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            folded.upsample(image, low), published.upsample(image, expected), atol=1e-3, rtol=1e-3
        )


class Blobs(torch.nn.Module):
    """In place of the mask decoder: discs of many sizes and slopes, as its prompt says."""

    def forward(self, sparse_prompt_embeddings: torch.Tensor, **_: object) -> tuple[Any, ...]:
        generator = torch.Generator().manual_seed(3)
        code = sparse_prompt_embeddings[:, 0].double()
        x, y, size, slope, score = (
            torch.sigmoid(code @ torch.randn(256, 3, generator=generator).double() / 4)
            for _ in range(5)
        )
        at = torch.arange(64, dtype=torch.double)
        offset = [at - 64 * x[..., None], at - 20 * y[..., None]]
        distance = torch.hypot(offset[0][:, :, None, :], offset[1][:, :, :, None])
        logits = (1 + 9 * size[..., None, None] - distance) * (0.5 + 8 * slope[..., None, None])
        return logits.float(), score.float()


@pytest.mark.parametrize("nms_thresh", [0.5, 0.7, 0.9])
def test_many_masks_are_filtered_as_in_the_reference(kitti: Path, nms_thresh: float) -> None:
    """Hundreds of overlapping masks of all scores, filtered and suppressed alike."""
    file = sorted((kitti / "image_02" / "data").glob("*.png"))[0]
    rgb = cv2.resize(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), (310, 94))
    model = small_sam()
    model.mask_decoder = Blobs()
    thresholds = {
        "pred_iou_thresh": 0.2, "stability_score_thresh": 0.8, "box_nms_thresh": nms_thresh,
    }  # fmt: skip
    reference = SamAutomaticMaskGenerator(
        model, points_per_side=16, crop_n_layers=0, **thresholds
    ).generate(rgb)
    config = SegmentationConfig(points_per_side=16, decoder_batch=100, **thresholds)
    ours = everything(PromptableSam(model), rgb, config)
    found = ours.masks
    theirs = np.stack([r["segmentation"] for r in reference])
    assert len(theirs) >= 30
    assert abs(len(found) - len(theirs)) <= 0.02 * len(theirs)
    overlap = mask_iou(theirs, found)
    assert overlap.max(axis=1).mean() >= 0.98
    same = overlap.argmax(axis=1)
    for score, name in (
        (ours.predicted_iou, "predicted_iou"),
        (ours.stability, "stability_score"),
    ):
        assert np.mean(np.isclose(score[same], [r[name] for r in reference], atol=1e-5)) >= 0.98


@pytest.mark.slow
def test_an_official_checkpoint_loads(tmp_path: Path) -> None:
    """All names and shapes of the published ViT-B file, as PyTorch saves them."""
    state = sam_model_registry["vit_b"]().state_dict()
    torch.save(state, tmp_path / "sam_vit_b_01ec64.pth")
    config = SegmentationConfig(
        backend="sam", checkpoint=str(tmp_path / "sam_vit_b_01ec64.pth"), device="cpu"
    )
    loaded = load_sam(config).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    with pytest.raises(WeightsRejected, match="mismatch"):
        load_sam(SegmentationConfig(backend="sam", model="vit_l", checkpoint=config.checkpoint))


def test_an_encoder_that_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(_: object, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
        assert options == {"dynamic": False}

        def run(_: torch.Tensor) -> torch.Tensor:
            raise TorchDynamoException("no C++ compiler\nand much more")

        return run

    model, rgb = small_sam(), scene()
    expected = PromptableSam(model).encode(rgb).features
    monkeypatch.setattr(torch, "compile", failing)
    compiled = PromptableSam(model, compiled=True)
    assert torch.equal(compiled.encode(rgb).features, expected)
    assert compiled.notice == "the encoder was not compiled: no C++ compiler"


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same() -> None:
    model, rgb = small_sam(), scene()
    compiled = PromptableSam(model, compiled=True)
    found, expected = compiled.encode(rgb).features, PromptableSam(model).encode(rgb).features
    assert torch.allclose(found, expected, atol=1e-4) and not compiled.notice


def test_scores_of_ids_kept_switched_and_lost() -> None:
    scorer = TrackScorer()
    true = np.zeros((40, 80), np.uint16)
    true[:, :40], true[:, 40:] = 7, 1000
    right = np.where(true == 7, 3, 4).astype(np.uint16)
    scorer.add(right, true)
    scorer.add(right, true)
    scorer.add(np.where(true == 7, 3, 9).astype(np.uint16), true)
    scorer.add(np.where(true == 7, 3, 0).astype(np.uint16), true)
    scores = scorer.scores()
    assert (scores["frames"], scores["instances"]) == (4, 8)
    assert scores["recall@0.5"] == 7 / 8 and scores["mean_iou"] == 7 / 8
    kept, switched, lost = 4 / 6, 1 / 6, 1 / 6
    found = [scores[f"ids_{name}"] for name in ("kept", "switched", "lost")]
    np.testing.assert_allclose(found, [kept, switched, lost])
