"""MiniPEDES: rendered people with captions, in CUHK-PEDES' on-disk format.

The three benchmarks of the field may not be passed on, so this one is drawn from a public-domain body
model. Its numbers are never comparable with those of a photographed benchmark.
"""

import os


def bundled_dir() -> str:
    """Path of the bundled data set (`reid_raw.json` and `imgs/`, 192x64 pixels)."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "bundled")
