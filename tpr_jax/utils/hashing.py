"""SHA-256 of files, which identifies models and annotations, and of lists of images."""

import hashlib
import os
from collections.abc import Iterable, Mapping

from tpr_jax.errors import UserError


def add_file(digest, path: str | os.PathLike) -> None:
    """Updates a `hashlib` digest with the content of a file, which may be larger than memory.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def sha256(paths: Iterable[str | os.PathLike]) -> str:
    """Computes the SHA-256 of the concatenated contents of files, as hexadecimal digits.

    Raises:
      UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        add_file(digest, path)
    return digest.hexdigest()


def image_list_digest(sizes: Mapping[str, int]) -> str:
    """Computes the SHA-256 of one line "PATH<tab>BYTES<newline>" for each image, in the order of the paths.

    The contents of the images are not read: tens of thousands of sizes take a second, and images that were
    decoded and saved again differ in size.
    """
    lines = sorted(f"{path}\t{size}\n".encode("utf-8", "surrogateescape") for path, size in sizes.items())
    return hashlib.sha256(b"".join(lines)).hexdigest()
