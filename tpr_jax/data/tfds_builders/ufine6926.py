"""UFine6926 as a TensorFlow Dataset; see `common.py` for what an example is and how it is built."""

import sys
from pathlib import Path

# `tfds build` imports this file from its folder, with nothing else of the project on the path.
sys.path.append(str(Path(__file__).resolve().parents[3]))

from tpr_jax.data.tfds_builders import common  # noqa: E402

import tensorflow_datasets as tfds  # noqa: E402 isort: skip

DESCRIPTION = "6,926 identities, 26,206 images, 52,412 long captions (Zuo et al., CVPR 2024)."
HOMEPAGE = "https://github.com/Zplusdragon/UFineBench"
CITATION = r"""
@inproceedings{zuo2024ufinebench,
  title={UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity},
  author={Zuo, Jialong and Zhou, Hanyu and Nie, Ying and Zhang, Feng and Guo, Tianyu and Sang, Nong and
          Wang, Yunhe and Gao, Changxin},
  booktitle={CVPR},
  year={2024}
}
"""


class Ufine6926(tfds.core.GeneratorBasedBuilder):
    """UFine6926, from the folder that its authors give out."""

    VERSION = tfds.core.Version(common.VERSION)
    BUILDER_CONFIGS = common.configs()
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    UFine6926 is given out by its authors on request, for research only: sign the license that lies at the
    homepage and send it to the addresses there. It is not to be passed on.
    Give the folder that holds its annotation (the one JSON file there) and images/ as --manual_dir.
    """

    def _info(self):
        return common.dataset_info(self, DESCRIPTION, HOMEPAGE, CITATION)

    def _split_generators(self, dl_manager):
        return common.split_generators(self, dl_manager, "ufine6926")

    def _generate_examples(self):  # the splits' generators are given above
        raise NotImplementedError
