"""CUHK-PEDES as a TensorFlow Dataset; see `common.py` for what an example is and how it is built."""

import sys
from pathlib import Path

# `tfds build` imports this file from its folder, with nothing else of the project on the path.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tpr_jax.data.tfds_builders import common  # noqa: E402

import tensorflow_datasets as tfds  # noqa: E402 isort: skip

DESCRIPTION = "13,003 identities, 40,206 images, 80,440 captions (Li et al., CVPR 2017)."
HOMEPAGE = "https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description"
CITATION = r"""
@inproceedings{li2017person,
  title={Person Search with Natural Language Description},
  author={Li, Shuang and Xiao, Tong and Li, Hongsheng and Zhou, Bolei and Yue, Dayu and Wang, Xiaogang},
  booktitle={CVPR},
  year={2017}
}
"""


class CuhkPedes(tfds.core.GeneratorBasedBuilder):
    """CUHK-PEDES, from the folder that its authors give out."""

    VERSION = tfds.core.Version(common.VERSION)
    BUILDER_CONFIGS = common.configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    CUHK-PEDES is given out by its authors on request, for research only: see the homepage for whom to write
    to, from the address of a university or institute. It is not to be passed on.
    Give the folder that holds reid_raw.json and imgs/ as --manual_dir.
    """

    def _info(self):
        return common.dataset_info(self, DESCRIPTION, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager):
        return common.split_generators(self, dl_manager, "cuhk_pedes")

    def _generate_examples(self):  # the splits' generators are given above
        raise NotImplementedError
