"""SegVLAD against a literal re-implementation, the online decision, and the map on disk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.revisit import vlad
from robot_perception.core.revisit.detector import RevisitDetector
from robot_perception.core.types import F32, U8, CameraInfo, ImageFrame, Odometry, Revisit

QUICK = RevisitConfig(fit_keyframes=3, keyframe_period_s=0.0, vocabulary_size=8, device="cpu")


def place(seed: int, shift: int = 0) -> U8:
    """A textured picture of a place; `shift` moves the view sideways."""
    rng = np.random.default_rng(seed)
    canvas = np.full((240, 420, 3), 128, np.uint8)
    for _ in range(120):
        x, y = (int(v) for v in rng.integers(0, (420, 240)))
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        w, h = (int(v) for v in rng.integers(8, 50, 2))
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
    return np.ascontiguousarray(canvas[:, 20 + shift : 340 + shift])


def drive(detector: RevisitDetector, views: list[U8], start_s: float = 0.0) -> list[Revisit]:
    """One view every 4 s."""
    results = []
    for i, rgb in enumerate(views):
        stamp = int((start_s + 4.0 * i) * 1e9) + 1
        result = detector.step(ImageFrame(stamp, "camera", rgb))
        assert result is not None
        results.append(result)
    return results


def literal_vlad(dense: F32, labels: np.ndarray, order: int, centres: F32, near: np.ndarray) -> F32:
    """The published steps one by one, on labels at the resolution of the patches."""
    names = list(dict.fromkeys(int(v) for v in labels.ravel() if v))
    result = []
    for i in range(len(names)):
        members = [names[j] for j in range(len(names)) if near[i, j]]
        blocks = np.zeros_like(centres)
        for row in range(labels.shape[0]):
            for column in range(labels.shape[1]):
                if labels[row, column] in members:
                    patch = dense[row, column]
                    k = int(np.linalg.norm(centres - patch, axis=1).argmin())
                    blocks[k] += patch - centres[k]
        for k in range(len(blocks)):
            norm = np.linalg.norm(blocks[k])
            blocks[k] = blocks[k] / norm if norm > 1e-12 else 0
        flat = blocks.ravel()
        result.append(flat / max(1e-12, float(np.linalg.norm(flat))))
    return np.array(result, np.float32)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_aggregation_equals_the_published_steps(order: int) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(12, 16, 5)).astype(np.float32)
    labels = np.kron(rng.permutation(np.arange(12)).reshape(3, 4), np.ones((4, 4), int))
    centres = rng.normal(size=(6, 5)).astype(np.float32)
    masks = vlad.segment_masks(labels, (12, 16))
    near = vlad.adjacency(masks.centroids, order)
    fast = vlad.aggregate(dense, masks, near, centres)
    np.testing.assert_allclose(fast, literal_vlad(dense, labels, order, centres, near), atol=1e-5)


def test_label_values_do_not_matter() -> None:
    labels = np.kron(np.arange(1, 7).reshape(2, 3), np.ones((20, 20), int))
    renamed = np.array([0, 60, 3, 9, 1, 44, 5])[labels]
    a, b = (vlad.segment_masks(x, (8, 12)) for x in (labels, renamed))
    np.testing.assert_array_equal(a.shares.toarray(), b.shares.toarray())


def test_neighbourhoods_grow_and_survive_degenerate_layouts() -> None:
    square = np.array([(x, y) for x in range(5) for y in range(5)], float)
    sizes = [vlad.adjacency(square + 0.01 * np.sin(square[:, ::-1] * 9), o).sum() for o in range(4)]
    assert sizes[0] == 25 and sizes == sorted(set(sizes))
    for layout in (np.zeros((0, 2)), square[:1], square[:3], np.stack([np.arange(9.0)] * 2, 1)):
        near = vlad.adjacency(layout, 1)
        assert near.shape == (len(layout),) * 2 and (near == near.T).all() and near.diagonal().all()


def test_places_are_known_again_and_new_ones_are_not() -> None:
    detector = RevisitDetector(QUICK)
    results = drive(
        detector, [place(s) for s in range(6)] + [place(1, 12), place(4, -9), place(77)]
    )
    assert [r.match_id for r in results] == [None] * 6 + [1, 4, None]
    found = results[6]
    assert found.probability > 0.9 and found.inliers == len(found.keypoints) >= 20
    # The view moved 12 pixels to the right, so things lie 12 pixels to the left of where they did.
    moved = np.median(found.keypoints[:, 2:] - found.keypoints[:, :2], axis=0)
    np.testing.assert_allclose(moved, [12, 0], atol=1)
    assert found.match_stamp_ns == results[1].stamp_ns
    assert results[-1].edges.tolist() == [[6, 1], [7, 4]]
    assert found.match_rgb is not None and found.match_size == (320, 240)


def test_the_recent_past_is_no_revisit() -> None:
    detector = RevisitDetector(QUICK)
    results = drive(detector, [place(s) for s in range(3)] + [place(2, 4)])
    assert results[-1].match_id is None


def test_keyframes_need_motion_or_a_change_of_view() -> None:
    detector = RevisitDetector(RevisitConfig(device="cpu"))
    rgb = place(0)
    assert detector.step(ImageFrame(1, "camera", rgb)) is not None
    assert detector.step(ImageFrame(2_000_000_000, "camera", rgb)) is None
    pose = np.eye(4)
    stood = Odometry(1, "odom", "camera", pose)
    assert detector.step(ImageFrame(4_000_000_000, "camera", place(1)), odometry=stood) is not None
    moved = pose.copy()
    moved[0, 3] = 2.0
    still = detector.step(ImageFrame(6_000_000_000, "camera", place(2)), odometry=stood)
    assert still is None
    went = Odometry(1, "odom", "camera", moved)
    result = detector.step(ImageFrame(8_000_000_000, "camera", place(2)), odometry=went)
    assert result is not None
    np.testing.assert_allclose(result.keyframe_positions[-1], [2, 0, 0])


def test_the_same_drive_gives_the_same_bits() -> None:
    detector = RevisitDetector(QUICK)
    views = [place(s) for s in (0, 1, 2, 3, 1)]
    first = drive(detector, views)
    detector.reset()
    second = drive(detector, views)
    assert [r.match_id for r in first] == [None] * 4 + [1] == [r.match_id for r in second]
    assert first[-1].keypoints.tobytes() == second[-1].keypoints.tobytes()


def test_a_map_outlives_the_run(tmp_path: Path) -> None:
    path = tmp_path / "place.map"
    before = RevisitDetector(QUICK)
    with pytest.raises(ValueError, match="no map yet"):
        before.save(path)
    drive(before, [place(s) for s in range(4)])
    before.save(path)
    after = RevisitDetector(QUICK)
    after.load(path)
    result = drive(after, [place(2, 6)])[0]
    assert result.match_id == 2 and result.keyframe_id == 4
    assert [p.name for p in tmp_path.iterdir()] == ["place.map"]


def test_broken_and_foreign_maps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "place.map"
    detector = RevisitDetector(QUICK)
    drive(detector, [place(s) for s in range(4)])
    detector.save(path)
    data = path.read_bytes()
    for cut in (0, 7, len(data) // 3, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(WeightsRejected):
            detector.load(path)
    path.write_bytes(data.replace(b"embedded:xfeat", b"embedded:other"))
    with pytest.raises(WeightsRejected, match="made with"):
        detector.load(path)
    assert len(detector.keyframes) == 4


def test_bad_images_are_rejected_and_black_ones_are_survived() -> None:
    detector = RevisitDetector(QUICK)
    with pytest.raises(InputRejected):
        detector.step(ImageFrame(1, "camera", np.zeros((20, 20, 3), np.uint8)))
    with pytest.raises(InputRejected):
        detector.step(ImageFrame(2, "camera", place(0)), np.zeros((5, 5), np.uint16))
    black = np.zeros((240, 320, 3), np.uint8)
    results = drive(detector, [place(0), black, place(1), place(2), black, black], 10.0)
    assert all(r.match_id is None for r in results)


def test_a_camera_gives_the_relative_pose() -> None:
    """The view moves in front of a plane-and-boxes scene: rotation near none, motion sideways."""
    detector = RevisitDetector(QUICK)
    info = CameraInfo(
        0, "camera", 320, 240, np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), np.zeros(5)
    )
    results = []
    for i, rgb in enumerate([place(s) for s in range(5)] + [place(1, 10)]):
        results.append(detector.step(ImageFrame(int(4e9 * i) + 1, "camera", rgb), camera=info))
    found = results[-1]
    assert found is not None and found.match_id == 1
    if found.relative_pose is not None:
        assert np.linalg.norm(found.relative_pose[:3, 3]) == pytest.approx(1)
        assert np.trace(found.relative_pose[:3, :3]) > 2.9
