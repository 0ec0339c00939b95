"""SegVLAD against a literal re-implementation, the online decision, and the map on disk."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from robot_perception.core.config import RevisitConfig
from robot_perception.core.errors import InputRejected, WeightsRejected
from robot_perception.core.revisit import published, storage, vlad
from robot_perception.core.revisit.decision import Calibration, Evidence, calibrate, decisions
from robot_perception.core.revisit.detector import RevisitDetector
from robot_perception.core.revisit.evaluate import Place, evaluate_online, evaluate_walks
from robot_perception.core.revisit.features import FeatureExtractor
from robot_perception.core.revisit.fit import fit_frames, load_vocabulary, save_vocabulary
from robot_perception.core.revisit.geometry import relative_pose, verify
from robot_perception.core.revisit.index import PlaceIndex
from robot_perception.core.revisit.merge import merge_maps
from robot_perception.core.types import F32, U8, CameraInfo, ImageFrame, Odometry, Revisit
from robot_perception.pipeline.draw import evidence

FEATURES = "embedded:xfeat"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# On a busy machine, threads that wait for a core make all of this ten times as slow.
torch.set_num_threads(1)
cv2.setNumThreads(1)
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


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def drive(detector: RevisitDetector, views: list[U8], start_s: float = 0.0) -> list[Revisit]:
    """One view every 4 s."""
    results = []
    for i, rgb in enumerate(views):
        stamp = int((start_s + 4.0 * i) * 1e9) + 1
        result = detector.step(ImageFrame(stamp, "camera", rgb))
        assert result is not None
        results.append(result)
    return results


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_aggregation_equals_the_published_steps(order: int) -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(12, 16, 5)).astype(np.float32)
    labels = np.kron(rng.permutation(np.arange(12)).reshape(3, 4), np.ones((4, 4), int))
    centres = rng.normal(size=(6, 5)).astype(np.float32)
    masks = vlad.segment_masks(labels, (12, 16))
    near = vlad.adjacency(masks.centroids, order)
    fast = vlad.aggregate(dense, masks, near, centres)
    literal = np.stack([labels == label for label in masks.labels])
    slow = published.super_segment_vlads(dense, literal, near, centres)
    np.testing.assert_allclose(fast, slow, atol=1e-5)


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


def test_evidence_shows_segments_that_match_in_one_colour() -> None:
    grey = np.full((120, 160, 3), 90, np.uint8)
    labels = np.kron(np.array([[1, 2], [3, 0]], np.uint16), np.ones((60, 80), np.uint16))
    pairs = np.array([[1, 2], [2, 2], [3, 3], [2, 1]], np.int32)
    found = Revisit(
        1, "camera", 7, FEATURES, 0.99, match_id=3, match_rgb=grey, match_size=(160, 120),
        labels=labels, match_labels=labels, segment_pairs=pairs,
    )  # fmt: skip
    shown = evidence(ImageFrame(1, "camera", grey), found, height=120)
    here, there = shown[:, :160], shown[:, -160:]
    centres = {1: (45, 40), 2: (45, 120), 3: (90, 40), 0: (90, 120)}
    colour = {k: (tuple(here[at]), tuple(there[at])) for k, at in centres.items()}
    assert colour[1][0] == colour[2][1] != colour[3][0] == colour[3][1] != (90, 90, 90)
    # Segment 2 here matches best what 1 matches better, and 0 is no segment.
    assert colour[2][0] == colour[0][0] == colour[1][1] == colour[0][1] == (90, 90, 90)


def test_the_recent_past_is_no_revisit() -> None:
    detector = RevisitDetector(QUICK)
    results = drive(detector, [place(s) for s in range(3)] + [place(2, 4)])
    assert results[-1].match_id is None


def test_a_place_must_lie_far_enough_back() -> None:
    """Twenty-three metres on, to be precise; by time it is a revisit in any case."""
    for least_m, wanted in ((22.0, 1), (24.0, None)):
        detector = RevisitDetector(replace(QUICK, exclude_recent_m=least_m))
        for i, (seed, x) in enumerate([(0, 0.0), (1, 10.0), (2, 20.0), (3, 22.0), (1, 11.0)]):
            pose = np.eye(4)
            pose[0, 3] = x
            stamp = int(20e9 * i) + 1
            frame = ImageFrame(stamp, "camera", place(seed))
            result = detector.step(frame, odometry=Odometry(stamp, "odom", "camera", pose))
        assert result is not None and result.match_id == wanted


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
    for mine, theirs in zip(before.keyframes, after.keyframes, strict=True):
        for name, value in vars(mine).items():
            np.testing.assert_array_equal(value, getattr(theirs, name), err_msg=name)
    result = drive(after, [place(2, 6)])[0]
    assert result.match_id == 2 and result.keyframe_id == 4
    assert [p.name for p in tmp_path.iterdir()] == ["place.map"]


def test_maps_become_one(tmp_path: Path) -> None:
    frames = [ImageFrame(i, "camera", place(i)) for i in range(20, 24)]
    vocabulary, backend = fit_frames(frames, QUICK)
    save_vocabulary(tmp_path / "vocabulary", backend, vocabulary)
    config = replace(QUICK, vocabulary=str(tmp_path / "vocabulary"))
    detector = RevisitDetector(config)
    for name, seeds in (("a", (0, 1, 2)), ("b", (5, 1, 6, 5))):
        drive(detector, [place(s, 4 * (name == "b")) for s in seeds])
        detector.save(tmp_path / name)
        detector.reset()
    merged = merge_maps([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    assert (merged.keyframes, merged.joined) == ([3, 4], [0, 1])
    detector.load(tmp_path / "ab")
    assert [k.id for k in detector.keyframes] == list(range(7))
    assert [k.session for k in detector.keyframes] == [0, 0, 0, 1, 1, 1, 1]
    # The revisit that was in the second map, and the place that is in both.
    results = drive(detector, [place(6, 8), place(2, 8)])
    assert results[0].edges.tolist() == [[6, 3], [4, 1], [7, 5]]
    assert [r.match_id for r in results] == [5, 2]
    # A third, of places that are in the first or in the second; the file is not read as a whole.
    detector.reset()
    drive(detector, [place(s, 12) for s in (2, 6, 9)])
    detector.save(tmp_path / "d")
    three = [tmp_path / name for name in "abd"]
    merged = merge_maps(three, tmp_path / "abd")
    assert (merged.keyframes, merged.joined) == ([3, 4, 3], [0, 1, 2])
    detector = RevisitDetector(replace(config, map_on_disk=True))
    detector.load(tmp_path / "abd")
    results = drive(detector, [place(6, 8), place(9, 8)])
    assert results[0].edges.tolist() == [[6, 3], [4, 1], [7, 2], [8, 5], [10, results[0].match_id]]
    assert [results[0].match_id in (5, 8), results[1].match_id] == [True, 9]

    # Maps keep the calibration that they were made with, and it decides again.
    never = Calibration(threshold=2.0)
    save_vocabulary(tmp_path / "strict", backend, vocabulary, never)
    strict = RevisitDetector(replace(config, vocabulary=str(tmp_path / "strict")))
    for path in three:
        strict.load(path)
        strict.save(path.with_suffix(".strict"))
    those = [path.with_suffix(".strict") for path in three]
    merged = merge_maps(those, tmp_path / "kept")
    assert (merged.joined, merged.calibration) == ([0, 0, 0], never)
    assert merge_maps(those, tmp_path / "given", calibration=Calibration()).joined == [0, 1, 2]
    unnamed = RevisitDetector(QUICK)
    unnamed.load(tmp_path / "kept")
    assert drive(unnamed, [place(6, 8)])[0].match_id is None
    with pytest.raises(ValueError, match="other calibrations"):
        merge_maps([three[0], those[1]], tmp_path / "mixed")

    other = RevisitDetector(QUICK)
    drive(other, [place(s) for s in range(3)])
    other.save(tmp_path / "c")
    with pytest.raises(WeightsRejected, match="other vocabularies"):
        merge_maps([tmp_path / "a", tmp_path / "c"], tmp_path / "ac")
    assert not (tmp_path / "ac").exists()


_SAVES = """
import sys, pathlib
import numpy as np
from robot_perception.core.revisit import storage
path, number = pathlib.Path(sys.argv[1]), 0
while True:
    number += 1
    arrays = {"values": np.full(500_000, number, np.int64)}
    storage.write(path, arrays, {"format": "f", "backend": "b"})
    print(number, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    """A process that saves without end is killed 25 times; what is there is what it wrote."""
    path, rng = tmp_path / "map", np.random.default_rng(0)
    parts = 0
    for _ in range(25):
        command = [sys.executable, "-c", _SAVES, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1\n"
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            said = process.stdout.read().split()
        arrays, _ = storage.read(path, "f", "b")
        # The last that it said it had saved, or the one after, which it had no time to tell.
        last = int(said[-1]) if said else 1
        assert arrays["values"][0] in (last, last + 1) and np.ptp(arrays["values"]) == 0
        parts += (tmp_path / "map.part").exists()
    # Some of the kills fell into a save.
    assert parts > 0


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
    for at in (len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(WeightsRejected, match="damaged"):
            detector.load(path)
    arrays, metadata = storage.read(_written(path, data), "robot_perception place map 5", FEATURES)
    for name, hostile in {
        "keypoints": arrays["keypoints"][:-1],
        "descriptors": arrays["descriptors"] * np.float16(np.nan),
        "keypoint_descriptors": arrays["keypoint_descriptors"][:, :9],
        "keypoints.count": np.array([2**62, 2**62, -(2**63), len(arrays["keypoints"])]),
        "edges": np.array([[0, 4]], np.int32),
        "size": arrays["size"] * 0,
        "session": arrays["session"] + np.int32(2**31 - 1),
        "pose": np.full((4, 4, 4), np.inf),
        "stamp_ns": arrays["stamp_ns"].astype(np.float32),
    }.items():
        storage.write(path, arrays | {name: hostile}, metadata)
        with pytest.raises(WeightsRejected, match="damaged"):
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


def test_views_that_differ_by_a_rotation_give_no_direction_of_motion() -> None:
    """A camera turned by three degrees on the spot: the revisit is known, and no more."""
    detector = RevisitDetector(QUICK)
    k = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    info = CameraInfo(0, "camera", 320, 240, k, np.zeros(5))
    turn, _ = cv2.Rodrigues(np.array([0.0, np.deg2rad(3), 0.0]))
    turned = cv2.warpPerspective(place(1), k @ turn @ np.linalg.inv(k), (320, 240))
    results = []
    for i, rgb in enumerate([place(s) for s in range(5)] + [np.asarray(turned, np.uint8)]):
        results.append(detector.step(ImageFrame(int(4e9 * i) + 1, "camera", rgb), camera=info))
    found = results[-1]
    assert found is not None and found.match_id == 1
    assert found.relative_pose is None


def _two_views(
    depth: float, motion: tuple[float, float, float], wrong: int = 0
) -> tuple[F32, F32, CameraInfo]:
    """Pixels of 200 points in a query camera and in a reference camera that is `motion` away."""
    rng = np.random.default_rng(3)
    k = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    points = rng.uniform((-2, -1.5, 4), (2, 1.5, 4 + depth), (200, 3))
    there = points + motion
    a, b = (((p / p[:, 2:]) @ k.T)[:, :2].astype(np.float32) for p in (points, there))
    if wrong:
        b[:wrong] = rng.uniform(0, (640, 480), (wrong, 2))
    return a, b, CameraInfo(0, "camera", 640, 480, k, np.zeros(5))


def test_a_camera_gives_the_relative_pose() -> None:
    motion = (0.3, -0.1, 0.2)
    query, reference, camera = _two_views(4.0, motion, wrong=60)
    pairs = verify(query, reference, (640, 480))
    assert 140 <= len(pairs) <= 150
    pose = relative_pose(pairs, camera, (640, 480))
    assert pose is not None
    np.testing.assert_allclose(pose[:3, :3], np.eye(3), atol=1e-3)
    # What the points moved by is where the query camera's origin is in the reference camera.
    np.testing.assert_allclose(pose[:3, 3], motion / np.linalg.norm(motion), atol=1e-2)


def test_no_direction_without_a_baseline_and_no_pose_without_a_calibrated_camera() -> None:
    query, reference, camera = _two_views(4.0, (0.3, 0.0, 0.0))
    moved, stood = np.hstack([query, reference]), np.hstack([query, query])
    assert relative_pose(moved, camera, (640, 480)) is not None
    assert relative_pose(stood, camera, (640, 480)) is None
    for other in (replace(camera, k=np.zeros((3, 3))), replace(camera, distortion_model="fov")):
        assert relative_pose(moved, other, (640, 480)) is None


def test_on_a_plane_a_homography_keeps_wrong_matches_out() -> None:
    query, reference, _ = _two_views(0.0, (0.3, 0.1, 0.0))
    rng = np.random.default_rng(5)
    # Wrong along the motion only: every fundamental matrix of such a motion lets them pass.
    along = np.array([0.3, 0.1], np.float32) / np.hypot(0.3, 0.1)
    reference[:15] += rng.uniform(20, 60, (15, 1)).astype(np.float32) * along
    assert len(verify(query, reference, (640, 480))) == 185


def test_index_ranks_as_all_pairs_would() -> None:
    rng = np.random.default_rng(1)

    def unit(*shape: int) -> F32:
        x = rng.normal(size=shape).astype(np.float32)
        x /= np.linalg.norm(x, axis=-1, keepdims=True)
        return x.astype(np.float16).astype(np.float32)  # the precision that is stored

    stored = [unit(n, 16) for n in (3, 0, 7, 5, 2, 6)]
    images = unit(6, 8)
    index = PlaceIndex(16, 8)
    for segments, image in zip(stored, images, strict=True):
        index.add(segments, image)
    query, image = unit(4, 16), unit(8)
    want = []
    for segments, other in zip(stored[:5], images, strict=False):
        best = (query @ segments.T).max(axis=1, initial=0) if len(segments) else np.zeros(4)
        want.append(float(best.mean() + image @ other))
    ids, scores, by_image = index.rank(query, image, 5)
    assert ids.tolist() == np.argsort(-np.array(want)).tolist()
    np.testing.assert_allclose(scores, np.sort(want)[::-1], atol=1e-5)
    assert by_image.tolist() == np.argsort(-(images[:5] @ image)).tolist()
    assert len(index.rank(query, image, 0)[0]) == 0


def test_the_trained_index_finds_what_the_exact_one_finds() -> None:
    rng = np.random.default_rng(2)

    def unit(*shape: int) -> F32:
        x = rng.normal(size=shape).astype(np.float32)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    places = [(unit(8, 64), unit(32)) for _ in range(400)]
    exact, trained = PlaceIndex(64, 32), PlaceIndex(64, 32, train_at=2000)
    for place_of in places:
        exact.add(*place_of)
        trained.add(*place_of)
    assert trained.trained and not exact.trained and len(trained) == 400
    assert trained.nbytes < exact.nbytes / 2
    for number in range(0, 300, 20):
        # Eight descriptors and the image's, turned by some 45 degrees.
        query = [x + 1.0 * unit(*x.shape) for x in places[number]]
        query = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in query]
        (wanted, _, _), (found, scores, _) = (i.rank(*query, 300) for i in (exact, trained))
        assert found[0] == wanted[0] == number
        assert (found < 300).all() and (np.diff(scores) <= 0).all()


def test_near_duplicates_of_super_segments_are_left_out() -> None:
    labels = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((4, 4), int))
    masks = vlad.segment_masks(labels, (12, 16))
    alone = vlad.adjacency(masks.centroids, 0)
    assert vlad.distinct(alone, masks, 0.0).tolist() == list(range(12))
    near = vlad.adjacency(masks.centroids, 2)
    areas = [set(np.flatnonzero(np.isin(labels, np.flatnonzero(row) + 1))) for row in near]
    kept = vlad.distinct(near, masks, 0.6).tolist()
    assert 0 < len(kept) < 12

    def iou(i: int, j: int) -> float:
        return len(areas[i] & areas[j]) / len(areas[i] | areas[j])

    assert all(iou(i, j) <= 0.6 for i in kept for j in kept if i != j)
    for gone in set(range(12)) - set(kept):
        assert any(iou(gone, j) > 0.6 and len(areas[j]) >= len(areas[gone]) for j in kept)
    assert len(vlad.distinct(near, masks, 1.0)) == 12


def test_a_fitted_vocabulary_is_used_from_the_first_keyframe(tmp_path: Path) -> None:
    frames = [ImageFrame(i, "camera", place(i)) for i in range(20, 24)]
    vocabulary, backend = fit_frames(frames, QUICK)
    path = tmp_path / "vocabulary.safetensors"
    save_vocabulary(path, backend, vocabulary, Calibration(-7.0, 20.0, 0.1, 0.8))
    extract = FeatureExtractor(QUICK)
    again, calibration = load_vocabulary(path, extract)
    assert calibration == Calibration(-7.0, 20.0, 0.1, 0.8)
    assert vlad.vocabulary_hash(again) == vlad.vocabulary_hash(vocabulary)
    with pytest.raises(WeightsRejected, match="made with"):
        extract.name = "dino:other"
        load_vocabulary(path, extract)
    detector = RevisitDetector(replace(QUICK, vocabulary=str(path), fit_keyframes=1000))
    for _ in range(2):
        # The second time after a reset, which keeps the vocabulary.
        results = drive(detector, [place(s) for s in (0, 1, 2, 0)])
        assert [r.match_id for r in results] == [None, None, None, 0]
        detector.reset()
    other = RevisitDetector(QUICK)
    drive(other, [place(s) for s in range(3)])
    other.save(tmp_path / "map")
    with pytest.raises(WeightsRejected, match="another vocabulary"):
        detector.load(tmp_path / "map")


def test_after_a_clock_jump_all_of_the_map_can_be_revisited() -> None:
    detector = RevisitDetector(QUICK)
    drive(detector, [place(s) for s in range(4)], start_s=100.0)
    detector.restart()
    # Sooner after than the recent past that is excluded, by a clock that was set back.
    result = drive(detector, [place(3, 5)], start_s=1.0)[0]
    assert result.match_id == 3 and result.keyframe_id == 4


def test_keyframes_that_wait_for_the_vocabulary_are_of_the_old_session_too() -> None:
    detector = RevisitDetector(QUICK)
    drive(detector, [place(0), place(1)], start_s=100.0)
    detector.restart()
    results = drive(detector, [place(2), place(1, 5)], start_s=1.0)
    assert results[-1].match_id == 1


def test_a_rejected_image_changes_nothing() -> None:
    detector = RevisitDetector(replace(QUICK, keyframe_period_s=1.0))
    for bad in (np.zeros((20, 20, 3), np.uint8), np.zeros((240, 320), np.uint8)):
        with pytest.raises(InputRejected):
            detector.step(ImageFrame(1, "camera", bad))
    # Within the period of the rejected ones, but the first that counts.
    result = detector.step(ImageFrame(2, "camera", place(0)))
    assert result is not None and result.keyframe_id == 0


def test_calibration_keeps_its_promise_of_precision() -> None:
    rng = np.random.default_rng(0)
    share, similarity = rng.uniform(0, 1, (2, 3000))
    correct = rng.uniform(size=3000) < 1 / (1 + np.exp(10 - 20 * share))
    evidence = Evidence(np.arange(3000) // 3, similarity, share, correct)
    fitted = calibrate(evidence, 0.95)
    assert fitted.probability(0.5, 0.3) < 0.1 and fitted.probability(0.5, 0.7) > 0.9
    assert fitted.similarity < 0.1 * fitted.share
    probabilities, right = decisions(evidence, fitted)
    assert len(right) == 1000
    accepted = probabilities >= fitted.threshold
    assert 0.95 <= right[accepted].mean() < 0.97 and accepted.sum() > 500
    # More evidence never speaks against a place, whatever chance says in the data.
    misled = calibrate(Evidence(evidence.query, -similarity * correct, share, correct), 0.9)
    assert misled.similarity == 0 and misled.share > 0
    with pytest.raises(ValueError, match="no more evidence"):
        calibrate(Evidence(evidence.query, -share, -share, correct), 0.9)
    with pytest.raises(ValueError, match="right and wrong"):
        calibrate(Evidence(evidence.query, share, share, np.ones(3000, bool)), 0.9)


def test_evaluation_tells_right_from_wrong() -> None:
    def pose(x: float) -> np.ndarray:
        moved = np.eye(4)
        moved[0, 3] = x
        return moved

    seeds = (0, 1, 2, 3, 0, 1)
    places = [
        Place(ImageFrame(int(8e9 * i), "camera", place(s, 3 * (i > 3))), pose(10.0 * s))
        for i, s in enumerate(seeds)
    ]
    online = evaluate_online(places, QUICK, published=True)
    assert {name.split("_")[0] for name in online.methods} == {
        "ours", "segvlad", "cells", "global", "published", "sad", "bow",
    }  # fmt: skip
    for name, scores in online.methods.items():
        # The published whitening needs more than the three images it has here.
        assert scores["recall@1"] == 1.0 or name.startswith("published"), name
        assert scores["queries"] == 3 and scores["queries_with_positive"] == 2
        assert scores["bytes_per_keyframe"] > 0
    assert online.methods["ours"]["auc_pr"] == 1.0
    wanted = {"accepted": 2, "right": 2, "wrong_before_the_first_revisit": 0}
    assert wanted.items() <= online.decisions.items()
    frames = [p.frame for p in places]
    wrong = [{1}, {2}]
    walks = evaluate_walks(frames[4:], frames[:4], wrong, QUICK)
    assert walks.methods["ours"]["recall@1"] == 0.0
    assert walks.decisions["right"] == 0 and walks.decisions["wrong"] == 2
