"""OpenCV's people detectors by histograms of oriented gradients (HOG): embedded, no download, on the CPU."""

import threading

import numpy as np
from jaxtyping import UInt8

from tpr_jax.footage.detections import Detections, make_detections, suppress
from tpr_jax.footage.opencv import opencv

# A window is higher than the person in it: OpenCV's people fill about this share of 64 x 128 pixels.
_PERSON = (0.70, 0.80)  # of its width and height
_LARGEST = 1280  # pixels of the longer side; larger frames are reduced to it
_OVERLAP, _INSIDE = 0.4, 0.7


class HogDetector:
    """Finds standing people; they must be at least 100 pixels high once the frame is enlarged.

    Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005.
    """

    def __init__(self, enlarge: float = 2.0, steps: float = 1.1):
        """Loads the coefficients that OpenCV has.

        Args:
          enlarge: factor by which frames are enlarged, at most to `_LARGEST` pixels.
          steps: ratio between two sizes of people that are looked for.
        """
        self.enlarge, self.steps = enlarge, steps
        self._local = threading.local()  # `detectMultiScale` of one object must not run twice at a time
        opencv()

    @property
    def fingerprint(self) -> str:
        """Identifies the detector and its settings."""
        return f"hog 3 {self.enlarge} {self.steps}"

    def __call__(self, pixels: UInt8[np.ndarray, "h w 3"]) -> Detections:
        """Returns the people in a frame; scores are margins of the SVM, mostly between 0 and 3."""
        cv2 = opencv()
        factor = min(self.enlarge, _LARGEST / max(pixels.shape[:2]))
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if factor != 1:
            how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            gray = cv2.resize(gray, None, fx=factor, fy=factor, interpolation=how)
        if gray.shape[0] < 128 or gray.shape[1] < 64:
            return make_detections([], [])
        boxes, weights = self._hog(cv2).detectMultiScale(
            gray, winStride=(8, 8), padding=(8, 8), scale=self.steps, groupThreshold=0
        )
        found = make_detections(np.asarray(boxes, np.float32).reshape(-1, 4) / factor, weights)
        return suppress(found._replace(boxes=_shrink(found.boxes)), _OVERLAP, _INSIDE)

    def _hog(self, cv2):
        if not hasattr(self._local, "hog"):
            self._local.hog = cv2.HOGDescriptor()
            self._local.hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())
        return self._local.hog


def _shrink(windows: np.ndarray) -> np.ndarray:
    """Returns the boxes of the people within the windows that the detector found."""
    sizes = windows[:, 2:] * np.array(_PERSON, np.float32)
    return np.concatenate([windows[:, :2] + (windows[:, 2:] - sizes) / 2, sizes], axis=1).astype(np.float32)
