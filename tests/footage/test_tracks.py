import numpy as np
import pytest

from tpr_jax.footage.detections import make_detections
from tpr_jax.footage.tracks import Tracker, TrackSettings, assign, color_cost, match_cost


def boxes(*corners):
    return [[x, y, 20, 60] for x, y in corners]


def test_cost_by_hand():
    """Moved by half a width: IoU 1/3, distance 10 of 60 pixels. Twice as high: the share beyond 1/4."""
    same = np.array([[0, 0, 20, 60]], np.float32)
    others = np.array([[0, 0, 20, 60], [10, 0, 20, 60], [200, 0, 20, 60], [0, -30, 20, 120]], np.float32)
    expected = [0, (2 / 3 + 1 / 6) / 2, 1, (0.5 + 0) / 2 + 0.25]
    assert match_cost(same, others)[0] == pytest.approx(expected, abs=1e-6)


def test_assignment_is_the_cheapest_in_total_not_the_greedy_one():
    cost = np.array([[0.1, 0.2], [0.15, 0.9]])
    assert assign(cost, 0.8) == [(0, 1), (1, 0)]


def test_assignment_leaves_out_what_costs_too_much():
    assert assign(np.array([[0.9, 0.95], [0.1, 0.99]]), 0.8) == [(1, 0)]
    assert assign(np.zeros((0, 3)), 0.8) == []


def test_people_keep_their_numbers_while_they_pass_each_other():
    tracker = Tracker(TrackSettings())
    numbers = []
    for frame in range(11):
        found = make_detections(boxes((20 * frame, 0), (200 - 20 * frame, 20)))
        numbers.append(tracker.update(found, 0.5 * frame).tolist())
    assert numbers == [[0, 1]] * 11


def test_an_unsure_box_continues_a_track_but_begins_none():
    tracker = Tracker(TrackSettings(sure=0.5))
    assert tracker.update(make_detections(boxes((0, 0), (200, 0)), [0.9, 0.3]), 0.0).tolist() == [0, -1]
    assert tracker.update(make_detections(boxes((2, 0), (200, 0)), [0.2, 0.3]), 0.5).tolist() == [0, -1]


def test_a_sure_box_has_precedence_over_an_unsure_one():
    tracker = Tracker(TrackSettings(sure=0.5))
    tracker.update(make_detections(boxes((0, 0)), [0.9]), 0.0)
    assert tracker.update(make_detections(boxes((0, 0), (4, 0)), [0.2, 0.9]), 0.5).tolist() == [-1, 0]


def test_a_hidden_person_keeps_the_number_within_the_patience():
    for gap, expected in ((1.5, 0), (3.0, 1)):
        tracker = Tracker(TrackSettings(patience=2.0))
        tracker.update(make_detections(boxes((0, 0))), 0.0)
        assert tracker.update(make_detections(boxes((0, 0))), gap).tolist() == [expected]


def test_known_tracks_are_taken_as_they_are():
    tracker = Tracker(TrackSettings())
    found = make_detections(boxes((0, 0), (200, 0)), tracks=[7, 3])
    assert tracker.update(found, 0.0).tolist() == [0, 1]
    found = make_detections(boxes((200, 0), (0, 0)), tracks=[7, 3])
    assert tracker.update(found, 0.5).tolist() == [0, 1]


def test_color_cost_by_hand():
    a = np.array([[100.0, 0.0], [50.0, 50.0]])
    assert color_cost(a, a) == pytest.approx(np.array([[0, 1 - 0.5**0.5], [1 - 0.5**0.5, 0]]))


def test_colors_keep_people_apart_who_change_places():
    """Both stand still, and their boxes come in the places of each other: only the colors tell."""
    found, red, blue = make_detections(boxes((0, 0), (10, 0))), [100, 0], [0, 100]
    tracker = Tracker(TrackSettings())
    assert tracker.update(found, 0.0, [red, blue]).tolist() == [0, 1]
    assert tracker.update(found, 0.5, [blue, red]).tolist() == [1, 0]
    tracker = Tracker(TrackSettings())
    tracker.update(found, 0.0)
    assert tracker.update(found, 0.5).tolist() == [0, 1]
