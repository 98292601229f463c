"""Builds an index, or updates one: encodes new and changed photos, and drops those that no longer exist."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import jax
import numpy as np

from tpr_jax.distributed.processes import broadcast_from_first, is_first
from tpr_jax.errors import ArgumentError, UserError, shown
from tpr_jax.model import Model, from_pretrained
from tpr_jax.models.config import CLIP_STREET, DTYPES
from tpr_jax.perf import dtypes
from tpr_jax.search.index import footage_rows, foreign, shards, store
from tpr_jax.search.index.cache import VectorCache, load_cache
from tpr_jax.search.index.encode import (
    PhotoRead,
    Stamp,
    batches,
    default_batch_size,
    encode,
    encode_views,
    make_encoder,
    read_ahead,
)
from tpr_jax.search.index.folder import check_patterns
from tpr_jax.search.index.forgotten import leave_out_forgotten, read_forgotten
from tpr_jax.search.index.gallery import Gallery, Photo, combine, find_gallery
from tpr_jax.search.index.merge import write_index
from tpr_jax.search.index.names import PARTS
from tpr_jax.search.index.scrub import scrub
from tpr_jax.search.index.shape import describe_wide_photos
from tpr_jax.search.query.approximate import sentences
from tpr_jax.utils import locking, progress
from tpr_jax.utils.plural import counted
from tpr_jax.utils.signals import Stopped, catch_signals
from tpr_jax.weights import arguments

SHARD_ROWS, SHARD_SECONDS = 8192, 20.0  # the most work that a killed process loses

Log = Callable[[str], object]
NOTE_SECONDS = 1.0  # between two notes of how many photos are done


@dataclass(frozen=True)
class _Options:
    """The options of `build`; None means the index's own value, or the default."""

    model: str | os.PathLike | None
    image_size: tuple[int, int] | None
    dtype: str | None
    batch_size: int | None
    approximate: bool | None
    exclude: Sequence[str] = ()
    add: bool = False
    replace: bool = False
    store: str | None = None


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
    add: bool = False,
    replace: bool = False,
    store: str | None = None,
    log: Log = lambda line: None,
) -> dict:
    """Encodes the photos of a gallery into an index.

    With several JAX processes, each encodes a share of the photos; all of them need access to the same
    folders.

    Args:
      source: a folder of photos or a table, see `find_gallery`.
      folder: the index; created if it does not exist.
      model: a folder or hub id; by default the index's own model, or the bundled clip-street for a new index.
      image_size: (height, width); by default the index's own, or the model's.
      dtype: 'float32', 'bfloat16' or 'auto', the faster of them on this machine; by default the index's own
        or 'auto'.
      batch_size: number of photos encoded at once; by default what is fast on this machine.
      approximate: build inverted lists for an approximate search; by default above a million photos.
      exclude: patterns of files and folders to leave out, see `folder.matching_pattern`.
      add: index the source beside those that the index has.
      replace: index the source in place of those that the index has.
      store: address of a PostgreSQL database that gets a copy and answers queries, see `postgres.update`; by
        default the one that the index has.
      log: called with lines about the progress.

    Returns:
      A dict with `count` (photos in the index), `encoded` (by this run), `resumed` (encoded by interrupted
      runs before it), `kept`, `gone`, `skipped` (list of (photo, reason)), `left_out` (name -> number of
      folders and files left out, 0 for a pattern that matched nothing), `seconds`, and `encoding_seconds`,
      which is part of it. In processes other than the first, without `kept`, `resumed`, `gone` and `skipped`.

    Raises:
      UserError: an argument is invalid, there are no photos to index, the index is of other photos and
        neither `add` nor `replace` is given, the model is not the index's own, or a folder cannot be read or
        written.
      Stopped: SIGINT or SIGTERM was received; the next run resumes.
    """
    start = time.monotonic()
    options = _check(
        _Options(
            model=model,
            image_size=image_size,
            dtype=dtype,
            batch_size=batch_size,
            approximate=approximate,
            exclude=exclude,
            add=add,
            replace=replace,
            store=store,
        )
    )
    source, folder = (
        Path(arguments.check_path(name, path)) for name, path in (("source", source), ("folder", folder))
    )
    foreign.check_source(folder, source)
    gallery = _find(source, folder, options.exclude)
    with _exclusive(folder, log) as note:
        result = _build_locked(gallery, folder, options, log, note)
    return result | {"seconds": time.monotonic() - start}


def _find(source: str | os.PathLike, folder: Path, exclude: Sequence[str]) -> Gallery:
    """Returns the people found in a source of footage, see `footage.scan_source`, or else `find_gallery`."""
    scanned = footage_rows.scanned_gallery(folder, source)
    return scanned or find_gallery(source, leave_out=folder, exclude=exclude)


def _check(options: _Options) -> _Options:
    """Checks the options, and returns them with names of types, Python integers and a list of patterns.

    Raises:
      ArgumentError: an option has the wrong type or range, or two of them contradict each other.
    """
    if options.model is not None:
        arguments.check_path("model", options.model)
    flags = {"approximate": options.approximate, "add": options.add, "replace": options.replace}
    for name, flag in flags.items():
        if flag is not None or name != "approximate":
            arguments.check_flag(name, flag)
    if options.add and options.replace:
        raise ArgumentError("add and replace contradict each other: give one of them")
    exclude = arguments.check_texts(options.exclude, "exclude", "patterns")
    check_patterns(exclude)
    return dataclasses.replace(
        options,
        image_size=arguments.check_image_size(options.image_size),
        dtype=None if options.dtype is None else arguments.check_dtype(options.dtype, (*DTYPES, dtypes.AUTO)),
        batch_size=None if options.batch_size is None else arguments.check_batch_size(options.batch_size),
        exclude=exclude,
    )


def _build_locked(gallery: Gallery, folder: Path, options: _Options, log: Log, note: Log) -> dict:
    """Does the work of `build`, in a folder that no other process writes."""
    info = store.read_info(folder)
    if info is None:
        foreign.check_new(folder)
    if is_first():
        _check_store(info, options.store)
    gallery = _with_other_sources(gallery, folder, info, options, log)
    if is_first():
        _log_notes(gallery, options.exclude, log)
    gallery = leave_out_forgotten(gallery, folder, read_forgotten(folder))
    if not gallery.photos:
        raise UserError(
            f"{gallery.root}: everybody in it was forgotten; to allow them back: python -m tpr_jax.search "
            f"forget --index {folder} --recall"
        )
    if is_first() and (warning := describe_wide_photos(gallery)):
        log(f"warning: {warning}")
    old = store.open_index(folder) if info else None
    if old is not None:
        store.check_vectors(old)
    settings = _model_settings(folder, info, options)
    # Only the model itself knows the settings of a new index.
    model = None if info else _load_model(settings, folder)
    fingerprint = store.encoder_fingerprint(settings)
    cache = load_cache(old, folder / PARTS, fingerprint, gallery.root)
    if cache.ignored_shards and is_first():
        log(
            f"ignored {counted(cache.ignored_shards, 'file')} in {folder / 'parts'}: an interrupted run with "
            "another model, image size or type wrote them"
        )
    num_arrays_before = len(cache.vectors)
    todo = _photos_to_encode(gallery, cache)
    seconds, encoded = 0.0, 0
    if todo or not info:
        log(f"{len(todo):,} of {len(gallery.photos):,} photos to encode with {settings['name']}")
        model = model or _load_model(settings, folder)
        rows = np.array_split(np.arange(len(todo)), jax.process_count())[jax.process_index()]
        run = shards.next_run(folder / PARTS)
        write = functools.partial(shards.write_shard, folder / PARTS, run, fingerprint, str(gallery.root))
        start = time.monotonic()
        encoded = _encode_photos(
            model, gallery, [todo[i] for i in rows], cache, write, batch_size=options.batch_size, note=note
        )
        seconds = time.monotonic() - start
        _barrier("encoded")
        cache = load_cache(old, folder / PARTS, fingerprint, gallery.root)
    result = {
        "count": 0,
        "encoded": encoded,
        "encoding_seconds": seconds,
        "left_out": dict(gallery.left_out),
    }
    if is_first():
        log("writing the index")
        result |= write_index(
            folder,
            gallery,
            cache,
            old,
            settings,
            model=model,
            build_lists=options.approximate,
            num_arrays_before=num_arrays_before,
        )
        shards.remove_shards(folder / PARTS)
        footage_rows.prune(folder, gallery.sources)
        scrub(folder)  # completes a `forget` that was killed
        _sync_store(folder, options.store, model, settings, log)
    _barrier("written")
    return result


def _log_notes(gallery: Gallery, exclude: Sequence[str], log: Log) -> None:
    for note in gallery.notes:
        log(f"note: {note}")
    for pattern in exclude:
        if gallery.left_out.get(pattern) == 0:
            log(f"note: --exclude {shown(pattern)} matched nothing")


def _check_store(info: dict | None, url: str | None) -> None:
    """Checks a store, if there is one, before hours of encoding. Raises UserError."""
    if url is not None:
        from tpr_jax.search.postgres import stored  # imports PyArrow's functions, which take a while

        stored.check(url, info)


def _sync_store(folder: Path, url: str | None, model: Model | None, settings: dict, log: Log) -> None:
    """Brings the copy in PostgreSQL up to date, if there is one. Raises UserError."""
    if url is None and "store" not in (store.read_info(folder) or {}):
        return
    from tpr_jax.search.postgres import update

    def sentence_feats() -> np.ndarray:
        return (model or _load_model(settings, folder)).encode_texts(sentences())

    update.sync(folder, url, sentence_feats=sentence_feats, log=log)


def _with_other_sources(
    gallery: Gallery, folder: Path, info: dict | None, options: _Options, log: Log
) -> Gallery:
    """Adds to a gallery of one source the others that the index has, or is to keep.

    Raises:
      UserError: the index is of other photos, and no option says what becomes of them.
    """
    if info is None or options.replace:
        return gallery
    (source,) = gallery.sources
    known = store.known_sources(info)
    if source in known or options.add:
        found = {source: gallery}
        for name in known:
            if name not in found:
                found[name] = _find(name, folder, options.exclude)
        return combine([found[name] for name in dict.fromkeys([*known, source])])
    if len(known) == 1 and str(gallery.root) == info["photos"]:
        return gallery  # a table instead of the folder that it is in, or the folder instead of the table
    if not any(os.path.exists(name) for name in known):
        log(f"note: {source} takes the place of {', '.join(known)}, which no longer exists")
        return gallery
    raise store.other_source_error(folder, known, source)


def _model_settings(folder: Path, info: dict | None, options: _Options) -> dict:
    """Returns name, SHA-256, image size and type of the model to encode with: those of the index, if any."""
    if info:
        settings, name = info["model"], store.find_model(info, folder, options.model)
        image_size = options.image_size and list(options.image_size)
        for flag, value in (("image_size", image_size), ("dtype", options.dtype)):
            if value and value not in (settings[flag], dtypes.AUTO):
                raise UserError(
                    f"--{flag} {value}: but {folder} was made with {settings[flag]}: omit it, or index the "
                    "photos into a new folder"
                )
        return dict(settings) | {"name": store.find(name).pinned}
    name = options.model or CLIP_STREET
    return {
        "name": store.find(name).pinned,
        "sha256": store.model_sha256(name),
        "image_size": tuple(options.image_size) if options.image_size else None,
        "dtype": dtypes.resolve(options.dtype or dtypes.AUTO),
    }


def _load_model(settings: dict, folder: Path) -> Model:
    """Loads the model, and for a new index completes `settings` with the model's own.

    Raises:
      UserError: as `from_pretrained`; or the model normalizes pixels in another way than for the index.
    """
    model = from_pretrained(settings["name"], settings["image_size"], settings["dtype"])
    if "embed_dim" in settings:  # those of an index
        store.check_pixels(settings, folder, model)
        return model
    settings.update(image_size=list(model.config.image_size), embed_dim=model.config.embed_dim)
    settings.update(mean=[float(x) for x in model.mean], std=[float(x) for x in model.std])
    return model


def _changed_photos(gallery: Gallery, cache: VectorCache) -> list[Photo]:
    """Returns the photos for which no vector of a file with the same size and modification time is cached."""

    def is_unchanged(photo: Photo) -> bool:
        with contextlib.suppress(OSError):
            status = os.stat(gallery.root / photo.path)
            return cache.find_unchanged(photo, status.st_size, status.st_mtime_ns) is not None
        return False

    return [photo for photo in gallery.photos if not is_unchanged(photo)]


def _photos_to_encode(gallery: Gallery, cache: VectorCache) -> list[Photo]:
    """Returns the changed photos as the first process sees them, in all processes.

    They share this list out among them. A slower process may already see shards of the others, or new photos:
    of a list of its own it would take another share, and some photos would be encoded by none. With several
    processes the photos have no columns, which encoding does not need.
    """
    photos = _changed_photos(gallery, cache) if is_first() else []
    if jax.process_count() == 1:
        return photos
    keys = broadcast_from_first([photo.key for photo in photos])
    return [Photo(path, tuple(box) if box else None) for path, box in keys]


@dataclass
class _ShardBuffer:
    """Collects encoded photos until they are written as a shard."""

    write: Callable
    embed_dim: int
    photos: list[tuple[Photo, Stamp]] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    skipped: list[tuple[Photo, str]] = field(default_factory=list)
    last_flush: float = field(default_factory=time.monotonic)

    def add(self, reads: Sequence[PhotoRead], vectors: np.ndarray, cache: VectorCache) -> int:
        """Adds a batch, with the `vectors` of those photos that have pixels; returns their number."""
        encoded = [read for read in reads if read.pixels is not None]
        cached = [read for read in reads if read.cached is not None]
        # A photo that was read has a stamp.
        self.photos += [(read.photo, cast(Stamp, read.stamp)) for read in [*encoded, *cached]]
        if encoded:
            self.vectors.append(vectors)
        if cached:
            self.vectors.append(cache.gather([read.cached for read in cached]))
        self.skipped += [(read.photo, read.error) for read in reads if read.error]
        return len(encoded)

    def is_due(self) -> bool:
        """Returns whether it is time to write a shard."""
        return len(self.photos) >= SHARD_ROWS or time.monotonic() - self.last_flush > SHARD_SECONDS

    def flush(self) -> None:
        """Writes the photos as a shard, if there are any."""
        if self.photos or self.skipped:
            vectors = np.concatenate([*self.vectors, np.zeros((0, self.embed_dim), np.float16)])
            self.write(self.photos, vectors, skipped=self.skipped)
        self.photos.clear()
        self.vectors.clear()
        self.skipped.clear()
        self.last_flush = time.monotonic()


def _encode_photos(
    model: Model,
    gallery: Gallery,
    todo: Sequence[Photo],
    cache: VectorCache,
    write: Callable,
    *,
    batch_size: int | None,
    note: Log,
) -> int:
    """Encodes photos, writes them as shards by `write(photos, vectors, skipped=...)`, returns their number.

    `note` is called with how many photos are done, for others who wait for the index.

    Raises:
      Stopped: SIGINT or SIGTERM was received; everything encoded is written.
    """
    encoder, num_devices = make_encoder(model)
    batch_size = batch_size or default_batch_size(model.config, num_devices)
    batch_size = -(-batch_size // num_devices) * num_devices
    image_size, encoded = model.config.image_size, 0
    buffer = _ShardBuffer(write, model.config.embed_dim)
    whole, of_videos = ([p for p in todo if bool(p.views) == views] for views in (False, True))
    reads = read_ahead(gallery.root, whole, image_size, cache.find_content, ahead=4 * batch_size)
    encoded_batches = itertools.chain(
        encode(encoder, batches(reads, image_size, batch_size)),
        encode_views(encoder, gallery.root, of_videos, image_size, batch_size, cache.find_content),
    )
    bar = progress.show(len(todo), "photos")
    noted = -math.inf
    with catch_signals() as received, bar, contextlib.closing(reads):
        for batch, vectors in encoded_batches:
            encoded += buffer.add(batch, vectors, cache)
            bar.update(len(batch))
            done = f"{bar.n:,.0f} of {len(todo):,} photos"
            if time.monotonic() - noted >= NOTE_SECONDS:
                note(done)
                noted = time.monotonic()
            if received:
                buffer.flush()
                raise Stopped(received.number, f"stopped after {done}; rerun the same command to resume")
            if buffer.is_due():
                buffer.flush()
        buffer.flush()
    return encoded


@contextlib.contextmanager
def _exclusive(folder: Path, log: Log) -> Generator[Log, None, None]:
    """Locks the folder against other writers, and removes the temporary files of killed ones.

    Yields:
      A function that records how far this process is, for those who ask for the index.
    """
    note: Log = str  # of processes that hold no lock, and record nothing
    with contextlib.ExitStack() as stack:
        if is_first():
            note = stack.enter_context(locking.hold(folder, "--index", "writing this index", log))
            store.remove_temporaries(folder)
        _barrier("locked")
        yield note


def _barrier(name: str) -> None:
    """Waits until all processes have reached this point."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"tpr_jax.search {name}")
