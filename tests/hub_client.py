"""A Hugging Face hub without a network: repositories in memory, and a record of what is downloaded."""

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest


class Hub:
    """Stands in for `huggingface_hub`'s `model_info` and `snapshot_download`.

    Attributes:
      files: name -> contents of the files of the only repository.
      downloaded: the names of the files of each download, without those that an earlier one fetched.
      pinned: the revision of each call, None for none.
    """

    def __init__(self, cache: Path, files: dict[str, bytes]):
        self.cache, self.files = cache, files
        self.downloaded: list[list[str]] = []
        self.pinned: list[str | None] = []

    def model_info(self, name: str, revision: str | None = None) -> SimpleNamespace:
        self.pinned.append(revision)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.files])

    def snapshot_download(self, name: str, allow_patterns: list[str], revision: str | None = None) -> str:
        self.pinned.append(revision)
        names = [n for n in self.files if any(fnmatch(n, pattern) for pattern in allow_patterns)]
        new = [n for n in names if not (self.cache / n).is_file()]
        self.downloaded.append(new)
        for n in new:
            (self.cache / n).parent.mkdir(parents=True, exist_ok=True)
            (self.cache / n).write_bytes(self.files[n])
        return str(self.cache)


def serve(monkeypatch: pytest.MonkeyPatch, cache: Path, files: dict[str, bytes]) -> Hub:
    """Replaces the client's functions by those of a hub with one repository."""
    client = pytest.importorskip("huggingface_hub")
    hub = Hub(cache, files)
    for name in ("model_info", "snapshot_download"):
        monkeypatch.setattr(client, name, getattr(hub, name))
    return hub


def unreachable(*_, **__):
    """Raises what the client does without a network."""
    raise ConnectionError("no route to host\nmore")
