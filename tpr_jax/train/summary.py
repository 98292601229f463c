"""The end of a run in the terminal: its scores, its files, and a command to try next."""

import shlex
from pathlib import Path

from tpr_jax.data.annotations import annotation_path
from tpr_jax.data.custom import read_rows
from tpr_jax.data.datasets import DATASETS
from tpr_jax.errors import UserError


def print_summary(results: dict, workdir: Path, data_dir: str = "") -> None:
    """Prints the test scores before and after training, the files, and a next command to try.

    Args:
      results: the content of results.json.
      workdir: the run's folder.
      data_dir: the folder of the data, empty for the default one.
    """
    percent = 100 * results["trainable_params"] / results["total_params"]
    print(
        f"\n{results['method']} on {results['dataset']}: {results['steps']} steps in "
        f"{results['seconds']:.0f} s, "
        f"{results['trainable_params']:,} of {results['total_params']:,} parameters trained ({percent:.1f} %)"
    )
    print(f"test, text to image, before:       {format_scores(results['zero_shot']['test'])}")
    print(f"test, text to image, last epoch:   {format_scores(results['final']['test'])}")
    for split, note in (("val", ""), ("test", "  (chosen on test, as most papers do)")):
        if best := results[f"best_on_{split}"]:
            label = f"test, best epoch on {split} ({best['epoch']:>3}):"
            print(f"{label:<35}{format_scores(best['test'])}{note}")
    print(
        f"\nwritten to {workdir}: report.html, report.png, results.json, metrics.jsonl, checkpoints/, model/"
    )
    print(f"use:   tpr_jax.from_pretrained('{workdir}/model')")
    print(f"look:  open {workdir}/report.html in a browser")
    print(f"next:  {next_command(results['method'], results['dataset'], workdir, data_dir)}")


def format_scores(scores: dict) -> str:
    """Returns the text-to-image scores in one line."""
    return "  ".join(f"{key} {value:.2f}" for key, value in scores["t2i"].items())


def next_command(method: str, dataset: str, workdir: Path, data_dir: str = "") -> str:
    """Returns a command to try after a run: what its data and method make the most natural next step.

    Args:
      method: the name of the run's method.
      dataset: a key of `datasets.DATASETS`.
      workdir: the run's folder.
      data_dir: the folder of the data, empty for the default one.
    """
    if DATASETS[dataset].is_custom:  # your own photos: search them
        words = ["search", "index", _own_photos(dataset, data_dir), "--index", f"{workdir}/index"]
        words += ["--model", f"{workdir}/model"]
    elif dataset != "mini_pedes":
        words = ["visualize", "grid", "--model", f"{workdir}/model", "--out", f"{workdir}/grid"]
        words += ["--dataset", dataset, *(["--data_dir", data_dir] if data_dir else [])]
    elif method == "parallel_adapter":
        words = [
            "compare",
            "configs/dm_adapter.py",
            "configs/parallel_adapter.py",
            "--workdir",
            "runs/compare",
        ]
    else:
        words = ["main", "--config", "configs/parallel_adapter.py", "--workdir", "runs/parallel_adapter"]
    return shlex.join(["python", "-m", f"tpr_jax.{words[0]}", *words[1:]])


def _own_photos(dataset: str, data_dir: str) -> str:
    """Returns what to index: the folder, or its annotation if that has the boxes of people."""
    if not data_dir:
        return "PHOTOS"
    try:
        path = annotation_path(dataset, data_dir)
        has_boxes = any(isinstance(fields, dict) and fields["box"] for _, fields in read_rows(path))
    except UserError:  # it has changed since the run began
        return data_dir
    return path if has_boxes else data_dir
