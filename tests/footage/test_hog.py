import numpy as np

from tests.footage.videos import open_cv
from tpr_jax.footage.hog import HogDetector


def test_finds_nobody_in_an_empty_frame_and_accepts_small_ones():
    open_cv()
    detector = HogDetector()
    for size in ((240, 320), (20, 30)):
        assert detector(np.full((*size, 3), 128, np.uint8)).boxes.shape == (0, 4)


def test_boxes_are_in_pixels_of_the_frame():
    """OpenCV's detector is replaced by one that finds a window of 64 x 128 at (128, 64)."""
    open_cv()

    class Window:
        def detectMultiScale(self, gray, **_):
            assert gray.shape == (480, 640)  # enlarged twice
            return np.array([[128, 64, 64, 128]]), np.array([1.5])

    detector = HogDetector()
    detector._hog = lambda cv2: Window()
    found = detector(np.zeros((240, 320, 3), np.uint8))
    # A person fills 0.7 of the width and 0.8 of the height of a window.
    assert np.allclose(found.boxes, [[64 + 0.15 * 32, 32 + 0.1 * 64, 0.7 * 32, 0.8 * 64]])
    assert found.scores == [1.5]
