"""RSTPReid as a TensorFlow Dataset; see `common.py` for what an example is and how it is built."""

import sys
from pathlib import Path

# `tfds build` imports this file from its folder, with nothing else of the project on the path.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tpr_jax.data.tfds_builders import common  # noqa: E402

import tensorflow_datasets as tfds  # noqa: E402 isort: skip

DESCRIPTION = "4,101 identities, 20,505 images, 41,010 captions (Zhu et al., ACM MM 2021)."
HOMEPAGE = "https://github.com/NjtechCVLab/RSTPReid-Dataset"
CITATION = r"""
@inproceedings{zhu2021dssl,
  title={DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval},
  author={Zhu, Aichun and Wang, Zijie and Li, Yifeng and Wan, Xili and Jin, Jing and Wang, Tian and
          Hu, Fangqiang and Hua, Gang},
  booktitle={ACM Multimedia},
  year={2021}
}
"""


class RstpReid(tfds.core.GeneratorBasedBuilder):
    """RSTPReid, from the folder that its authors give out."""

    VERSION = tfds.core.Version(common.VERSION)
    BUILDER_CONFIGS = common.configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    RSTPReid is given out by its authors on request, for research only: see the homepage for the agreement to
    sign. Its pictures are of MSMT17, whose own terms hold as well. It is not to be passed on.
    Give the folder that holds data_captions.json and imgs/ as --manual_dir.
    """

    def _info(self):
        return common.dataset_info(self, DESCRIPTION, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager):
        return common.split_generators(self, dl_manager, "rstp_reid")

    def _generate_examples(self):  # the splits' generators are given above
        raise NotImplementedError
