"""SHA-256 of files: the examples of FIPS 180-2, and a missing file."""

import hashlib

import pytest

from tpr_jax.errors import UserError
from tpr_jax.utils import hashing


def test_examples_of_the_standard(tmp_path):
    for name, content in (("a", b"a"), ("bc", b"bc"), ("empty", b""), ("million", b"a" * 1_000_000)):
        (tmp_path / name).write_bytes(content)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashing.sha256([tmp_path / "a", tmp_path / "empty", str(tmp_path / "bc")]) == abc
    million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    assert hashing.sha256([tmp_path / "million"]) == million


def test_updates_a_digest_with_a_long_file(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "long").write_bytes(content)
    digest = hashlib.sha256(b"before")
    hashing.add_file(digest, tmp_path / "long")
    assert digest.digest() == hashlib.sha256(b"before" + content).digest()


def test_names_a_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"none: cannot be read \(No such file or directory\); check the file"
    ):
        hashing.sha256([tmp_path / "none"])
