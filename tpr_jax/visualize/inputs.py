"""What is shown: the photos and captions of a data set's split, or photos and sentences of one's own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tpr_jax.data.annotations import DATASETS
from tpr_jax.data.custom import FILES
from tpr_jax.data.datasets import data_folder
from tpr_jax.data.images.read import Crop
from tpr_jax.data.records import caption_pairs, image_sources, load_records
from tpr_jax.errors import UserError
from tpr_jax.report.facts import DATASET_NAMES
from tpr_jax.search.index.gallery import find_gallery


@dataclass(frozen=True)
class Shown:
    """Photos and sentences; of a data set also who is who."""

    label: str  # for titles
    photos: list  # whatever `images.read.read_image` reads
    names: list[str]  # the photos', for titles
    texts: list[str]
    photo_pids: np.ndarray | None = None  # int64 [photos]
    text_pids: np.ndarray | None = None  # int64 [texts]
    described: np.ndarray | None = None  # int32 [texts], the photo that each is a caption of


def own(photos: Sequence[str], texts: Sequence[str]) -> Shown:
    """Photos of folders, of tables with boxes (.csv, .jsonl) and single ones, by name; own sentences.

    Raises:
      UserError: nothing is there, a folder has no photos, or a sentence is empty.
    """
    sources, names = [], []
    for place in photos:
        if Path(place).is_dir() or Path(place).suffix.lower() in (".csv", ".jsonl"):
            gallery = find_gallery(place)
            paths = [os.fspath(gallery.root / photo.path) for photo in gallery.photos]
            pairs = zip(paths, gallery.photos, strict=True)
            sources += [path if photo.box is None else Crop(path, *photo.box) for path, photo in pairs]
            names += [photo.path for photo in gallery.photos]
        elif Path(place).exists():
            sources.append(str(place))
            names.append(Path(place).name)
        else:
            raise UserError(f"--photos {place}: no such folder or file")
    return Shown(f"{len(sources)} photos of {', '.join(map(str, photos))}", sources, names, sentences(texts))


def split_of(dataset: str | None, data_dir: str | None, split: str) -> Shown:
    """A split; by default of MiniPEDES as bundled, or of own data or CUHK-PEDES' layout in `data_dir`.

    Raises:
      UserError: the data set or split is unknown or not there.
    """
    if dataset is None and data_dir:
        has_own = any((Path(data_dir) / name).exists() for name in FILES)
        dataset = "folder" if has_own else "cuhk_pedes"
    dataset = dataset or "mini_pedes"
    if dataset not in DATASETS:
        raise UserError(f"--dataset {dataset}: is unknown: known are {', '.join(DATASETS)}")
    if dataset == "folder" and not data_dir:
        raise UserError("--dataset folder: own data need their folder, --data_dir DIR")
    records = load_records(data_folder(dataset, data_dir or ""), split, dataset)
    described, captions, pids = caption_pairs(records)
    folders = [Path(path).parts[-2:] for path in records.image_paths]
    return Shown(
        label=f"{DATASET_NAMES.get(dataset, dataset)}, {split}",
        photos=image_sources(records),
        names=["/".join(parts) for parts in folders],
        texts=captions,
        photo_pids=records.pids,
        text_pids=pids,
        described=described,
    )


def sentences(texts: Sequence[str]) -> list[str]:
    """Sentences as given. Raises UserError where one has no word."""
    if not all(text.strip() for text in texts):
        raise UserError("--text: an empty sentence: give some words")
    return list(texts)


def spread(count: int, number: int) -> np.ndarray:
    """At most `number` of the rows 0 .. count-1, spread evenly over them, the first among them."""
    return np.unique(np.linspace(0, count - 1, min(count, number)).round().astype(np.int64))


def some(shown: Shown, number: int) -> tuple[list[int], list[int]]:
    """(rows of photos, rows of texts) to draw: of a data set photos spread over it and the first caption of
    each; else the first photos. One's own sentences are all drawn."""
    if shown.photo_pids is None:
        photos = list(range(min(number, len(shown.photos))))
    else:
        photos = spread(len(shown.photos), number).tolist()
    if shown.described is None:
        return photos, list(range(len(shown.texts)))
    return photos, [int(np.argmax(shown.described == photo)) for photo in photos]
