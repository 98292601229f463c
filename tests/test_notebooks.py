"""Checks the notebooks' format, badges, links and imports, and runs them (slow)."""

import ast
import csv
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tests.conftest import ROOT

SITE = (ROOT / "notebooks/address.txt").read_text().strip()
NAMES = ("tour", "train_benchmark", "search_photos", "ablation", "port_checkpoint")
each = pytest.mark.parametrize("name", NAMES)


def read(name: str):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def code(book) -> list[str]:
    """Returns the code cells as Python, with `pass` for IPython's own lines."""
    cells = (cell.source for cell in book.cells if cell.cell_type == "code")
    return [re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE) for source in cells]


def test_every_notebook_is_tested_and_in_the_readme():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)
    readme = (ROOT / "README.md").read_text()
    assert all(f"(notebooks/{name}.ipynb)" in readme for name in NAMES)


@each
def test_is_valid_and_has_no_outputs(name):
    book = read(name)
    nbformat.validate(book)
    for cell in book.cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


@each
def test_badge_install_and_project_urls_match(name):
    first, second = read(name).cells[:2]
    owner_and_name = SITE.removeprefix("https://github.com/")
    opens = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/{name}.ipynb"
    assert re.findall(r"\]\((https://colab\.[^)]*\.ipynb)\)", first.source) == [opens]
    assert second.source.startswith(f'ADDRESS = "{SITE}"\n\ntry:\n    import tpr_jax\nexcept ImportError:\n')
    assert second.source.count('%pip install -q "{source}"\n') == 1
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    urls = [url for url in project.get("urls", {}).values() if "github.com" in url]
    assert all(url.startswith(SITE) for url in urls)


def installed_from(name: str, folder, monkeypatch) -> str:
    """Returns what the first cell of a notebook installs where tpr_jax is not installed yet."""
    cell = read(name).cells[1].source
    cell = cell.replace("    import tpr_jax\n", "    raise ImportError\n", 1)
    cell = re.sub(r'%pip install -q "\{source\}"\n    import tpr_jax', "installed.append(source)", cell)
    monkeypatch.chdir(folder)
    installed = []
    exec(cell.partition("print(")[0], {"installed": installed})
    return installed[0]


@each
def test_installs_a_copy_that_was_uploaded_or_mounted_first(name, tmp_path, monkeypatch):
    assert installed_from(name, tmp_path, monkeypatch) == f"git+{SITE}"
    (tmp_path / "tpr_jax").mkdir()  # such as a folder of results
    assert installed_from(name, tmp_path, monkeypatch) == f"git+{SITE}"
    (tmp_path / "tpr_jax-main.zip").write_bytes(b"")
    assert installed_from(name, tmp_path, monkeypatch) == str(tmp_path / "tpr_jax-main.zip")
    notebooks = tmp_path / "checkout/notebooks"
    notebooks.mkdir(parents=True)
    (tmp_path / "checkout/tpr_jax").mkdir()
    (tmp_path / "checkout/tpr_jax/model.py").write_text("")
    assert installed_from(name, notebooks, monkeypatch) == str(tmp_path / "checkout")


@each
def test_imports_and_attributes_exist(name):
    """Checks attributes of modules too, such as `tpr_jax.from_pretrained`; skips `google.colab`."""
    modules = {}
    for tree in map(ast.parse, code(read(name))):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    module, top = importlib.import_module(alias.name), alias.name.partition(".")[0]
                    modules[alias.asname or top] = module if alias.asname else sys.modules[top]
            elif isinstance(node, ast.ImportFrom) and not node.module.startswith("google"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        imported = importlib.import_module(f"{node.module}.{alias.name}")
                        modules[alias.asname or alias.name] = imported
                    elif inspect.ismodule(getattr(module, alias.name)):
                        modules[alias.asname or alias.name] = getattr(module, alias.name)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                assert module is None or hasattr(module, node.attr), ast.unparse(node)


@each
def test_links_resolve(name):
    """Checks relative links and links to the pages of this project."""
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target = re.sub(rf"^{SITE}/blob/main/", "../", link).partition("#")[0]
        assert target.startswith("https://") or (ROOT / "notebooks" / target).is_file(), link


@each
def test_selects_no_device(name):
    """Only the environment selects the small settings."""
    source = "\n".join(code(read(name)))
    assert "JAX_PLATFORM" not in source and "jax_platform" not in source and '"cpu"' not in source
    assert 'QUICK = os.environ.get("TPR_QUICK") == "1"' in source


# Packages of Colab's image that a notebook also requires (fall of 2026).
COLAB = ("jax==0.7.2", "jaxlib==0.7.2", "flax==0.11.2", "numpy==2.1.3", "pillow==11.3.0")
TENSORFLOW = (
    "tensorflow-cpu==2.20.0",
    "tensorflow-datasets==4.9.9",
)  # the build without CUDA has the same files


def install_words(name: str) -> list[str]:
    """Returns the words of the notebook's `%pip` line."""
    (line,) = re.findall(r"^ *%pip (.*)$", read(name).cells[1].source, flags=re.MULTILINE)
    return shlex.split(line)


def versions(python) -> dict[str, str]:
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    return {
        package["name"].lower().replace("_", "-"): package["version"] for package in json.loads(listed.stdout)
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_installs_into_colab_without_replacing_packages(tiny, tmp_path):
    """TensorFlow still imports and feeds the batches, and a debug run works."""
    try:
        socket.create_connection(("pypi.org", 443), timeout=30).close()
    except OSError as error:
        pytest.skip(f"pypi.org is not available: {error}")

    def call(*words) -> str:
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        done = subprocess.run(
            list(map(str, words)),
            cwd=tmp_path,
            # Compiling takes longer than these steps.
            env={
                **clean,
                "JAX_PLATFORMS": "cpu",
                "PIP_NO_COMPILE": "1",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            },
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    call(sys.executable, "-m", "venv", "colab")
    python, uv = tmp_path / "colab/bin/python", Path(sys.executable).parent / "uv"
    install = (uv, "pip", "install", "--python", python) if uv.exists() else (python, "-m", "pip", "install")
    call(*install, *COLAB, *TENSORFLOW)
    before = versions(python)

    source = tmp_path / "source"
    source.mkdir()
    for path in [*ROOT.glob("*.txt"), *(ROOT / n for n in ("pyproject.toml", "setup.py", "README.md"))]:
        shutil.copy(path, source)
    for name in ("LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("tpr_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    (words,) = {tuple(install_words(name)) for name in NAMES}
    assert words[-1] == "{source}"
    call(python, "-m", "pip", *words[:-1], source)

    after = versions(python)
    assert {name: after.get(name) for name in before} == before
    assert [name for name in after if name.startswith("tensorflow") and name not in before] == []
    check = "import tensorflow as tf, tpr_jax; from tpr_jax.data import prefetch; t = prefetch.tensorflow()"
    assert call(python, "-c", f"{check}; print(tf.__version__, t is tf)").split() == ["2.20.0", "True"]
    run = ("--config", "configs/dm_adapter.py", "--workdir", "run", "--config.debug=True")
    # Towers of one block compile in half the time.
    small = (f"--config.backbone={tiny['clip']}", "--config.text_length=0", "--config.dataset=cuhk_pedes")
    call(python, "-m", "tpr_jax.main", *run, *small, f"--config.data_dir={tiny['data']}")
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["method"] == "dm_adapter" and 0 < results["final"]["test"]["t2i"]["R10"] <= 100


def run(name: str, folder, monkeypatch) -> tuple[str, list]:
    """Runs a notebook in `folder` with small settings; returns its printed text and its images in base64."""
    from nbclient import NotebookClient

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))
    monkeypatch.setenv("TPR_QUICK", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's backend displays images
    book = read(name)
    NotebookClient(
        book,
        timeout=1500,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return printed, images


def number(pattern: str, printed: str) -> float:
    """Returns the only number that matches the pattern."""
    (match,) = re.findall(pattern, printed)
    return float(match.replace(",", ""))


@pytest.mark.slow
def test_tour(quick_processes, tmp_path, monkeypatch):
    """Its zero-shot scores match those of training."""
    printed, images = run("tour", tmp_path, monkeypatch)
    results = json.loads((tmp_path / "runs/tour/results.json").read_text())
    assert number(r"\ntrained ([\d,]+) of", printed) == 466_282
    computed = ast.literal_eval(re.search(r"zero-shot, text to image: +(\{.*\})", printed)[1])
    assert computed == pytest.approx(results["zero_shot"]["test"]["t2i"], abs=0.011)
    for when, scores in (("before", results["zero_shot"]), ("after", results["final"])):
        assert number(rf"\n{when} +R1 +([\d.]+)", printed) == round(scores["test"]["t2i"]["R1"], 2)
    assert results["final"]["test"] != results["zero_shot"]["test"]
    # Photos, curves, the grid, three images of the experts, and the photos for a sentence.
    assert len(images) == 1 + 1 + 1 + 3 + 1


@pytest.mark.slow
def test_train_benchmark(quick_processes, tmp_path, monkeypatch):
    """Uses MiniPEDES instead of CUHK-PEDES."""
    printed, images = run("train_benchmark", tmp_path, monkeypatch)
    assert "no Google Drive here" in printed and "photos are read from data/benchmark" in printed
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["benchmark"]
    assert re.search(r"train +8 identities, 32 images, 64 captions", printed)
    assert "\nnot whole\n" in printed and "unreadable" not in printed  # only its counts differ
    results = json.loads((tmp_path / "runs/benchmark/results.json").read_text())
    assert results["dataset"] == "cuhk_pedes" and results["method"] == "dm_adapter"
    for name, scores in (("zero-shot", results["zero_shot"]), ("last epoch", results["final"])):
        assert number(rf"\n{name} +R1 +([\d.]+)", printed) == round(scores["test"]["t2i"]["R1"], 2)
    assert number(r"trains ([\d,]+) parameters", printed) == results["trainable_params"] > 0
    assert len(images) == 1


@pytest.mark.slow
def test_search_photos(quick_processes, tmp_path, monkeypatch):
    printed, images = run("search_photos", tmp_path, monkeypatch)
    assert number(r"([\d,]+) photos indexed", printed) == 40
    assert re.findall(r"(\d+) of 40 photos searched", printed) == ["40", "20", "40", "40"]
    assert len(images) == 4


@pytest.mark.slow
def test_port_checkpoint(quick_processes, tmp_path, monkeypatch):
    printed, _ = run("port_checkpoint", tmp_path, monkeypatch)
    ((same, total),) = re.findall(r"(\d+) of (\d+) arrays came back to the last bit", printed)
    assert same == total and int(total) > 100
    assert number(r"worst relative error of features: (\S+)", printed) < 1e-6
    assert number(r"relative difference of features: (\S+)", printed) < 1e-5
    assert number(r"from the weights of clip-mini: (\S+)", printed) < 1e-5
    assert "Lora" not in re.search(r"and when merged: (.*)", printed)[1]
    adapter, checkpoint = tmp_path / "ported/adapter.safetensors", tmp_path / "best.safetensors"
    assert adapter.stat().st_size < 0.2 * checkpoint.stat().st_size
    with np.load(tmp_path / "features.npz") as features:
        assert np.abs(features["image_feats"]).max() > 0


@pytest.mark.slow
def test_ablation(quick_processes, tmp_path, monkeypatch):
    """Its table matches the results of its runs, and the rows train different parameters."""
    printed, images = run("ablation", tmp_path, monkeypatch)
    runs = tmp_path / "runs/ablation"
    with open(runs / "compare.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["config"] for row in rows] == [
        f"ablation_dm_adapter:{r}" for r in ("adapter", "domain_router")
    ]
    for row in rows:
        folder = runs / row["config"].replace(":", "-") / "seed_0"
        results = json.loads((folder / "results.json").read_text())
        assert row["done"] == "1" and row["failed"] == "0"
        assert float(row["R1_mean"]) == results["final"]["test"]["t2i"]["R1"] > 0
        assert int(row["trainable_params"]) == results["trainable_params"]
    assert [int(row["trainable_params"]) for row in rows] == [76_880, 466_282]
    assert "[2 of 2] ablation_dm_adapter:domain_router, seed 0: R@1" in printed
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loads = [line["routing/visual/load"] for line in lines if "routing/visual/load" in line]
    assert len(loads) == 4 and sum(loads[-1]) == pytest.approx(1)
    assert len(images) == 3  # compare.png; scores and parameters; losses and loads
