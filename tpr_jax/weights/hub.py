"""Finds a model by its name: a local path, or an id on the Hugging Face hub with an optional revision."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from tpr_jax.errors import UserError
from tpr_jax.weights import folder_format

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Files to download besides one set of weights; a repository may hold the same weights in several formats.
SETTINGS = ("*.json", "merges.txt", "adapter.safetensors", "backbone/*.safetensors")


class HubLocation(NamedTuple):
    """The local path of a model and, if it is from the hub, its id and revision (the commit, if known)."""

    path: Path
    hub_id: str | None = None
    revision: str | None = None


def find(name: str | os.PathLike) -> HubLocation:
    """Returns the local folder or file; downloads `owner/name` and `owner/name@revision` to the hub's cache.

    A revision is a branch, a tag or a commit.

    Raises:
      UserError: there is no such path or hub id.
    """
    path = Path(name)
    if path.exists():
        return HubLocation(path)
    hub_id, at, revision = str(name).partition("@")
    if not HUB_ID.fullmatch(hub_id):
        raise UserError(f"{path}: no such folder or file of CLIP weights; check the path")
    if at and not REVISION.fullmatch(revision):
        raise UserError(
            f"{name}: {revision!r} is not a revision; give a branch, tag or commit: {hub_id}@main"
        )
    folder = _download(hub_id, revision)
    commit = folder.name if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) else None
    return HubLocation(folder, hub_id, commit or revision or None)


def _download(hub_id: str, revision: str) -> Path:
    """Downloads the settings of a repository, and then the weights that belong to them.

    Without a connection, returns what an earlier call downloaded.
    """
    try:
        from huggingface_hub import model_info, snapshot_download
    except ImportError as error:
        raise UserError(
            f"{hub_id}: no such folder; to download it by that name, `pip install huggingface_hub`"
        ) from error
    pinned: dict[str, Any] = {"revision": revision} if revision else {}
    label = f"{hub_id}@{revision}" if revision else hub_id
    try:
        names = [file.rfilename for file in model_info(hub_id, **pinned).siblings or ()]
    except Exception as error:  # the hub's client raises the errors of several network libraries
        try:
            return Path(snapshot_download(hub_id, local_files_only=True, **pinned))
        except Exception:
            raise _unavailable(label, error) from error
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=list(SETTINGS), **pinned))
        if folder_format.ADAPTER in names:
            return folder
        folder_format.check_settings(folder, names, label)
        weights = folder_format.weights_of(folder, names)
        return Path(snapshot_download(hub_id, allow_patterns=[*SETTINGS, *weights], **pinned))
    except UserError:
        raise
    except Exception as error:
        raise _unavailable(label, error) from error


def _unavailable(label: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"{label}: no such folder, and not available from the Hugging Face hub ({reason}); "
        "check the name, the revision or the network, or give a folder"
    )
