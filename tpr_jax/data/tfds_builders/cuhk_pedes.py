"""CUHK-PEDES as a TensorFlow Dataset; `common.py` describes its examples and how to build it."""

import sys
from pathlib import Path

# `tfds build` imports this file from its folder, with nothing else of the project on the path.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tpr_jax.data.tfds_builders import common


class CuhkPedes(common.PersonRetrievalBuilder):
    """Builds CUHK-PEDES from the folder that its authors distribute."""
