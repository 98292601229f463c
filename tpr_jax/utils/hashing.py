"""SHA-256 of files, by which models and annotations are told apart."""

import hashlib
import os
from collections.abc import Iterable

from tpr_jax.errors import UserError


def add_file(digest, path: str | os.PathLike) -> None:
    """Goes on with a digest of `hashlib` over a file's content, which may be larger than memory.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error


def sha256(paths: Iterable[str | os.PathLike]) -> str:
    """Of the files' contents, one after the other, as hexadecimal digits. Raises as `add_file`."""
    digest = hashlib.sha256()
    for path in paths:
        add_file(digest, path)
    return digest.hexdigest()
