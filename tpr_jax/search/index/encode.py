"""Photos to vectors, in batches over all devices: decoding, and reading what comes next, go on beside it."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16, UInt8

from tpr_jax.data.batches import worker_threads
from tpr_jax.data.images.files import open_regular, why_not_opened
from tpr_jax.data.images.read import read_parts
from tpr_jax.errors import UserError
from tpr_jax.model import Model
from tpr_jax.models import clip
from tpr_jax.perf.xla_options import compiler_options
from tpr_jax.search.index.gallery import Photo


class Stamp(NamedTuple):
    """A file as it was when it was read: bytes, time of its last change (ns), SHA-256 (32 bytes)."""

    size: int
    mtime_ns: int
    sha256: bytes


class Read(NamedTuple):
    """A photo that was opened: `pixels` [h, w, 3] uint8, or where the same was encoded before, or why not."""

    photo: Photo
    stamp: Stamp | None
    pixels: np.ndarray | None
    known: object = None
    error: str = ""


def make_encoder(model: Model) -> tuple[Callable, int]:
    """(uint8 [b, h, w, 3] -> L2-normalized float16 [b, e] on the devices, what b has to be a multiple of).

    The batch is split over this process' devices; with several processes each encodes photos of its own.
    """
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    by_row, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    encode_image = clip.build(model.config, model.method, model.dtype)["encode_image"]

    def encode(variables, pixels):
        feats, _ = encode_image(variables, clip.normalize(pixels, model.mean, model.std))
        length = jnp.linalg.norm(feats, axis=1, keepdims=True)
        return (feats / jnp.maximum(length, 1e-12)).astype(jnp.float16)

    program = jax.jit(
        encode,
        in_shardings=(everywhere, by_row),
        out_shardings=by_row,
        compiler_options=compiler_options(),
    )
    variables = jax.device_put(jax.tree.map(np.asarray, model.held), everywhere)
    return lambda pixels: program(variables, jax.device_put(pixels, by_row)), mesh.size


def read_ahead(
    root: Path,
    photos: Sequence[Photo],
    image_size: tuple[int, int],
    known: Callable[[Photo, Stamp], object] = lambda photo, stamp: None,
    ahead: int = 256,
) -> Iterator[Read]:
    """Opens photos in order, `ahead` of them before they are asked for.

    A file with several boxes that follow each other is decoded once, and none of which `known` says that it
    was encoded before.
    """
    with ThreadPoolExecutor(worker_threads()) as pool:
        pending: deque[tuple[Future, int]] = deque()
        waiting = 0
        try:
            for path, group in groupby(photos, key=lambda photo: photo.path):
                run = list(group)
                pending.append((pool.submit(_read_settled, root / path, run, image_size, known), len(run)))
                waiting += len(run)
                while waiting > ahead:
                    future, size = pending.popleft()
                    waiting -= size
                    yield from future.result()
            while pending:
                yield from pending.popleft()[0].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def batches(
    reads: Iterable[Read], image_size: tuple[int, int], size: int
) -> Iterator[tuple[list[Read], UInt8[np.ndarray, "b h w 3"]]]:
    """(what was read, pixels of those that have some, filled up with zeros), a batch after the other."""
    passed, rows, pixels = [], 0, np.zeros((size, *image_size, 3), np.uint8)
    for read in reads:
        passed.append(read)
        if read.pixels is not None:
            pixels[rows] = read.pixels
            passed[-1] = read._replace(pixels=pixels[rows])
            rows += 1
        if rows == size:
            yield passed, pixels
            passed, rows, pixels = [], 0, np.zeros_like(pixels)
    if passed:
        yield passed, pixels


def encode(
    encoder: Callable, batched: Iterable[tuple[list[Read], np.ndarray]]
) -> Iterator[tuple[list[Read], Float16[np.ndarray, "r e"]]]:
    """(what was read, vectors of those with pixels): a batch is read while the one before it is encoded.

    Raises:
      UserError: a vector is not finite.
    """
    waiting = None
    for reads, pixels in batched:
        some = any(read.pixels is not None for read in reads)
        started = (reads, encoder(pixels) if some else None)
        if waiting:
            yield _finished(*waiting)
        waiting = started
    if waiting:
        yield _finished(*waiting)


def _finished(reads: list[Read], feats) -> tuple[list[Read], np.ndarray]:
    count = sum(read.pixels is not None for read in reads)
    rows = np.zeros((0, 0), np.float16) if feats is None else np.asarray(feats)[:count]
    if not np.isfinite(rows).all():
        raise UserError(
            "the model gives features that are not finite: it is broken, or needs --dtype float32"
        )
    return reads, rows


def _read_settled(path: Path, run: list[Photo], image_size: tuple[int, int], known: Callable) -> list[Read]:
    """As `_read_file`, with digest and pixels of the same bytes also where the file is replaced meanwhile: a
    digest with the vector of another photo would be believed whenever those bytes are seen again."""
    for _ in range(3):
        reads = _read_file(path, run, image_size, known)
        stamp = reads[0].stamp
        if stamp is None:  # it cannot be opened
            return reads
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if stamp[:2] == (status.st_size, status.st_mtime_ns):
                return reads
    return [Read(photo, None, None, error="changed while it was read: index it again later") for photo in run]


def _read_file(path: Path, run: list[Photo], image_size: tuple[int, int], known: Callable) -> list[Read]:
    try:
        stamp = _stamp(path)
    except OSError as error:
        return [Read(photo, None, None, error=_why(error)) for photo in run]
    found = [known(photo, stamp) for photo in run]
    if all(place is not None for place in found):
        return [Read(photo, stamp, None, place) for photo, place in zip(run, found, strict=True)]
    try:
        wanted = [photo.box for photo, place in zip(run, found, strict=True) if place is None]
        parts, (width, height) = read_parts(path, wanted, image_size)
    except UserError as error:
        why = str(error).removeprefix(f"{path}: ")
        return [Read(photo, stamp, None, error=why) for photo in run]
    outside = f"the box lies outside of the picture of {width} x {height} pixels"
    reads, pixels = [], iter(parts)
    for photo, place in zip(run, found, strict=True):
        part = None if place is not None else next(pixels)
        error = outside if place is None and part is None else ""
        reads.append(Read(photo, stamp, part, place, error))
    return reads


def _stamp(path: Path) -> Stamp:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        return Stamp(status.st_size, status.st_mtime_ns, hashlib.file_digest(file, "sha256").digest())


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such picture"
    return why_not_opened(error)
