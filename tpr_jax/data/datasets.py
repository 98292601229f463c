"""The table of data sets: one row each, which defines everything that depends on the data set."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tpr_jax.data import custom, machine_captions, mini_pedes
from tpr_jax.data.text_files import json_records
from tpr_jax.errors import UserError
from tpr_jax.utils.plural import counted

# Where images and captions come from: the folder as the authors distribute it, or records prepared by
# `python -m tpr_jax.data.tfds_builders`, with the images at training size or as the original files.
SOURCES = ("files", "tfds_sized", "tfds_original")


class Counts(NamedTuple):
    """The size of a split, or of all splits together."""

    identities: int
    images: int
    captions: int

    def __str__(self) -> str:
        people = counted(self.identities, "identity", "identities")
        return f"{people}, {counted(self.images, 'image')}, {counted(self.captions, 'caption')}"


@dataclass(frozen=True)
class TfdsInfo:
    """The description of a benchmark in its TensorFlow Dataset."""

    builder: str  # the class in `tfds_builders/<name>.py`
    description: str
    homepage: str
    instructions: str  # how to obtain the data, and what --manual_dir must hold
    citation: str  # BibTeX


@dataclass(frozen=True)
class Dataset:
    """One data set: its annotation, the layout of its folder, and its official size.

    Attributes:
      name: the value of `config.dataset`.
      title: the authors' name for it, which is also the default folder below `data/`.
      annotations: names or glob patterns of the annotation file; the first that exists is read.
      reader: maps the annotation's path to (number of the record, its fields) for each record.
      images: the folder that the paths in the annotation are relative to; empty for the data set's own.
      get_images: what to do about images that are missing.
      path_field: the field of a record that holds the image's path.
      parts: a glob pattern of the files beside the annotation that the reader reads with it.
      split: the split of all records, where the annotation does not name one. `splits.hold_out` divides them.
      is_custom: whether it is a user's own folder, whose ids may be names and whose images may have boxes.
      is_rendered: whether the images are rendered and show no real people.
      counts: the official size of each split; {"all": ...} if the authors publish the totals only.
      reports_best_on_test: whether papers report the epoch that is best on the test split itself.
      tfds: None if there is no TensorFlow Datasets builder.
    """

    name: str
    title: str
    annotations: tuple[str, ...]
    reader: Callable[[str], Iterable[tuple[int, object]]] = json_records
    images: str = "imgs"
    get_images: str = "get a complete copy of the images"
    path_field: str = "file_path"
    parts: str = ""
    split: str = ""
    is_custom: bool = False
    is_rendered: bool = False
    counts: Mapping[str, Counts] | None = None
    reports_best_on_test: bool = False
    tfds: TfdsInfo | None = None

    @property
    def has_split_sizes(self) -> bool:
        """Whether the authors publish the size of each split, which a copy can be compared with."""
        return self.counts is not None and "all" not in self.counts

    @property
    def label(self) -> str:
        """The name to show beside metrics; those of rendered images must not pass for a benchmark's."""
        if self.is_custom:
            return "own data"
        return f"{self.title}, rendered" if self.is_rendered else self.title


_ROWS = (
    Dataset("mini_pedes", "MiniPEDES", ("reid_raw.json",), is_rendered=True),
    Dataset(
        "cuhk_pedes",
        "CUHK-PEDES",
        ("reid_raw.json",),
        counts={
            "train": Counts(11_003, 34_054, 68_126),
            "val": Counts(1_000, 3_078, 6_158),
            "test": Counts(1_000, 3_074, 6_156),
        },
        reports_best_on_test=True,
        tfds=TfdsInfo(
            builder="CuhkPedes",
            description="13,003 identities, 40,206 images, 80,440 captions (Li et al., CVPR 2017).",
            homepage="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
            instructions="""\
    The authors distribute CUHK-PEDES on request, for research only: the homepage says whom to write to, from
    the address of a university or institute. It must not be passed on.
    Give the folder that holds reid_raw.json and imgs/ as --manual_dir.
    """,
            citation=r"""
@inproceedings{li2017person,
  title={Person Search with Natural Language Description},
  author={Li, Shuang and Xiao, Tong and Li, Hongsheng and Zhou, Bolei and Yue, Dayu and Wang, Xiaogang},
  booktitle={CVPR},
  year={2017}
}
""",
        ),
    ),
    Dataset(
        "icfg_pedes",
        "ICFG-PEDES",
        # The last two are not the authors' names, but those of copies in circulation.
        ("ICFG-PEDES.json", "ICFG_PEDES.json", "ICFG.json", "annotations/ICFG-PEDES.json"),
        counts={"train": Counts(3_102, 34_674, 34_674), "test": Counts(1_000, 19_848, 19_848)},
        reports_best_on_test=True,
        tfds=TfdsInfo(
            builder="IcfgPedes",
            description=(
                "4,102 identities, 54,522 images, 54,522 captions; no validation split (Ding et al., 2021)."
            ),
            homepage="https://github.com/zifyloo/SSAN",
            instructions="""\
    The authors distribute ICFG-PEDES on request, for research only: the homepage has the agreement to sign.
    Its images come from MSMT17, whose own terms apply too. It must not be passed on.
    Give the folder that holds ICFG-PEDES.json and imgs/ as --manual_dir.
    """,
            citation=r"""
@article{ding2021semantically,
  title={Semantically Self-Aligned Network for Text-to-Image Part-aware Person Re-identification},
  author={Ding, Zefeng and Ding, Changxing and Shao, Zhiyin and Tao, Dacheng},
  journal={arXiv:2107.12666},
  year={2021}
}
""",
        ),
    ),
    Dataset(
        "rstp_reid",
        "RSTPReid",
        ("data_captions.json",),
        path_field="img_path",
        counts={
            "train": Counts(3_701, 18_505, 37_010),
            "val": Counts(200, 1_000, 2_000),
            "test": Counts(200, 1_000, 2_000),
        },
        reports_best_on_test=True,
        tfds=TfdsInfo(
            builder="RstpReid",
            description="4,101 identities, 20,505 images, 41,010 captions (Zhu et al., ACM MM 2021).",
            homepage="https://github.com/NjtechCVLab/RSTPReid-Dataset",
            instructions="""\
    The authors distribute RSTPReid on request, for research only: the homepage has the agreement to sign. Its
    images come from MSMT17, whose own terms apply too. It must not be passed on.
    Give the folder that holds data_captions.json and imgs/ as --manual_dir.
    """,
            citation=r"""
@inproceedings{zhu2021dssl,
  title={DSSL: Deep Surroundings-person Separation Learning for Text-based Person Retrieval},
  author={Zhu, Aichun and Wang, Zijie and Li, Yifeng and Wan, Xili and Jin, Jing and Wang, Tian and
          Hu, Fangqiang and Hua, Gang},
  booktitle={ACM Multimedia},
  year={2021}
}
""",
        ),
    ),
    Dataset(
        "ufine6926",
        "UFine6926",
        ("*.json",),  # the authors document the fields but not the file's name: the folder's only JSON file
        images="",
        counts={"all": Counts(6_926, 26_206, 52_412)},
        tfds=TfdsInfo(
            builder="Ufine6926",
            description="6,926 identities, 26,206 images, 52,412 long captions (Zuo et al., CVPR 2024).",
            homepage="https://github.com/Zplusdragon/UFineBench",
            instructions="""\
    The authors distribute UFine6926 on request, for research only: sign the license on the homepage and send
    it to the addresses given there. It must not be passed on.
    Give the folder that holds its annotation (the only JSON file there) and images/ as --manual_dir.
    """,
            citation=r"""
@inproceedings{zuo2024ufinebench,
  title={UFineBench: Towards Text-based Person Retrieval with Ultra-fine Granularity},
  author={Zuo, Jialong and Zhou, Hanyu and Nie, Ying and Zhang, Feng and Guo, Tianyu and Sang, Nong and
          Wang, Yunhe and Gao, Changxin},
  booktitle={CVPR},
  year={2024}
}
""",
        ),
    ),
    # For pre-training, without splits. The fields `attributes` and `prompt_caption` are ignored.
    Dataset(
        "synth_pedes",
        "SYNTH-PEDES",
        ("synthpedes_dataset.json", "synthpedes-dataset.json"),
        images="",
        split="train",
    ),
    # The captions of LUPerson by Tan et al. (CVPR 2024), and the folder of images that their code reads.
    Dataset(
        "luperson_mllm",
        "LUPerson-MLLM",
        ("Ts-qwen.json", "caption/Ts-qwen.json", "captions/Ts-qwen.json"),
        reader=machine_captions.read_luperson_mllm,
        images="LUPerson-MLLM",
        parts=machine_captions.LUPERSON_FILES,
        split="train",
    ),
    # The captions of a million images of SYNTH-PEDES by Jiang et al. (CVPR 2025).
    Dataset(
        "ham_pedes",
        "HAM-PEDES",
        ("random100w_2HAMcaptions.json",),
        reader=machine_captions.read_ham_pedes,
        images="",
        split="train",
    ),
    # By Zheng et al. (EMNLP 2025), as Parquet files; `data.unpack_webperson` writes the images in them.
    Dataset(
        "webperson",
        "WebPerson-5M",
        ("data/train-00000-*.parquet",),
        reader=machine_captions.read_webperson,
        images="images",
        get_images="`python -m tpr_jax.data.unpack_webperson DIR` writes them",
        parts=machine_captions.WEBPERSON_SHARDS,
        split="train",
    ),
    Dataset(
        "folder", "", custom.FILES, reader=custom.read_rows, images="", path_field="image", is_custom=True
    ),
)
DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in _ROWS}
BENCHMARKS = tuple(dataset.name for dataset in _ROWS if dataset.reports_best_on_test)


def label(dataset: str) -> str:
    """Returns a data set's name as shown beside its metrics; an unknown name is returned unchanged."""
    return DATASETS[dataset].label if dataset in DATASETS else dataset


def data_folder(dataset: str, data_dir: str) -> str:
    """Returns `data_dir` if it is given, else the bundled MiniPEDES or `data/<title>`.

    Raises:
      UserError: `dataset` is "folder" and `data_dir` is empty.
    """
    if data_dir:
        return data_dir
    if DATASETS[dataset].is_custom:
        raise UserError(
            "config.data_dir is missing: dataset 'folder' needs the folder, --config.data_dir=DIR"
        )
    return (
        mini_pedes.bundled_dir() if dataset == "mini_pedes" else str(Path("data") / DATASETS[dataset].title)
    )


def count_deviations(dataset: str, counts: Mapping[str, Counts]) -> list[str]:
    """Returns a line for each split whose size differs from the official one, if there is one."""
    official, counts = DATASETS[dataset].counts, dict(counts)
    if official is None:
        return []
    if "all" in official and counts:
        counts = {"all": Counts(*map(sum, zip(*counts.values(), strict=True)))}
    lines = []
    for split in dict.fromkeys((*official, *counts)):
        actual, expected = counts.get(split, Counts(0, 0, 0)), official.get(split, Counts(0, 0, 0))
        if actual != expected:
            lines.append(f"{split} has {actual}; officially {expected}")
    return lines
