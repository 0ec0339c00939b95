"""Measures against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robot_perception.core.metrics import (
    chamfer_m2,
    label_iou,
    mask_iou,
    precision_recall,
    range_l1_m,
    recall_at_k,
)


def test_chamfer_is_the_sum_of_both_ways() -> None:
    a = np.array([[0, 0, 0], [1, 0, 0]], np.float32)
    b = np.array([[0, 0, 2]], np.float32)
    # Forth: (4 + 5) / 2; back: 4.
    assert chamfer_m2(a, b) == pytest.approx(8.5)
    assert chamfer_m2(a, a) == 0
    assert np.isnan(chamfer_m2(a, b[:0]))


def test_range_l1_counts_common_returns_only() -> None:
    a, b = np.array([[1, 0, 3]], np.float32), np.array([[2, 5, 0]], np.float32)
    assert range_l1_m(a, b) == 1
    assert np.isnan(range_l1_m(a, 0 * b))


def test_mask_iou() -> None:
    a = np.zeros((2, 4, 4), bool)
    a[0, :2], a[1, 2:] = True, True
    b = np.zeros((1, 4, 4), bool)
    b[0, 1:3] = True
    np.testing.assert_allclose(mask_iou(a, b), [[1 / 3], [1 / 3]])


def test_recall_leaves_queries_without_positive_out() -> None:
    ranked = [[3, 1], [2, 5], [9, 8]]
    assert recall_at_k(ranked, [{1}, {7}, set()], 1) == 0
    assert recall_at_k(ranked, [{1}, {7}, set()], 2) == 0.5


def test_precision_recall_counts_their_false_alarms() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, True, False, True])
    has_positive = np.array([True, True, False, True])
    curve = precision_recall(scores, correct, has_positive)
    np.testing.assert_allclose(curve.precision, [1, 1, 2 / 3, 3 / 4])
    np.testing.assert_allclose(curve.recall, [1 / 3, 2 / 3, 2 / 3, 1])
    assert curve.recall_at_full_precision == pytest.approx(2 / 3)
    assert curve.area == pytest.approx(2 / 3 + 1 / 3 * 3 / 4)


def test_label_iou_agrees_with_masks() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, (30, 40)), random.integers(0, 4, (30, 40))
    masks_a, masks_b = (
        np.stack([labels == k for k in range(1, n + 1)]) for labels, n in ((a, 5), (b, 3))
    )
    # Label 5 is absent.
    np.testing.assert_allclose(label_iou(a, b, 5, 3), mask_iou(masks_a, masks_b))
    with pytest.raises(ValueError, match="outside"):
        label_iou(a, b, 3, 3)
    with pytest.raises(ValueError, match="shape"):
        label_iou(a, b.T, 5, 3)


def test_nothing_to_measure_is_not_a_number() -> None:
    none = np.zeros(0, bool)
    assert np.isnan(precision_recall(np.zeros(0), none, none).area)
    nothing_to_find = precision_recall(np.array([0.5]), np.array([False]), np.array([False]))
    assert np.isnan(nothing_to_find.recall_at_full_precision)
    assert np.isnan(recall_at_k([[1]], [set()], 1))
    with pytest.raises(ValueError):
        precision_recall(np.array([np.nan]), np.array([True]), np.array([True]))
