"""Where a data set named in a config lies, and its splits."""

from pathlib import Path

from tpr_jax.data import mini_pedes
from tpr_jax.data.records import Records, load_all
from tpr_jax.errors import UserError

FOLDERS = {"cuhk_pedes": "CUHK-PEDES", "icfg_pedes": "ICFG-PEDES", "rstp_reid": "RSTPReid"}


def data_folder(dataset: str, data_dir: str) -> str:
    """The folder of a data set: `data_dir` where given, else MiniPEDES as bundled, else `data/<its name>`."""
    if data_dir:
        return data_dir
    return mini_pedes.bundled_dir() if dataset == "mini_pedes" else str(Path("data") / FOLDERS[dataset])


def load_splits(dataset: str, data_dir: str) -> dict[str, Records]:
    """The splits `train`, `test` and, where there is one, `val`."""
    folder = data_folder(dataset, data_dir)
    splits = load_all(folder)
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{folder} has no record of split '{needed}': get a whole copy of the annotation")
    return splits
