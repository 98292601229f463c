"""Makes an index, or brings one up to date: what is new or changed is encoded, what is gone dropped."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from tpr_jax.distributed.processes import is_first
from tpr_jax.errors import UserError
from tpr_jax.model import Model, from_pretrained
from tpr_jax.models.config import CLIP_MINI
from tpr_jax.search.index import shards, store
from tpr_jax.search.index.cache import Known, find_known
from tpr_jax.search.index.encode import batches, encode, make_encoder, read_ahead
from tpr_jax.search.index.gallery import Gallery, Photo, find_gallery
from tpr_jax.search.index.merge import write_index
from tpr_jax.utils import locking
from tpr_jax.utils.signals import Stopped, catch_signals

PART_ROWS, PART_SECONDS = 8192, 20.0  # what a kill may cost


def build(
    source: str | os.PathLike,
    folder: str | os.PathLike,
    model: str | os.PathLike | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    approximate: bool | None = None,
    exclude: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Encodes the photos of `source` (see `find_gallery`) into the index in `folder`.

    `model` is by default the one the index was made with, else the bundled clip-mini; `image_size` (height,
    width) and `dtype` likewise, else the model's own and float32. `approximate` makes lists for an
    approximate search, by default above a million photos. `exclude` are patterns of names or paths that are
    left out (`folder.excluded`). With several JAX processes, each encodes a share of
    the photos; all need the same folders.

    Returns `count` (photos in the index), `encoded`, `kept`, `gone`, `skipped` (list of (photo, why)),
    `left_out` ({name: folders and files of that name}) and `seconds`, of these `encoding_seconds`.

    Raises:
      UserError: nothing is there to index, the model is another one than the index's, or a folder cannot be
        read or written.
      interrupt.Stopped: SIGINT or SIGTERM came; the next run goes on.
    """
    begun, folder = time.monotonic(), Path(folder)
    gallery = find_gallery(source, leave_out=folder, exclude=exclude)
    with _only_one(folder, say):
        made = _build(gallery, folder, model, image_size, dtype, batch_size, approximate, say)
    return made | {"seconds": time.monotonic() - begun}


def _build(gallery: Gallery, folder: Path, model, image_size, dtype, batch_size, approximate, say) -> dict:
    """As `build`, in a folder that no other process writes."""
    info = store.read_info(folder)
    old = store.open_index(folder) if info else None
    settings = _settings(folder, info, model, image_size, dtype)
    # What a new index is made with, only the model itself knows.
    loaded = None if info else _load(settings, folder)
    recipe = shards.recipe(settings)
    known = find_known(old, folder / "parts", recipe, gallery.root)
    if known.left_out and is_first():
        say(
            f"left out {known.left_out} files in {folder / 'parts'}: an interrupted run with another model, "
            "image size or type wrote them"
        )
    todo = _changed(gallery, known)
    seconds, encoded = 0.0, 0
    if todo or not info:
        say(f"{len(todo):,} of {len(gallery.photos):,} photos to encode with {settings['name']}")
        loaded = loaded or _load(settings, folder)
        mine = np.array_split(np.arange(len(todo)), jax.process_count())[jax.process_index()]
        share = [todo[i] for i in mine]
        run = shards.next_run(folder / "parts")
        keep = functools.partial(shards.write_part, folder / "parts", run, recipe, str(gallery.root))
        seconds, encoded = _encode_all(loaded, gallery, share, known, keep, batch_size)
        _meet("encoded")
        known = find_known(old, folder / "parts", recipe, gallery.root)
    result = {
        "count": 0,
        "encoded": encoded,
        "encoding_seconds": seconds,
        "left_out": dict(gallery.left_out),
    }
    if is_first():
        say("writing the index")
        result |= write_index(folder, gallery, known, old, settings, loaded, approximate)
        shards.remove_parts(folder / "parts")
    _meet("written")
    return result


def _settings(folder: Path, info: dict | None, model, image_size, dtype) -> dict:
    """Name, SHA-256, image size and type of the model to encode with; an index keeps to its own."""
    made = info["model"] if info else {}
    name = model or made.get("name") or CLIP_MINI
    found = store.model_sha256(name)
    if info:
        store.check_model(info, folder, name, found)
        for flag, asked in (("image_size", image_size and list(image_size)), ("dtype", dtype)):
            if asked and asked != made[flag]:
                raise UserError(
                    f"--{flag} {asked}: but {folder} was made with {made[flag]}: leave it out, or index the "
                    "photos into a new folder"
                )
        return dict(made) | {"name": store.find(name).name}
    return {
        "name": store.find(name).name,
        "sha256": found,
        "image_size": tuple(image_size) if image_size else None,
        "dtype": dtype or "float32",
    }


def _load(settings: dict, folder: Path) -> Model:
    """Loads the model, and writes into `settings` what it says of itself.

    Raises UserError as `from_pretrained`, or where it reads pixels in another way than it did for the index.
    """
    loaded = from_pretrained(settings["name"], settings["image_size"], settings["dtype"])
    if "embed_dim" in settings:  # of an index
        store.check_pixels(settings, folder, loaded)
        return loaded
    settings.update(image_size=list(loaded.config.image_size), embed_dim=loaded.config.embed_dim)
    settings.update(mean=[float(x) for x in loaded.mean], std=[float(x) for x in loaded.std])
    return loaded


def _changed(gallery: Gallery, known: Known) -> list[Photo]:
    """The photos whose files have not the size and time that is known of them."""

    def same(photo: Photo) -> bool:
        with contextlib.suppress(OSError):
            status = os.stat(gallery.root / photo.path)
            return known.unchanged(photo, status.st_size, status.st_mtime_ns) is not None
        return False

    return [photo for photo in gallery.photos if not same(photo)]


def _encode_all(
    model: Model, gallery: Gallery, todo: Sequence[Photo], known: Known, write: Callable, batch_size
) -> tuple[float, int]:
    """Encodes photos into parts, `write(photos, vectors, skipped)`; returns the seconds it took and how many
    were encoded."""
    encoder, devices = make_encoder(model)
    on_cpu = jax.default_backend() == "cpu"
    size = -(-(batch_size or (32 if on_cpu else 256 * devices)) // devices) * devices
    image_size, done, skipped, rows, encoded = model.config.image_size, [], [], [], 0
    begun = last = time.monotonic()

    def keep() -> None:
        if done or skipped:
            vectors = np.concatenate([*rows, np.zeros((0, model.config.embed_dim), np.float16)])
            write(done, vectors, skipped)
        done.clear(), skipped.clear(), rows.clear()

    reads = read_ahead(gallery.root, todo, image_size, known.same_content, ahead=4 * size)
    encoded_batches = encode(encoder, batches(reads, image_size, size))
    bar = tqdm(total=len(todo), desc="photos", unit="", dynamic_ncols=True, disable=None)
    with catch_signals() as asked, bar, contextlib.closing(reads):
        for passed, vectors in encoded_batches:
            fresh = [read for read in passed if read.pixels is not None]
            same = [read for read in passed if read.known is not None]
            done += [(read.photo, read.stamp) for read in [*fresh, *same]]
            rows += [vectors] if fresh else []
            rows += [known.rows([read.known for read in same])] if same else []
            skipped += [(read.photo, read.error) for read in passed if read.error]
            encoded += len(fresh)
            bar.update(len(passed))
            if asked:
                keep()
                at = f"after {bar.n:,} of {len(todo):,} photos"
                raise Stopped(asked.number, f"stopped {at}; the same command goes on from there")
            if len(done) >= PART_ROWS or time.monotonic() - last > PART_SECONDS:
                keep()
                last = time.monotonic()
        keep()
    return time.monotonic() - begun, encoded


@contextlib.contextmanager
def _only_one(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Holds the folder against another `index`, and removes what a kill left half written."""
    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(locking.hold(folder, "--index", "writing this index", say))
            store.remove_temporaries(folder)
        _meet("locked")
        yield


def _meet(name: str) -> None:
    """Waits for the other processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"tpr_jax.search {name}")
