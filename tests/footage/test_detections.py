import numpy as np
import pytest

from tpr_jax.footage.detections import intersection, iou, limit, make_detections, pad_box, suppress


def test_overlaps_by_hand():
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[5, 0, 10, 10], [0, 0, 10, 10], [20, 20, 5, 5], [2, 2, 5, 4]], np.float32)
    assert intersection(a, b).tolist() == [[50, 100, 0, 20]]
    assert iou(a, b)[0] == pytest.approx([50 / 150, 1, 0, 0.2])


def test_suppression_by_hand():
    """The second overlaps the first by 9/11, the third by 5/15 only; the fourth is alone."""
    found = make_detections(
        [[0, 0, 10, 10], [1, 0, 10, 10], [5, 0, 10, 10], [50, 50, 10, 10]], [0.8, 0.9, 0.7, 0.1]
    )
    assert suppress(found, 0.5).scores.tolist() == pytest.approx([0.9, 0.7, 0.1])
    assert suppress(found, 0.3).scores.tolist() == pytest.approx([0.9, 0.1])


def test_a_box_inside_a_better_one_is_dropped_if_asked():
    found = make_detections([[0, 0, 20, 40], [5, 5, 5, 10]], [0.9, 0.8])
    assert len(suppress(found, 0.5).boxes) == 2
    assert suppress(found, 0.5, of_smaller=0.7).boxes.tolist() == [[0, 0, 20, 40]]


def test_suppression_of_nothing():
    assert suppress(make_detections([]), 0.5).boxes.shape == (0, 4)


def test_limits_by_hand():
    found = make_detections(
        [[-5, 10, 20, 50], [10, 10, 20, 30], [10, 10, 20, 50], [200, 0, 20, 50]], [0.9, 0.9, 0.1, 0.9]
    )
    kept = limit(found, (100, 100), min_height=40, min_score=0.5)
    assert kept.boxes.tolist() == [[0, 10, 15, 50]]


def test_padding_stays_within_the_frame():
    box = np.array([10, 10, 20, 40], np.float32)
    assert pad_box(box, 0.1, (100, 100)) == (8, 6, 24, 48)
    assert pad_box(box, 0.1, (31, 50)) == (8, 6, 23, 44)
    assert pad_box(box, 1.0, (100, 100)) == (0, 0, 50, 90)
