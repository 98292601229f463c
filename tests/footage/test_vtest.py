"""Real people: the video `vtest.avi` of Debian's package `opencv-doc`, which is not part of this project."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.footage.videos import open_cv
from tests.footage.vtest_people import PEOPLE
from tpr_jax.footage.detections import iou, limit
from tpr_jax.footage.hog import HogDetector
from tpr_jax.footage.video import Span, read_frames

VIDEO = Path(os.environ.get("TPR_VTEST", "/usr/share/doc/opencv-doc/examples/data/vtest.avi"))


@pytest.mark.skipif(
    not VIDEO.is_file(), reason=f"{VIDEO} is not here: apt install opencv-doc, or set TPR_VTEST"
)
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
