"""Encodes photos in batches over all devices, while threads read and decode the next ones."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16, UInt8

from tpr_jax.data.batches import worker_threads
from tpr_jax.data.image_paths import describe_missing
from tpr_jax.data.images.files import describe_open_error, open_regular
from tpr_jax.data.images.read import read_crops, read_resized
from tpr_jax.errors import UserError
from tpr_jax.losses import l2_normalize
from tpr_jax.model import Model, jit_encoder
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.perf.batches import images_at_once
from tpr_jax.perf.xla_options import compiler_options
from tpr_jax.search.index.gallery import Photo
from tpr_jax.utils import normalize


class Stamp(NamedTuple):
    """A file at the time it was read: size in bytes, modification time in ns, SHA-256 (32 bytes)."""

    size: int
    mtime_ns: int
    sha256: bytes


class PhotoRead(NamedTuple):
    """The result of opening a photo: pixels, a cached vector, or an error.

    Attributes:
      photo: the photo.
      stamp: its file; None if it could not be opened.
      pixels: RGB, resized; None if there is a cached vector or an error.
      cached: where the vector of the same content is cached, as `find_cached` returned it.
      error: why the photo cannot be read.
    """

    photo: Photo
    stamp: Stamp | None
    pixels: UInt8[np.ndarray, "h w 3"] | None
    cached: Any = None
    error: str = ""


FindCached = Callable[[Photo, Stamp], Any]
Batch = tuple[list[PhotoRead], UInt8[np.ndarray, "b h w 3"]]


def make_encoder(model: Model) -> tuple[Callable, int]:
    """Returns a jitted encoder, and the number of devices, which must divide its batch size.

    The encoder maps uint8 [b, h, w, 3] to L2-normalized float16 [b, e]. The batch is sharded over this
    process's devices; with several processes, each encodes its own photos.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    by_row, replicated = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    encode_jit = jit_encoder(
        clip.build(model.config, model.method, model.dtype)["encode_image"],
        postprocess=lambda feats: l2_normalize(feats).astype(jnp.float16),
        in_shardings=(replicated, by_row),
        out_shardings=by_row,
        compiler_options=compiler_options(dtype=model.dtype),
    )
    variables = jax.device_put(jax.tree.map(np.asarray, model.inference_variables), replicated)
    return lambda pixels: encode_jit(variables, jax.device_put(pixels, by_row)), mesh.size


def default_batch_size(config: ClipConfig, num_devices: int) -> int:
    """Returns the number of photos to encode at once."""
    return images_at_once(config) if jax.default_backend() == "cpu" else 256 * num_devices


def read_ahead(
    root: Path,
    photos: Sequence[Photo],
    image_size: tuple[int, int],
    find_cached: FindCached = lambda photo, stamp: None,
    ahead: int = 256,
) -> Generator[PhotoRead, None, None]:
    """Opens photos in order, on threads, up to `ahead` of them in advance.

    Consecutive boxes of one file are read together, and the file is decoded once. It is not decoded if all of
    them have cached vectors.

    Args:
      root: the folder that paths are relative to.
      photos: the photos.
      image_size: (height, width) to resize to.
      find_cached: returns where the vector of a photo is cached, None if it is not.
      ahead: number of photos to open in advance.
    """
    with ThreadPoolExecutor(worker_threads()) as pool:
        pending: deque[tuple[Future, int]] = deque()
        num_pending = 0
        try:
            for path, group in groupby(photos, key=lambda photo: photo.path):
                same_file = list(group)
                future = pool.submit(_read_consistent, root / path, same_file, image_size, find_cached)
                pending.append((future, len(same_file)))
                num_pending += len(same_file)
                while num_pending > ahead:
                    future, size = pending.popleft()
                    num_pending -= size
                    yield from future.result()
            while pending:
                yield from pending.popleft()[0].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def batches(reads: Iterable[PhotoRead], image_size: tuple[int, int], size: int) -> Iterator[Batch]:
    """Batches photos by pixels.

    Yields:
      The photos of a batch, with or without pixels, and the pixels uint8 [size, h, w, 3] of those that have
      some, padded with zeros.
    """
    batch, rows, pixels = [], 0, np.zeros((size, *image_size, 3), np.uint8)
    for read in reads:
        batch.append(read)
        if read.pixels is not None:
            pixels[rows] = read.pixels
            batch[-1] = read._replace(pixels=pixels[rows])
            rows += 1
        if rows == size:
            yield batch, pixels
            batch, rows, pixels = [], 0, np.zeros_like(pixels)
    if batch:
        yield batch, pixels


def encode(
    encoder: Callable, batched: Iterable[Batch]
) -> Iterator[tuple[list[PhotoRead], Float16[np.ndarray, "r e"]]]:
    """Encodes batches; the next batch is read while the devices encode the previous one.

    Yields:
      The photos of a batch, and the vectors of those with pixels.

    Raises:
      UserError: a vector is not finite.
    """
    previous = None
    for reads, pixels in batched:
        has_pixels = any(read.pixels is not None for read in reads)
        started = (reads, encoder(pixels) if has_pixels else None)
        if previous:
            yield _fetch(*previous)
        previous = started
    if previous:
        yield _fetch(*previous)


def encode_views(
    encoder: Callable,
    root: Path,
    photos: Iterable[Photo],
    image_size: tuple[int, int],
    size: int,
    find_cached: FindCached = lambda photo, stamp: None,
) -> Iterator[tuple[list[PhotoRead], Float16[np.ndarray, "r e"]]]:
    """Encodes the views of people of videos; a person's vector is the mean of their views' vectors.

    Args:
      encoder: encodes uint8 [size, h, w, 3], see `make_encoder`.
      root: the folder that paths are relative to.
      photos: the people.
      image_size: (height, width) to resize to.
      size: number of views encoded at once.
      find_cached: as of `read_ahead`.

    Yields:
      As `encode`: some people, and the vectors of those that were encoded, of length 1.

    Raises:
      UserError: a vector is not finite.
    """
    for some in _chunks(photos, lambda photo: len(photo.views), size):
        reads, views = [], []
        for photo in some:
            (read,), found = _read_file(root / photo.path, [photo], image_size, find_cached), []
            if read.pixels is not None:
                found = [pixels for view in photo.views for pixels in _read_view(root / view, image_size)]
            reads.append(read)
            views.append(found or ([read.pixels] if read.pixels is not None else []))
        pixels = [view for found in views for view in found]
        owner = np.repeat(np.arange(len(reads)), [len(found) for found in views])
        feats = []
        for start in range(0, len(pixels), size):
            batch = np.zeros((size, *image_size, 3), np.uint8)
            batch[: len(pixels[start : start + size])] = pixels[start : start + size]
            feats.append(np.asarray(encoder(batch))[: len(pixels) - start])
        vectors = np.concatenate(feats).astype(np.float32) if feats else np.zeros((0, 0), np.float32)
        means = [vectors[owner == i].mean(axis=0) for i, found in enumerate(views) if found]
        rows = np.stack(means) if means else np.zeros((0, 0), np.float32)
        yield reads, normalize.l2_normalize(_check_finite(rows)).astype(np.float16)


def _chunks(photos: Iterable[Photo], weight: Callable[[Photo], int], size: int) -> Iterator[list[Photo]]:
    """Yields photos in groups of a total weight of at most `size`, or one photo."""
    group, total = [], 0
    for photo in photos:
        if group and total + weight(photo) > size:
            yield group
            group, total = [], 0
        group.append(photo)
        total += weight(photo)
    if group:
        yield group


def _read_view(path: Path, image_size: tuple[int, int]) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Returns the pixels of a view, nothing if it is no longer there."""
    with contextlib.suppress(UserError):
        return [read_resized(path, image_size)]
    return []


def _fetch(
    reads: list[PhotoRead], feats: jax.Array | np.ndarray | None
) -> tuple[list[PhotoRead], np.ndarray]:
    """Waits for the vectors of a batch, and drops the padding."""
    count = sum(read.pixels is not None for read in reads)
    rows = np.zeros((0, 0), np.float16) if feats is None else np.asarray(feats)[:count]
    return reads, _check_finite(rows)


def _check_finite(rows: np.ndarray) -> np.ndarray:
    """Returns vectors as they are. Raises UserError if one is not finite."""
    if not np.isfinite(rows).all():
        raise UserError("the model's features are not finite: it is broken, or needs --dtype float32")
    return rows


def _read_consistent(
    path: Path, photos: list[Photo], image_size: tuple[int, int], find_cached: FindCached
) -> list[PhotoRead]:
    """Reads a file as `_read_file`, and retries if it is replaced in the meantime.

    The SHA-256 and the pixels must come from the same bytes: otherwise the wrong vector would be reused
    whenever the first bytes are seen again.
    """
    for _ in range(3):
        reads = _read_file(path, photos, image_size, find_cached)
        stamp = reads[0].stamp
        if stamp is None:  # it cannot be opened
            return reads
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if stamp[:2] == (status.st_size, status.st_mtime_ns):
                return reads
    error = "changed while it was read: index it again later"
    return [PhotoRead(photo, None, None, error=error) for photo in photos]


def _read_file(
    path: Path, photos: list[Photo], image_size: tuple[int, int], find_cached: FindCached
) -> list[PhotoRead]:
    try:
        stamp = _stamp(path)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        reason = f"no such image{describe_missing(path)}" if is_missing else describe_open_error(error)
        return [PhotoRead(photo, None, None, error=reason) for photo in photos]
    cached = [find_cached(photo, stamp) for photo in photos]
    uncached_boxes = [photo.part for photo, location in zip(photos, cached, strict=True) if location is None]
    if not uncached_boxes:
        return [PhotoRead(photo, stamp, None, hit) for photo, hit in zip(photos, cached, strict=True)]
    try:
        crops, (width, height) = read_crops(path, uncached_boxes, image_size)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return [PhotoRead(photo, stamp, None, error=reason) for photo in photos]
    outside = f"the box lies outside of the image of {width} x {height} pixels"
    reads, pixels = [], iter(crops)
    for photo, location in zip(photos, cached, strict=True):
        crop = None if location is not None else next(pixels)
        error = outside if location is None and crop is None else ""
        reads.append(PhotoRead(photo, stamp, crop, location, error))
    return reads


def _stamp(path: Path) -> Stamp:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        return Stamp(status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").digest())
