"""Writes a data set; every image and caption is a function of (seed, domain, split, identity, view)."""

import json
import multiprocessing
import os
import re

import numpy as np
from PIL import Image
from tqdm import tqdm

from tpr_jax.data.mini_pedes.captions import caption, part_shares, visible_attributes
from tpr_jax.data.mini_pedes.hard_captions import WRONG_SHARE, exchange_captions, hard_caption
from tpr_jax.data.mini_pedes.hard_people import group_of, sample_group
from tpr_jax.data.mini_pedes.hard_scene import hard_view, render_hard, sample_conditions
from tpr_jax.data.mini_pedes.render import render
from tpr_jax.data.mini_pedes.scene import sample_view
from tpr_jax.data.mini_pedes.street_captions import street_caption, thing_caption
from tpr_jax.data.mini_pedes.street_people import CLOTH, sample_street_person
from tpr_jax.data.mini_pedes.street_scene import render_street, render_thing, street_view
from tpr_jax.data.mini_pedes.wardrobe import pick_weighted, sample_person
from tpr_jax.errors import UserError
from tpr_jax.utils import signals
from tpr_jax.utils.files import write_text, write_whole
from tpr_jax.utils.seeds import check_seed

DOMAINS = ("mini", "pretrain", "street", "hard")
SPLITS = ("train", "val", "test")
SIZES = {
    "mini": (500, 100, 250),
    "pretrain": (4000, 200, 200),
    "street": (4000, 200, 200),
    "hard": (1000, 200, 2000),
}
VIEWS = 4
# A large test split with one image per person, rendered in two minutes on two cores.
HARD_VIEWS = {"train": 2, "val": 1, "test": 1}
HARD_TRIES = 8  # views of a person, until one shows what tells them from their look-alikes
THING_EVERY = 16  # of the identities of `street`, one of so many is a thing without a person
STATE = ".unfinished.json"
QUALITY = 74  # keeps the 3,400 images of the bundled set, the captions and the body within 12 MB


def split_sizes(domain: str, split: str, identities: int | None) -> dict[str, int]:
    """Returns the number of identities in each split; `identities` is that of `split` (of train for 'all').

    The other splits are scaled in proportion, so that ids never overlap, whichever splits are generated.
    """
    sizes = dict(zip(SPLITS, SIZES[domain], strict=True))
    if identities is None:
        return sizes
    base = sizes["train" if split == "all" else split]
    scaled = {name: max(1, round(size * identities / base)) for name, size in sizes.items()}
    return scaled | {"train" if split == "all" else split: identities}


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


def make_example(
    seed: int, domain: str, split: str, identity: int, view_index: int, *, size: tuple[int, int]
) -> dict:
    """Renders one example: person, view, image, parts, seen, captions, and named (a dict per caption).

    `size` is (height, width) in pixels.
    """
    key = (seed, DOMAINS.index(domain), SPLITS.index(split), identity)
    if domain == "street":
        return _street_example(key, view_index, size)
    if domain == "hard":
        return _hard_example(key, view_index, size)
    person = sample_person(_rng(*key), domain)
    view = sample_view(_rng(*key, view_index, 0), domain, view_index)
    drawn = render(person, view, _rng(*key, view_index, 1), *size)
    seen = visible_attributes(person, view, part_shares(drawn["parts"]))
    rng = _rng(*key, view_index, 2)
    captions = [caption(rng, person, seen) for _ in range(2)]
    return drawn | {
        "person": person,
        "view": view,
        "seen": seen,
        "captions": [text for text, _ in captions],
        "named": [named for _, named in captions],
    }


def bundled_person(pid: int) -> dict:
    """Returns the person with this identity in the bundled MiniPEDES, as `sample_person` does.

    Args:
      pid: from 1 on: first the people of train, then those of val and of test.
    """
    for index, count in enumerate(SIZES["mini"]):
        if pid <= count:
            return sample_person(_rng(0, DOMAINS.index("mini"), index, pid - 1), "mini")
        pid -= count
    raise ValueError(f"MiniPEDES has {sum(SIZES['mini'])} people")


def _street_example(key: tuple[int, ...], view_index: int, size: tuple[int, int]) -> dict:
    """Renders one example of `street`; an identity of 16 is a thing instead of a person."""
    rng = _rng(*key, view_index, 1)
    if key[-1] % THING_EVERY == THING_EVERY - 1:
        names = _rng(*key)
        thing = (None, "van", "car", "sign")[int(names.integers(4))]
        color = pick_weighted(names, dict.fromkeys(CLOTH, 1) | {"white": 6, "grey": 3, "black": 3})
        image = render_thing(rng, thing, color, *size)
        texts = [thing_caption(rng, thing, color) for _ in range(2)]
        return {"person": None, "view": None, "image": image, "captions": texts}
    person, view = sample_street_person(_rng(*key)), street_view(_rng(*key, view_index, 0), view_index)
    drawn = render_street(person, view, rng, *size)
    seen = visible_attributes(person, view, part_shares(drawn["parts"]))
    captions = [street_caption(rng, person, seen) for _ in range(2)]
    return drawn | {
        "person": person,
        "view": view,
        "seen": seen,
        "captions": [text for text, _ in captions],
        "named": [named for _, named in captions],
    }


def _hard_example(key: tuple[int, ...], view_index: int, size: tuple[int, int]) -> dict:
    """Renders one example of `hard`, with `hard`, its conditions, and for look-alikes `group` and `differs`.

    `group` is the first identity of the group, and `differs` the attribute in which its people differ; both
    are None for others.
    """
    *stream, split, identity = key
    group, must, person = group_of(identity), None, None
    if group is None:
        person = sample_person(_rng(*key), "mini")
    else:
        must, people = sample_group(_rng(*stream, split, group))
        person = people[identity - group]
    # A bag that is missing is visible wherever one would be.
    needed = {"top", must} - {None} - ({"bag"} if person["bag"] is None else set())
    conditions = sample_conditions(_rng(*key, view_index, 0))
    for attempt in range(HARD_TRIES):
        rng = _rng(*key, view_index, 1, attempt)
        view = hard_view(rng, int(rng.integers(VIEWS)) if attempt == 0 else attempt)

        def shows_enough(parts: np.ndarray, view: dict = view) -> bool:
            return needed <= set(visible_attributes(person, view, part_shares(parts)))

        drawn = render_hard(person, view, conditions, rng, size, shows_enough)
        if shows_enough(drawn["parts"]):
            break
    else:
        raise AssertionError(f"no view of {key} shows {needed}")
    seen = visible_attributes(person, view, part_shares(drawn["parts"]))
    rng = _rng(*key, view_index, 2)
    captions = [hard_caption(rng, seen, must, is_test=SPLITS[split] == "test") for _ in range(2)]
    return drawn | {
        "person": person,
        "view": view,
        "seen": seen,
        "captions": [text for text, _ in captions],
        "named": [named for _, named in captions],
        "group": group,
        "differs": must,
    }


def words_of(text: str) -> list[str]:
    """Returns a caption's lower-case words without punctuation, except for hyphens."""
    return re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())


def _write_one(job: tuple) -> dict:
    out, settings, split, identity, pid, view_index = job
    name = f"{split}/{pid:05d}_{view_index}.jpg"
    path = os.path.join(out, "imgs", name)
    note = path[:-4] + ".json"
    if os.path.exists(path) and os.path.exists(note):
        with open(note, encoding="utf-8") as f:
            fields = json.load(f)
    else:
        example = make_example(
            settings["seed"], settings["domain"], split, identity, view_index, size=tuple(settings["size"])
        )
        fields = {"captions": example["captions"]}
        if settings["domain"] == "hard":
            fields["hard"] = example["hard"]
            if example["group"] is not None:
                fields |= {"group": pid - identity + example["group"], "differs": example["differs"]}
        with open(note, "w", encoding="utf-8") as f:
            json.dump(fields, f)
        image = Image.fromarray(example["image"])
        write_whole(path, lambda p: image.save(p, "JPEG", quality=QUALITY, optimize=True))
    return {
        "split": split,
        "captions": fields.pop("captions"),
        "file_path": name,
        "processed_tokens": [],
        "id": pid,
        **fields,
    }


def _prepare(out: str, settings: dict) -> None:
    """Creates the folder, or checks that it holds an unfinished run with the same settings."""
    state = os.path.join(out, STATE)
    if os.path.exists(state):
        with open(state, encoding="utf-8") as f:
            begun = f.read()
        if begun != json.dumps(settings):
            raise UserError(f"--out {out} holds an unfinished run of other settings: choose another folder")
        return
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise UserError(f"--out {out} exists and is not an empty folder: choose another folder or empty it")
    os.makedirs(out, exist_ok=True)
    write_text(state, json.dumps(settings))


def generate(
    out: str,
    *,
    split: str = "all",
    identities: int | None = None,
    size: tuple[int, int] = (192, 64),
    domain: str = "mini",
    seed: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> list[dict]:
    """Writes `reid_raw.json` and `imgs/` into `out` and returns the records.

    Resumes an unfinished run with the same settings. `size` is (height, width).

    Raises:
      UserError: `out` holds anything else, or `seed` is not a whole number of 32 bits.
    """
    check_seed(seed)
    settings = {"split": split, "identities": identities, "size": list(size), "domain": domain, "seed": seed}
    _prepare(out, settings)
    jobs, first = [], 1
    for name, count in split_sizes(domain, split, identities).items():
        if split in ("all", name):
            os.makedirs(os.path.join(out, "imgs", name), exist_ok=True)
            views = HARD_VIEWS[name] if domain == "hard" else VIEWS
            jobs += [(out, settings, name, i, first + i, v) for i in range(count) for v in range(views)]
        first += count
    bar = {"total": len(jobs), "unit": "img", "disable": not progress, "desc": f"MiniPEDES ({domain})"}
    if processes > 1:
        # Spawned processes, because forking a process with threads (BLAS, JAX) may hang.
        with signals.blocked():
            pool = multiprocessing.get_context("spawn").Pool(processes)
        with pool:
            records = list(tqdm(pool.imap(_write_one, jobs, chunksize=16), **bar))
    else:
        records = [_write_one(job) for job in tqdm(jobs, **bar)]

    if domain == "hard":
        records = exchange_captions(records, WRONG_SHARE, _rng(seed, DOMAINS.index(domain)))
    for record in records:
        record["processed_tokens"] = [words_of(text) for text in record["captions"]]
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    write_text(os.path.join(out, "reid_raw.json"), f"[\n{lines}\n]\n")
    for folder in {os.path.dirname(record["file_path"]) for record in records}:
        for name in os.listdir(os.path.join(out, "imgs", folder)):
            if name.endswith(
                (".json", ".tmp")
            ):  # captions kept for resuming, and leftovers of an interrupted run
                os.unlink(os.path.join(out, "imgs", folder, name))
    os.unlink(os.path.join(out, STATE))
    return records
