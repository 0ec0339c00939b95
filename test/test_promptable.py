"""MobileSAM and SAM 2.1 against their makers' code, prompts, and what happens without memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mobile_sam import SamPredictor, sam_model_registry
from promptable_weights import official_like
from test_segmentation import scene, small_sam

from robot_perception.core.config import SegmentationConfig
from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.segmentation.automatic import everything
from robot_perception.core.segmentation.promptable import encode, prompted
from robot_perception.core.segmentation.sam import PromptableSam, load_sam
from robot_perception.core.segmentation.sam2 import load_sam2, renamed
from robot_perception.core.segmentation.segmenter import Segmenter
from robot_perception.core.types import U8, ImageFrame
from robot_perception.pipeline.perception import Pipeline, Tasks


def picture() -> U8:
    y, x = np.mgrid[:120, :200]
    rgb = np.stack([x % 256, (y * 2) % 256, (x + y) % 256], -1).astype(np.uint8)
    rgb[30:80, 50:120] = (200, 40, 60)
    return rgb


POINT, BOX = np.array([[85.0, 55.0]], np.float32), (50.0, 30.0, 120.0, 80.0)


@pytest.mark.slow
def test_mobile_sam_equals_its_makers_code(tmp_path: Path) -> None:
    """The encoder, a point, a box and both, from a file of the official format."""
    reference = sam_model_registry["vit_t"]()
    shapes = {name: list(tensor.shape) for name, tensor in reference.state_dict().items()}
    state = official_like(shapes)
    for name in state:  # variances are positive, counters whole
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 1
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1)
    reference.load_state_dict(state)
    torch.save(state, tmp_path / "mobile_sam.pt")
    config = SegmentationConfig(
        backend="sam", model="vit_t", checkpoint=str(tmp_path / "mobile_sam.pt"), device="cpu"
    )
    model = load_sam(config)
    theirs = SamPredictor(reference.eval())
    theirs.set_image(picture())
    image = model.encode(picture())
    torch.testing.assert_close(image.features, theirs.features, atol=1e-4, rtol=1e-4)
    for points, box in ((POINT, None), (None, BOX), (POINT, BOX)):
        masks, iou, _ = theirs.predict(
            points,
            None if points is None else np.ones(1),
            None if box is None else np.array(box),
            multimask_output=box is None,
        )
        ours = prompted(model, image, points, None, box)
        best = int(iou.argmax())
        assert ours.predicted_iou[0] == pytest.approx(iou[best], abs=1e-4)
        assert np.mean(ours.masks[0] == masks[best]) > 0.999
    with pytest.raises(WeightsRejected):
        load_sam(SegmentationConfig(backend="sam", model="tiny", checkpoint=config.checkpoint))


@pytest.mark.slow
def test_sam2_equals_its_makers_code(tmp_path: Path) -> None:
    """Names and shapes of the official tiny checkpoint, and what its makers' code answers."""
    golden = json.loads((Path(__file__).parent / "data_sam2_tiny.json").read_text())
    state = official_like(golden["shapes"])
    torch.save({"model": state}, tmp_path / "sam2.1_hiera_tiny.pt")
    config = SegmentationConfig(
        backend="sam2",
        model="tiny",
        checkpoint=str(tmp_path / "sam2.1_hiera_tiny.pt"),
        device="cpu",
    )
    model = load_sam2(config)
    image = model.encode(picture())
    corners = torch.tensor(BOX).reshape(1, 2, 2)
    for name, points, labels in (
        ("point", torch.from_numpy(POINT)[None], [[1]]),
        ("box", corners, [[2, 3]]),
    ):
        several = name == "point"
        low, iou = model.decode(image, points, torch.tensor(labels, dtype=torch.int), several)
        np.testing.assert_allclose(iou[0], golden[name]["iou"], atol=1e-4)
        np.testing.assert_allclose(low[0, :, 16::32, 16::32], golden[name]["low"], atol=2e-3)
    with pytest.raises(WeightsRejected, match="mismatch"):
        load_sam2(SegmentationConfig(backend="sam2", model="small", checkpoint=config.checkpoint))
    with pytest.raises(WeightsRejected, match="another model"):
        renamed({"weight": torch.zeros(1)})


class Counting(PromptableSam):
    """Counts encodings; has no memory for more than `room` prompts, or for none on the GPU."""

    encodings = 0
    room = 10**9
    moved = False

    def encode(self, rgb: U8):  # type: ignore[no-untyped-def]
        self.encodings += 1
        return super().encode(rgb)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def decode(self, image, points, labels, several):  # type: ignore[no-untyped-def]
        if len(points) > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().decode(image, points, labels, several)

    def decode_passing(self, image, points, labels, least_iou):  # type: ignore[no-untyped-def]
        if len(points) > self.room:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return super().decode_passing(image, points, labels, least_iou)


def test_an_image_is_encoded_once_for_all_its_prompts() -> None:
    segmenter = Segmenter(SegmentationConfig())
    model = segmenter._model = Counting(small_sam())
    frame = ImageFrame(0, "camera", scene())
    on = [segmenter.prompt(frame, np.array([[x, 60.0]], np.float32)) for x in (30, 75, 200)]
    boxed = segmenter.prompt(frame, box=(60, 40, 90, 80))
    assert all(m.masks.shape == (1, 240, 320) for m in (*on, boxed))
    assert model.encodings == 1
    for bad in (np.array([[400.0, 10.0]]), np.array([[np.nan, 1.0]])):
        with pytest.raises(InputRejected, match="outside"):
            segmenter.prompt(frame, bad.astype(np.float32))
    with pytest.raises(InputRejected, match="neither"):
        segmenter.prompt(frame)


def test_the_embedded_backend_answers_prompts() -> None:
    segmenter, frame = Segmenter(SegmentationConfig()), ImageFrame(0, "camera", scene())
    for found in (
        segmenter.prompt(frame, np.array([[75.0, 60.0]], np.float32)),
        segmenter.prompt(frame, box=(60, 40, 90, 80)),
    ):
        truth = np.zeros((240, 320), bool)
        truth[40:80, 60:90] = True
        assert (found.masks[0] & truth).sum() / (found.masks[0] | truth).sum() > 0.85
    with pytest.raises(InputRejected):
        segmenter.prompt(frame, np.array([[320.0, 60.0]], np.float32))


def test_without_memory_the_batch_is_halved_then_the_cpu_taken() -> None:
    config = SegmentationConfig(
        points_per_side=4, decoder_batch=16, pred_iou_thresh=-1.0, stability_score_thresh=0.0
    )
    rich, poor = PromptableSam(small_sam()), Counting(small_sam())
    expected = everything(rich, scene(), config)
    poor.room = 3
    found = everything(poor, scene(), config)
    assert poor.notice == "out of GPU memory: 2 prompts in a decoder pass"
    assert np.array_equal(found.masks, expected.masks)
    poor.room = 0  # not even one prompt, and it is on the CPU already
    with pytest.raises(InputRejected, match="single prompt"):
        everything(poor, scene(), config)

    class Gpu(Counting):
        @property
        def device(self) -> torch.device:
            return torch.device("cpu" if self.moved else "meta")

        def to_cpu(self) -> None:
            self.moved, self.room = True, 10**9

        def encode(self, rgb: U8):  # type: ignore[no-untyped-def]
            if not self.moved:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().encode(rgb)

    gpu = Gpu(small_sam())
    assert encode(gpu, scene()).size == (240, 320)
    assert gpu.notice == "out of GPU memory: runs on the CPU"
    pipeline = Pipeline(Tasks(segmentation=SegmentationConfig()))
    assert pipeline.segmenter and "segmentation notice" not in pipeline.describe()
    pipeline.segmenter._model = gpu
    assert pipeline.describe()["segmentation notice"] == gpu.notice
