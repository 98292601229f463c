"""Imports OpenCV, which is optional."""

import os
from types import ModuleType

from tpr_jax.errors import UserError


def opencv() -> ModuleType:
    """Imports `cv2`, without the messages that its decoders print about damaged files.

    Raises:
      UserError: it is not installed.
    """
    # FFmpeg reads the variable when the first video is opened; -8 is its level "quiet".
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError:
        raise UserError(
            "videos and people in whole photos need OpenCV: pip install 'opencv-python-headless>=4.10,<5'"
        ) from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
