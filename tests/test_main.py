"""The command line: what it accepts, its error messages, and what importing costs."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.config_files import PRETRAIN
from tpr_jax import main
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_command, parse_flags
from tpr_jax.errors import UserError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_importing_the_package_is_quick():
    code = (
        "import time; t = time.perf_counter(); import tpr_jax, sys; took = time.perf_counter() - t;"
        "heavy = {'jax', 'flax', 'tensorflow', 'numpy', 'orbax'} & set(sys.modules); print(took, *heavy)"
    )
    took, *heavy = python(code).split()
    assert float(took) < 2 and heavy == []


def test_images_and_sizes_do_not_import_jax():
    """The processes that decode and augment start quickly and hold no device."""
    code = (
        "import sys, tpr_jax.data.augment, tpr_jax.data.images.read, tpr_jax.models.config;"
        "import tpr_jax.utils.files;"
        "print(*{'jax', 'flax', 'tensorflow'} & set(sys.modules))"
    )
    assert python(code) == ""


def test_ranking_and_the_command_line_do_not_import_tensorflow():
    code = (
        "import sys, tpr_jax.metrics, tpr_jax.train.evaluate, tpr_jax.main, tpr_jax.model;"
        "print('tensorflow' in sys.modules)"
    )
    assert python(code) == "False"


def test_training_imports_neither_pytorch_nor_keras(tmp_path):
    """Both take seconds, and Colab has both."""
    for package in ("torch", "keras"):
        (tmp_path / f"{package}.py").write_text(f"print('{package} was imported')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tpr_jax.data.pipeline, tpr_jax.train.loop"
    )
    assert python(code) == ""


def test_help_shows_the_command(capsys):
    for argv, code in ((["main", "--help"], 0), (["main", "-h"], 0), (["main"], 2)):
        with pytest.raises(SystemExit) as ended:
            explain_and_exit(main.run, argv)
        assert ended.value.code == code
        assert "python -m tpr_jax.main --config configs/NAME.py" in capsys.readouterr().out


def parse(*flags):
    return parse_flags(["main", *map(str, flags)])


def test_overrides_set_keys_and_keep_the_rest(tiny):
    flags = ["--config.seed=3", "--config.optimizer.lr=1e-4", "--config.image_size=(64,32)"]
    flags += ["--noconfig.augment", "--config.mesh.data=1", "--config.method.top_k", "1"]
    config, workdir, mode = parse("--config", tiny["config"], "--workdir", "w", *flags, "--mode=eval")
    assert (config.seed, config.optimizer.lr, config.image_size) == (3, 1e-4, (64, 32))
    assert (config.augment, config.mesh.data, config.method.top_k) == (False, 1, 1)
    assert (workdir, mode) == (Path("w"), "eval")
    plain, _, mode = parse(f"--config={tiny['config']}", "--workdir=w")
    assert (plain.seed, plain.augment, plain.method.top_k, mode) == (0, True, 2, "train")


def test_initial_is_for_evaluation(tiny):
    words = ["main", f"--config={tiny['config']}", "--workdir=w", "--initial"]
    assert parse_command([*words, "--mode=eval"]).initial and not parse_command(words[:3]).initial
    with pytest.raises(UserError, match="--initial needs --mode eval"):
        parse_command(words)


def test_rerank_is_for_evaluation(tiny):
    words = ["main", f"--config={tiny['config']}", "--workdir=w"]
    assert parse_command([*words, "--mode=eval", "--rerank=nnn"]).rerank == "nnn"
    assert parse_command(words).rerank is None
    with pytest.raises(UserError, match="--rerank needs --mode eval"):
        parse_command([*words, "--rerank=all"])


def is_ablation(path: Path) -> bool:
    return path.stem.startswith("ablation")


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
@pytest.mark.parametrize("dataset", ["", *config_lib.DATASETS])
def test_every_config_is_valid_and_builds_its_method(path, dataset):
    from tpr_jax.models.methods import METHODS

    if dataset and path.stem in PRETRAIN:
        with pytest.raises(UserError, match="one data set only: leave out"):
            parse("--config", f"{path}:{dataset}", "--workdir", "w")
        return
    # An ablation's argument is a row, and may be a data set besides.
    argument = f"{'moe' if 'dm_adapter' in path.stem else 'all'},{dataset}" if is_ablation(path) else dataset
    config, _, _ = parse("--config", f"{path}:{argument}" if dataset else path, "--workdir", "w")
    assert config.dataset == (dataset or "mini_pedes")
    method = METHODS[config.method.name](**config_lib.method_settings(config))
    assert method.name == config.method.name
    paper = dataset not in ("", "mini_pedes")
    assert config.image_size == ((384, 128) if paper else (192, 64))
    assert f"--config configs/{path.name}" in path.read_text()  # the docstring holds the command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workdir=w"], "--config is missing"),
        (["--config", "configs/dm_adaptr.py"], "no such file; did you mean 'configs/dm_adapter.py'?"),
        (
            ["--config", "configs/dm_adapter.py:cuhk"],
            "data set 'cuhk' is unknown: did you mean 'cuhk_pedes'?",
        ),
        (["--config", "configs/dm_adapter.py"], "--workdir is missing"),
        (["--config", "configs/dm_adapter.py", "--workdir=w", "--config.seed"], "--config.seed"),
        (["--config"], "--config"),
    ],
)
def test_names_what_is_missing(flags, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        parse(*flags)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax"),
        ("x = 1\n", "has no function get_config"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config():\n    return base\n", "NameError: name 'base' is not defined"),
        ("def get_config():\n    return {}['seed']\n", "KeyError: 'seed'"),
        ("def get_config():\n    pass\n", "get_config returns a NoneType"),
        ("def get_config():\n    return {'seed': 1}\n", "get_config returns a dict"),
        (
            "from ml_collections import ConfigDict as C\ndef get_config():\n    return C()\n",
            "is missing: start",
        ),
        ("\0", "cannot be used"),
    ],
)
def test_reports_a_config_file_that_fails(tmp_path, content, words, explained, capsys):
    path = tmp_path / "mine.py"
    path.write_text(content)
    line = explained(capsys, "--config", path, "--workdir", tmp_path / "run")
    assert words in line
    assert not (tmp_path / "run").exists()


def test_ctrl_c_exits_with_130(capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        explain_and_exit(interrupted, [])
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


def test_a_bug_keeps_its_traceback():
    def broken(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        explain_and_exit(broken, [])


def test_unknown_key_is_reported_before_heavy_imports(tiny):
    began = time.time()
    code = (
        "import sys; from tpr_jax import main\n"
        f"flags = ['main', '--config', {tiny['config']!r}, '--workdir', 'w', '--config.sed=1']\n"
        "try: main.run(flags)\n"
        "except Exception as error: print(error, 'jax' in sys.modules, 'tensorflow' in sys.modules)"
    )
    assert "config.sed is unknown: did you mean 'seed'?" in (said := python(code))
    assert said.endswith("False") and time.time() - began < 60
