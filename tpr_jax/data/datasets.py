"""Where a data set named in a config lies, its splits, and whether it is whole."""

from collections.abc import Sequence
from pathlib import Path

from tpr_jax.data import counts as counts_lib
from tpr_jax.data import mini_pedes
from tpr_jax.data.mixture import mix
from tpr_jax.data.records import Records, load_all
from tpr_jax.errors import UserError

FOLDERS = {
    "cuhk_pedes": "CUHK-PEDES",
    "icfg_pedes": "ICFG-PEDES",
    "rstp_reid": "RSTPReid",
    "ufine6926": "UFine6926",
    "synth_pedes": "SYNTH-PEDES",
}


def data_folder(dataset: str, data_dir: str) -> str:
    """The folder of a data set: `data_dir` where given, else MiniPEDES as bundled, else `data/<its name>`."""
    if data_dir:
        return data_dir
    if dataset == "folder":
        raise UserError(
            "config.data_dir is missing: dataset 'folder' needs the folder, --config.data_dir=DIR"
        )
    return mini_pedes.bundled_dir() if dataset == "mini_pedes" else str(Path("data") / FOLDERS[dataset])


# Where a data set's pictures and captions come from: its folder as the authors give it out, or records
# prepared by `python -m tpr_jax.data.tfds_builders`, with the pictures at training size or as they are.
SOURCES = ("files", "tfds_sized", "tfds_original")


def load_splits(
    dataset: str, data_dir: str, missing_ok: bool = False, source: str = "files"
) -> dict[str, Records]:
    """The splits `train`, `test` and, where there is one, `val`.

    With `missing_ok` the pictures need not be there. `source` is one of SOURCES; with records, `data_dir` is
    where they were written, which may be a bucket.
    """
    if source == "files":
        folder = data_folder(dataset, data_dir)
        splits = load_all(folder, dataset, missing_ok)
    else:
        if not data_dir:
            raise UserError(f"config.data_dir is missing: config.source='{source}' needs the records' folder")
        from tpr_jax.data.tfds_builders import read  # TensorFlow, which nothing else here needs

        folder, splits = data_dir, read.load_all(data_dir, dataset, source.removeprefix("tfds_"))
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{folder} has no record of split '{needed}': get a whole copy of the annotation")
    return splits


def with_mixed(
    splits: dict[str, Records], others: Sequence[tuple[str, str, float]], missing_ok: bool = False
) -> dict[str, Records]:
    """The splits with the training splits of further data sets in `train`.

    `others` has (data set, its folder or '', weight) of each, see `mix.mix`; the weight of `train` is 1.
    """
    if not others:
        return splits
    parts, weights = [splits["train"]], [1.0]
    for dataset, data_dir, weight in others:
        folder = data_folder(dataset, data_dir)
        added = load_all(folder, dataset, missing_ok)
        if "train" not in added:
            raise UserError(f"{folder} has no record of split 'train', so config.mix has no use for it")
        parts.append(added["train"])
        weights.append(float(weight))
    return {**splits, "train": mix(parts, weights)}


def describe(dataset: str, splits: dict[str, Records]) -> dict:
    """What the splits hold, for results.json.

    `counts` of each split, and `subset`: the lines in which they differ from the official counts, empty where
    they do not, None where there are no such counts.
    """
    counts = counts_lib.count(splits)
    differing = counts_lib.deviations(dataset, counts) if dataset in counts_lib.OFFICIAL else None
    return {"counts": {name: found._asdict() for name, found in counts.items()}, "subset": differing}
