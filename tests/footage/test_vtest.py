"""Real people: the video `vtest.avi` of Debian's package `opencv-doc`, which is not part of this project."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import tpr_jax
from tests.footage.videos import open_cv
from tests.footage.vtest_people import PEOPLE
from tests.footage.vtest_walkers import WALKERS, first_ranks, measure, read_tracks, walkers_in, walkers_of
from tpr_jax.footage.detections import iou, limit
from tpr_jax.footage.hog import HogDetector
from tpr_jax.footage.video import Span, read_frames
from tpr_jax.search.__main__ import run
from tpr_jax.search.index.store import open_index

VIDEO = Path(os.environ.get("TPR_VTEST", "/usr/share/doc/opencv-doc/examples/data/vtest.avi"))


needs_video = pytest.mark.skipif(
    not VIDEO.is_file(), reason=f"{VIDEO} is not here: apt install opencv-doc, or set TPR_VTEST"
)


@needs_video
def test_recall_and_precision_of_the_default_detector():
    """docs/footage.md has the figures; a person counts as found by a box of IoU 0.5."""
    open_cv()
    detector, correct, boxes = HogDetector(), 0, 0
    for frame in read_frames(VIDEO, Span(every=0, wanted=set(PEOPLE)), print):
        found = limit(detector(frame.pixels), (768, 576), 40, 0.2)
        overlap = iou(found.boxes, np.array(PEOPLE[frame.number], np.float32))
        correct += int((overlap[linear_sum_assignment(-overlap)] >= 0.5).sum())
        boxes += len(found.boxes)
    people = sum(map(len, PEOPLE.values()))
    assert people == 121
    assert correct / people >= 0.78 and correct / boxes >= 0.70


def test_a_track_is_of_the_walkers_in_half_of_its_crops():
    blond, red = (WALKERS[number].sightings for number in (1, 9))
    assert walkers_in(*red[0]) == {"red_jacket"} and walkers_in(red[0][0], (0, 0, 20, 40)) == set()
    assert walkers_in(red[0][0] + 6, red[0][1]) == set()
    assert walkers_of([blond[0], red[0]]) == {"blond_woman", "red_jacket"}
    assert walkers_of([blond[0], blond[1], red[0]]) == {"blond_woman"}


def test_the_rank_is_that_of_the_first_right_track():
    scores = np.array([[0.3, 0.2, 0.9], [0.3, 0.3, 0.1]])
    right = np.array([[True, True, False], [True, False, False]])
    assert first_ranks(scores, right) == [2, 2]


@needs_video
@pytest.mark.slow
def test_the_default_model_finds_walkers_by_clothes_and_colors(tmp_path):
    """docs/footage.md has the figures, also of clip-mini."""
    open_cv()
    run(["index", str(VIDEO), "--index", str(tmp_path / "index"), "--detect", "--keep_crops"])
    name = open_index(tmp_path / "index").info["model"]["name"]
    measured = measure(read_tracks(tmp_path / "index"), tpr_jax.from_pretrained(name))
    assert name == "clip-street" and len(measured.names) == 10
    assert measured.recall(1) >= 60 and measured.recall(5) >= 85
    assert np.min(measured.nobody) > 1  # the van is a track, too
