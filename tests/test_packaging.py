"""The wheel that `pip install .` installs, and an installed copy that works without the repository."""

import ast
import email
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tpr_jax
from tests.conftest import ROOT, made_once
from tpr_jax import __main__ as command
from tpr_jax.config import bundled
from tpr_jax.config.flags import parse_flags

NEEDED = ("pyproject.toml", "setup.py", "requirements.txt", "README.md", "LICENSE", "NOTICE")
EXTRAS = {
    "tensorflow": "requirements-tensorflow.txt",
    "onnx": "requirements-onnx.txt",
    "footage": "requirements-footage.txt",
    "postgres": "requirements-postgres.txt",
    "docs": "requirements-docs.txt",
}


def files_below(folder: Path) -> set[str]:
    """Returns the files of source and data, without bytecode."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if "__pycache__" not in name and not name.endswith(".tmp")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> tuple[Path, Path]:
    """(the wheel, a folder with it installed), both outside the repository.

    A wheel of Python alone is installed by unpacking it, which is all that `pip install --target` does
    besides the script. The build is the one that pip calls, with the setuptools that is here, offline.
    """
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed: `make test` does that")

    def make(folder: Path) -> None:
        source, built = folder / "source", folder / "built"
        source.mkdir()
        built.mkdir()
        for name in NEEDED:
            shutil.copy(ROOT / name, source)
        for name in ("tpr_jax", "configs", "tests"):  # tests are next to it, as in the repository
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
        wanted = {f"tpr_jax/{name}" for name in files_below(source / "tpr_jax")}
        wanted |= {f"tpr_jax/configs/{name}" for name in files_below(source / "configs")}
        (folder / "wanted.json").write_text(json.dumps(sorted(wanted)))
        build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", build, str(built)], cwd=source, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (wheel,) = built.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder / "site")
        shutil.rmtree(source)

    folder = made_once(tmp_path_factory, "installed", make)
    return next((folder / "built").glob("*.whl")), folder / "site"


ASK = """
import contextlib, importlib.util, io, json, shutil, sys
from pathlib import Path

from tpr_jax.config.flags import parse_flags
from tpr_jax.config import bundled as bundled_configs
from tpr_jax import __main__ as command


def tpr_jax(*words):
    sys.argv, said, code = ["tpr-jax", *words], io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        try:
            command.main()
        except SystemExit as ended:
            code = ended.code or 0
    return code, said.getvalue()


def method(path):
    return parse_flags(["main", "--config", path, "--workdir", "w"])[0].method.name


modules = {name: module for name, (module, _, _) in command.COMMANDS.items() if module}
there = {name: module for name, module in modules.items() if command._exists(module)}
helps = {name: tpr_jax(name, "--help") for name in there}
asked = {
    "helps": {name: [code, f"python -m {there[name]}" in said] for name, (code, said) in helps.items()},
    "folder": tpr_jax("configs")[1].strip(),
    "methods": [method("configs/lora.py"), method("configs/ablation_dm_adapter.py")],
}
Path("configs").mkdir()
shutil.copy(bundled_configs.folder() / "cskt.py", "configs/lora.py")
asked["own"] = method("configs/lora.py")
asked["index"] = tpr_jax("search", "index", "photos", "--index", "index")[0]
asked["query"] = tpr_jax("search", "query", "a man in a red coat", "--index", "index", "--json")[1]
modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "tpr_jax"]
asked["files"] = sorted(module.__file__ for module in modules if module.__file__)
print(json.dumps(asked))
"""


@pytest.fixture(scope="module")
def asked(installed, tmp_path_factory) -> dict:
    """Returns what the installed copy does outside the repository, in one process."""

    def make(folder: Path) -> None:
        photos = installed[1] / "tpr_jax/data/mini_pedes/bundled/imgs/val"
        (folder / "photos").mkdir()
        for path in sorted(photos.rglob("*.jpg"))[:6]:
            shutil.copy(path, folder / "photos")
        (folder / "ask.py").write_text(ASK)
        done = subprocess.run(
            [sys.executable, "ask.py"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(installed[1]), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        (folder / "asked.json").write_text(done.stdout)

    folder = made_once(tmp_path_factory, "elsewhere", make)
    photos = sorted(path.name for path in (folder / "photos").iterdir())
    return {**json.loads((folder / "asked.json").read_text()), "photos": photos}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(installed):
    wheel, site = installed
    wanted = json.loads((site.parent / "wanted.json").read_text())  # of the sources as they were copied
    assert sorted(name for name in files_below(site) if ".dist-info/" not in name) == wanted
    assert sum(name.startswith("tpr_jax/data/mini_pedes/bundled/imgs/") for name in wanted) == 3400
    assert wheel.name == f"tpr_jax-{tpr_jax.__version__}-py3-none-any.whl"
    assert 15e6 < wheel.stat().st_size < 40e6  # nearly all are MiniPEDES and clip-mini


def requirements(name: str) -> list[Requirement]:
    """Returns what a requirements file lists itself, without what it includes."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def with_extra(requirement: Requirement, extra: str) -> Requirement:
    """Returns the requirement as a wheel lists it for an extra."""
    marker = f'extra == "{extra}"'
    requirement.marker = Marker(f"({requirement.marker}) and {marker}" if requirement.marker else marker)
    return requirement


def test_extras_are_the_requirements_files():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {extra: [str(Requirement(line)) for line in lines] for extra, lines in extras.items()}
    for extra, name in EXTRAS.items():
        assert listed[extra] == [str(one) for one in requirements(name)], extra
    core = {str(one) for one in requirements("requirements.txt")}
    assert set(listed["search"] + listed["viz"]) <= core
    assert listed["tfds"] == ["tpr-jax[tensorflow]"]
    (hooks,) = set(listed["dev"]) - {str(one) for one in requirements("requirements-test.txt")}
    assert Requirement(hooks).name == "pre-commit"
    assert set(listed) == {*EXTRAS, "search", "viz", "tfds", "dev"}


def test_what_the_wheel_says_of_itself(installed):
    (info,) = installed[1].glob("*.dist-info")
    said = email.message_from_string((info / "METADATA").read_text())
    assert (said["Name"], said["Version"]) == ("tpr-jax", tpr_jax.__version__)
    assert (said["License-Expression"], said["Requires-Python"]) == ("Apache-2.0", ">=3.11")
    asked = {str(Requirement(line)) for line in said.get_all("Requires-Dist")}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {str(one) for one in requirements("requirements.txt")}
    for extra, lines in extras.items():
        wanted |= {str(with_extra(Requirement(line), extra)) for line in lines}
    assert asked == wanted
    assert set(said.get_all("Provides-Extra")) == set(extras)
    assert (installed[1] / "tpr_jax/py.typed").is_file()
    for name in ("LICENSE", "NOTICE"):
        assert (info / "licenses" / name).read_bytes() == (ROOT / name).read_bytes()
    (script,) = importlib.metadata.Distribution.at(info).entry_points
    assert (script.name, script.group, script.load()) == ("tpr-jax", "console_scripts", command.main)


# Imported packages that are optional or come with another requirement.
OPTIONAL = {
    "av",
    "cv2",
    "psycopg",
    "pgvector",
    "torch",
    "torchvision",
    "jax2onnx",
    "onnxruntime",
    "apache_beam",
    "libtpu",
}
WITH_TENSORFLOW = {"tensorflow", "tensorflow_datasets", "google"}  # google.protobuf
WITH_OTHERS = {"jaxlib", "ml_dtypes", "starlette", "anyio", "pydantic", "pydantic_core"}
WITH_OTHERS |= {"huggingface_hub", "orbax"}


def test_all_that_is_imported_is_required():
    """Compares names, because dependencies of TensorFlow are missing without it."""
    required = {canonicalize_name(one.name) for one in requirements("requirements.txt")}
    provides = importlib.metadata.packages_distributions()
    missing = {}
    for path in (ROOT / "tpr_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"tpr_jax"}:
                by = {canonicalize_name(one) for one in provides.get(name, [])}
                if not by & required and name not in OPTIONAL | WITH_TENSORFLOW | WITH_OTHERS:
                    missing[name] = path.name
    assert missing == {}


def test_an_installed_copy_answers_with_its_own_data(asked, installed):
    """Zero-shot, from index to answer; weights and vocabulary are the copy's, as every module is."""
    assert asked["index"] == 0
    assert sorted(one["path"] for one in json.loads(asked["query"])["results"]) == asked["photos"]
    assert all(Path(name).is_relative_to(installed[1]) for name in asked["files"])
    assert any(name.endswith("weights/clip.py") for name in asked["files"])


def test_an_installed_copy_finds_its_configs(asked, installed):
    """`configs/NAME.py` far from the repository is the bundled one; one in the working folder comes first."""
    assert asked["methods"] == ["lora", "dm_adapter"] and asked["own"] == "cskt"
    assert Path(asked["folder"]) == installed[1] / "tpr_jax/configs"


def test_every_command_that_is_there_has_a_help(asked):
    assert {"train", "search", "compare", "aot", "data-check"} <= set(asked["helps"])
    assert set(map(tuple, asked["helps"].values())) == {(0, True)}, asked["helps"]


def test_a_bundled_config_that_does_not_exist_is_named(monkeypatch, tmp_path, explained, capsys):
    monkeypatch.chdir(tmp_path)
    for written in (["--config", "configs/dm_adaptr.py"], ["--config=configs/dm_adaptr.py"]):
        line = explained(capsys, *written, "--workdir", "w")
        assert "configs/dm_adaptr.py: no such file; did you mean 'configs/dm_adapter.py'?" in line
    for written in (["--config", "configs/lora.py:cuhk_pedes"], ["--config=configs/lora.py:cuhk_pedes"]):
        config = parse_flags(["main", *written, "--workdir", "w"])[0]
        assert (config.method.name, config.dataset) == ("lora", "cuhk_pedes")
    assert bundled.find("lora.py") == "lora.py"  # only what is named as in the repository
    assert bundled.find("") == ""


def run_command(monkeypatch, *words) -> tuple[str, list[str]]:
    """Returns (the module that is run, its arguments)."""
    seen = []
    monkeypatch.setattr(command.runpy, "run_module", lambda name, **_: seen.append((name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["tpr-jax", *words])
    command.main()
    return seen[0]


@pytest.mark.parametrize(
    ("words", "module", "arguments"),
    [
        (["train", "--workdir", "w"], "tpr_jax.main", ["--mode", "train", "--workdir", "w"]),
        (["eval", "--workdir", "w"], "tpr_jax.main", ["--mode", "eval", "--workdir", "w"]),
        (["train"], "tpr_jax.main", []),  # which prints how it is used
        (["search", "query", "x"], "tpr_jax.search", ["query", "x"]),
        (["data-check", "folder"], "tpr_jax.data.check", ["folder"]),
    ],
)
def test_a_command_is_the_module_of_the_same_work(words, module, arguments, monkeypatch):
    assert run_command(monkeypatch, *words) == (module, arguments)


def test_commands_that_are_not_there(monkeypatch, capsys):
    monkeypatch.setitem(command.COMMANDS, "later", ("tpr_jax.not_written_yet", [], "some day"))
    for words, said in (
        (["later", "x"], "not part of this version"),
        (["lern"], "'lern' is unknown"),
        (["serach"], "did you mean 'search'?"),
    ):
        monkeypatch.setattr(sys, "argv", ["tpr-jax", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        line = capsys.readouterr().err
        assert ended.value.code == 2 and said in line and line.count("\n") == 1
    monkeypatch.setattr(sys, "argv", ["tpr-jax", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    listed = capsys.readouterr().out
    assert ended.value.code == 0 and "some day" not in listed and "data-check" in listed


def test_the_tools_settings_stay_where_they_are():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["ruff"]["line-length"] == 110 and settings["pytest"]["ini_options"]["testpaths"] == [
        "tests"
    ]
