"""The names of an index's files, as regular expressions for whole names; `store` describes the files.

Only files with these names are written and removed: an index may be in a folder that holds other files too.
"""

from pathlib import Path

from tpr_jax.utils.files import list_matching

CROPS, PARTS = "crops", "parts"  # the folders
NUMBERED = r"vectors-\d+\.npy|photos-\d+\.parquet|codes-\d+\.(?:npy|json)|ivf-\d+\.faiss"
SKIPPED = "skipped.jsonl"
CHANCE = "chance.npz"
SHARD = r"(?:part-(\d+)|[0-9a-f]{16})-[0-9a-f]{32}\.npz"  # in `parts`; the second form is of older versions
SCANNED_PHOTOS = r"photos-[0-9a-f]{16}\.jsonl"  # in `crops`
FILES = rf"index\.json|footage\.json|forgotten\.json|chance\.npz|skipped\.jsonl|{NUMBERED}|{SHARD}"


def scanned_photos(index: Path) -> list[Path]:
    """Returns the files of an index that record which people were found in photos."""
    return list_matching(index / CROPS, SCANNED_PHOTOS)
