"""MiniPEDES: rendered people with captions, in CUHK-PEDES' on-disk format.

The benchmarks of the field must not be redistributed, so this one is rendered from a public-domain body
model. Its results are never comparable with those on a photographed benchmark.
"""

import os


def bundled_dir() -> str:
    """Returns the path of the bundled data set (`reid_raw.json` and `imgs/`, 192 x 64 pixels)."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "bundled")
