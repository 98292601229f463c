"""ICFG-PEDES as a TensorFlow Dataset; see `common.py` for what an example is and how it is built."""

import sys
from pathlib import Path

# `tfds build` imports this file from its folder, with nothing else of the project on the path.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tpr_jax.data.tfds_builders import common  # noqa: E402

import tensorflow_datasets as tfds  # noqa: E402 isort: skip

DESCRIPTION = "4,102 identities, 54,522 images, 54,522 captions; no validation split (Ding et al., 2021)."
HOMEPAGE = "https://github.com/zifyloo/SSAN"
CITATION = r"""
@article{ding2021semantically,
  title={Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification},
  author={Ding, Zefeng and Ding, Changxing and Shao, Zhiyin and Tao, Dacheng},
  journal={arXiv:2107.12666},
  year={2021}
}
"""


class IcfgPedes(tfds.core.GeneratorBasedBuilder):
    """ICFG-PEDES, from the folder that its authors give out."""

    VERSION = tfds.core.Version(common.VERSION)
    BUILDER_CONFIGS = common.configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    ICFG-PEDES is given out by its authors on request, for research only: see the homepage for the agreement
    to sign. Its pictures are of MSMT17, whose own terms hold as well. It is not to be passed on.
    Give the folder that holds ICFG-PEDES.json and imgs/ as --manual_dir.
    """

    def _info(self):
        return common.dataset_info(self, DESCRIPTION, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager):
        return common.split_generators(self, dl_manager, "icfg_pedes")

    def _generate_examples(self):  # the splits' generators are given above
        raise NotImplementedError
