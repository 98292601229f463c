"""Loads the examples to draw: images and captions of a data set's split, or the user's own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from tpr_jax.data import datasets
from tpr_jax.data.custom import FILES
from tpr_jax.data.datasets import DATASETS, data_folder
from tpr_jax.data.images.read import Crop
from tpr_jax.data.records import caption_pairs, image_sources, load_records
from tpr_jax.errors import UserError
from tpr_jax.search.format import format_skipped
from tpr_jax.search.index.gallery import find_gallery
from tpr_jax.utils.plural import counted

MAX_NAMED = 3  # of the user's folders and files, in titles


@dataclass(frozen=True)
class Examples:
    """Images and texts; those of a data set have identities.

    Attributes:
      label: the name of the examples in titles.
      images: anything that `data.images.read.read_image` reads.
      image_names: the names of the images in titles.
      texts: captions or sentences.
      image_pids: the person in each image.
      text_pids: the person of each text.
      image_of_text: the index of the image that each text describes.
    """

    label: str
    images: list
    image_names: list[str]
    texts: list[str]
    image_pids: Int[np.ndarray, " n"] | None = None
    text_pids: Int[np.ndarray, " t"] | None = None
    image_of_text: Int[np.ndarray, " t"] | None = None


def user_examples(photos: Sequence[str], texts: Sequence[str]) -> Examples:
    """Loads the user's photos (folders, .csv or .jsonl tables with boxes, image files) and sentences.

    Raises:
      UserError: a path does not exist, a folder has no photos, or a sentence is empty.
    """
    images, names = [], []
    for path in photos:
        if Path(path).is_dir() or Path(path).suffix.lower() in (".csv", ".jsonl"):
            gallery = find_gallery(path)
            for line in format_skipped(gallery.not_photos(), max_listed=10):
                print(line)
            for photo in gallery.photos:
                file = os.fspath(gallery.root / photo.path)
                images.append(file if photo.box is None else Crop(file, *photo.box))
                names.append(photo.path)
        elif Path(path).exists():
            images.append(str(path))
            names.append(Path(path).name)
        else:
            raise UserError(f"--photos {path}: no such folder or file")
    places = [str(path) for path in photos[:MAX_NAMED]]
    places += [f"{len(photos) - MAX_NAMED} more"] if len(photos) > MAX_NAMED else []
    label = f"{counted(len(images), 'photo')} of {', '.join(places)}"
    return Examples(label, images, names, check_texts(texts))


def split_examples(dataset: str | None, data_dir: str | None, split: str) -> Examples:
    """Loads a split of a data set.

    Without `dataset`, it is the bundled MiniPEDES, or if there is a `data_dir`, the user's own data or a data
    set in the layout of CUHK-PEDES.

    Raises:
      UserError: the data set or split is unknown or missing.
    """
    if dataset is None and data_dir:
        has_own = any((Path(data_dir) / name).exists() for name in FILES)
        dataset = "folder" if has_own else "cuhk_pedes"
    dataset = dataset or "mini_pedes"
    if dataset not in DATASETS:
        raise UserError(f"--dataset {dataset}: is unknown: choose from: {', '.join(DATASETS)}")
    if dataset == "folder" and not data_dir:
        raise UserError("--dataset folder: your own data need --data_dir DIR")
    records = load_records(data_folder(dataset, data_dir or ""), split, dataset)
    described, captions, pids = caption_pairs(records)
    folders = [Path(path).parts[-2:] for path in records.image_paths]
    return Examples(
        label=f"{datasets.label(dataset)}, {split}",
        images=list(image_sources(records)),
        image_names=["/".join(parts) for parts in folders],
        texts=captions,
        image_pids=records.pids,
        text_pids=pids,
        image_of_text=described,
    )


def check_texts(texts: Sequence[str]) -> list[str]:
    """Returns the sentences as a list.

    Raises:
      UserError: a sentence is empty.
    """
    if not all(text.strip() for text in texts):
        raise UserError("--text: an empty sentence: give some words")
    return list(texts)


def evenly_spaced(count: int, number: int) -> Int[np.ndarray, " k"]:
    """Returns at most `number` evenly spaced indices in [0, count), including 0."""
    return np.unique(np.linspace(0, count - 1, min(count, number)).round().astype(np.int64))


def select_examples(examples: Examples, number: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the images and of the texts to draw.

    For a data set, these are images spread over it and the first caption of each; for the user's photos, the
    first ones. The user's sentences are all drawn.
    """
    if examples.image_pids is None:
        photos = list(range(min(number, len(examples.images))))
    else:
        photos = evenly_spaced(len(examples.images), number).tolist()
    if examples.image_of_text is None:
        return photos, list(range(len(examples.texts)))
    return photos, [int(np.argmax(examples.image_of_text == photo)) for photo in photos]
