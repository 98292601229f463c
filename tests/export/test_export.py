"""Exported encoders, loaded without this package, give the features of the model."""

import dataclasses
import datetime
import importlib.util
import json
import math
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import tpr_jax
from tests.clip_folder import IMAGE_MEAN, IMAGE_STD, set_image_constants
from tests.conftest import ROOT, _environment, made_once
from tests.saved_models import trained
from tests.tiny_clip import DM_SETTINGS, SETTINGS, quick_compilation  # noqa: F401
from tpr_jax.data.tokenizer import folder_tokenizer
from tpr_jax.errors import ArgumentError, UserError
from tpr_jax.export import choices, jax_files, onnx_files, read_export, saved_model
from tpr_jax.export import write as writing
from tpr_jax.export.encoders import expected_features, relative_error, sample_inputs
from tpr_jax.models import methods
from tpr_jax.utils.trees import flatten

pytestmark = pytest.mark.everywhere

TEXTS = ["A person in a RED coat.", "", "blue below, " * 30, "a man", "white", "green; grey!", "pink hat"]
METHODS = {
    "dm_adapter": methods.dm_adapter(**DM_SETTINGS),
    "up_person": methods.up_person(**SETTINGS["up_person"]),
    "cskt": methods.cskt(**SETTINGS["cskt"]),
    "zero_shot": methods.zero_shot(),
}
READ_JAX = """
from jax import export
files = {name: export.deserialize(open(f"jax/{name}.jaxexport", "rb").read()) for name in NAMES}
call = lambda name, rows: files[name].call(rows)
for exported in files.values():
    assert exported.platforms == ("cpu", "cuda", "tpu"), exported.platforms
"""
READ_TENSORFLOW = """
import tensorflow as tf
loaded = tf.saved_model.load("saved_model")
words = {"encode_image": "pixels", "encode_text": "ids"}
call = lambda name, rows: loaded.signatures[name](**{words[name]: tf.constant(rows)})["features"]
for name, signature in loaded.signatures.items():
    assert signature.inputs[0].shape[0] is None, signature.inputs
"""
READ_ONNX = """
import onnxruntime
files = {name: onnxruntime.InferenceSession(f"onnx/{name}.onnx") for name in NAMES}
words = {"encode_image": "pixels", "encode_text": "ids"}
call = lambda name, rows: files[name].run(["features"], {words[name]: rows})[0]
"""
READ = """
import sys
for name in BLOCKED: sys.modules[name] = None
import json, numpy as np, tokenizers
about = json.load(open("export.json"))
NAMES = ("encode_image", "encode_text")
{load}
tokenizer = tokenizers.Tokenizer.from_file(about["text"]["tokenizer"])
given = np.load(sys.argv[1])
found = {{}}
for b in (1, 3, 7):
    ids = np.array([tokenizer.encode(text).ids for text in given["texts"][:b].tolist()], np.int32)
    found[f"encode_image{{b}}"] = np.asarray(call("encode_image", given["pixels"][:b]))
    found[f"encode_text{{b}}"] = np.asarray(call("encode_text", ids))
np.savez(sys.argv[2], **found)
"""


THERE = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(not THERE, reason="TensorFlow is not installed")


def exported(folder, *words):
    command = [sys.executable, "-m", "tpr_jax.export", "--out", str(folder), *words]
    return subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=800)


def model_of(tiny, name):
    tokenizer = folder_tokenizer(tiny["clip"])
    return trained(tiny["clip"], METHODS[name], image_size=(32, 16), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def mixture(tiny, tmp_path_factory):
    """Returns a DM-Adapter `model`, its export `out`, and what the command `said`."""

    def make(folder):
        model_of(tiny, "dm_adapter").save_pretrained(folder / "model")
        words = ("--model", str(folder / "model"), "--format", "jax")
        words += ("--format", "saved_model") if THERE else ()
        ended = exported(folder / "out", *words)
        assert ended.returncode == 0, ended.stderr
        (folder / "said.txt").write_text(ended.stdout)

    folder = made_once(tmp_path_factory, "export", make)
    model = tpr_jax.from_pretrained(folder / "model")
    return {"model": model, "out": folder / "out", "said": (folder / "said.txt").read_text()}


def assert_runs_in_a_new_process(folder, model, tmp_path, load: str, blocked: tuple[str, ...]) -> None:
    """Loads the export in a new process, without these packages, and compares batches of 1, 3 and 7."""
    pixels = np.random.default_rng(3).integers(0, 256, (7, 32, 16, 3), np.uint8)
    np.savez(tmp_path / "given.npz", pixels=pixels, texts=np.array(TEXTS))
    script = f"BLOCKED = {blocked!r}\n" + READ.format(load=load)
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    variables.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", script, str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 0, ended.stderr
    right = {"encode_image": model.encode_images(list(pixels)), "encode_text": model.encode_texts(TEXTS)}
    found = np.load(tmp_path / "found.npz")
    for name, feats in right.items():
        for b in (1, 3, 7):
            assert found[f"{name}{b}"].dtype == np.float32
            np.testing.assert_allclose(found[f"{name}{b}"], feats[:b], atol=2e-6)
            np.testing.assert_allclose(np.linalg.norm(found[f"{name}{b}"], axis=1), 1, atol=1e-6)
        assert np.abs(feats[0] - feats[1]).max() > 1e-3  # otherwise any row passes


def test_runs_with_jax_alone(mixture, tmp_path):
    assert_runs_in_a_new_process(
        mixture["out"], mixture["model"], tmp_path, READ_JAX, ("tpr_jax", "flax", "tensorflow")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8': choose from: float32, bfloat16, float16"),
        ({"dtype": None}, "dtype=None: choose from"),
        ({"platforms": ("foo",)}, "platforms: 'foo' is unknown: choose from: cpu, cuda, tpu"),
        ({"platforms": ()}, "platforms: '' is unknown"),
        ({"platforms": "cpu"}, "platforms is one str: give a list"),
        ({"formats": "jax"}, "formats is one str: give a list"),
        ({"formats": ("foo",)}, "formats: 'foo' is unknown: choose from: jax, saved_model, onnx"),
        ({"formats": ()}, "formats: '' is unknown"),
        ({"formats": [3]}, "formats[0]=3 must be a text (str)"),
        ({"formats": None}, "formats must be a list"),
        ({"folder": 3}, "folder=3 must be a path"),
        ({"model": "clip-mini"}, "model must be a Model, as from_pretrained returns it, not str"),
    ],
)
def test_rejects_unusable_arguments(mixture, tmp_path, settings, message):
    given = {"model": mixture["model"], "folder": tmp_path / "out", **settings}
    with pytest.raises(ArgumentError) as error:
        writing.write_export(**given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", [3, None, "", b"out"])
def test_reads_no_folder_that_is_not_a_path(folder):
    with pytest.raises(ArgumentError, match="folder"):
        read_export(folder)


def test_writes_a_format_once(tiny, tmp_path):
    about = writing.write_export(
        model_of(tiny, "zero_shot"), tmp_path / "out", formats=["jax", "jax"], platforms=["cpu", "cpu"]
    )
    assert list(about["formats"]) == ["jax"] and about["formats"]["jax"]["platforms"] == ["cpu"]


def test_every_format_can_be_chosen():
    assert set(choices.FORMATS) == writing.WRITERS.keys() == writing.PACKAGES.keys()


@needs_tensorflow
def test_runs_with_tensorflow_alone(mixture, tmp_path):
    assert_runs_in_a_new_process(
        mixture["out"], mixture["model"], tmp_path, READ_TENSORFLOW, ("tpr_jax", "jax", "jaxlib")
    )


def test_contents_of_the_folder(mixture):
    out, model = mixture["out"], mixture["model"]
    about = json.loads((out / "export.json").read_text())
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert files.keys() == about["bytes"].keys() | {"export.json"}
    assert {name: files[name].stat().st_size for name in about["bytes"]} == about["bytes"]
    assert about["image"]["shape"] == ["b", 32, 16, 3] and about["text"]["shape"] == ["b", 24]
    assert about["output"]["shape"] == ["b", 32] and about["method"] == "dm_adapter"
    written = ("jax", "saved_model") if THERE else ("jax",)
    assert tuple(about["formats"]) == written
    for said in about["formats"].values():
        assert 0 < said["error"]["encode_image"] < 1e-5 and 0 < said["error"]["encode_text"] < 1e-5
    today, made_on = datetime.datetime.now(datetime.UTC).date(), datetime.date.fromisoformat(about["made_on"])
    assert made_on <= today <= made_on + datetime.timedelta(days=1)
    for said in about["formats"].values():
        assert said["versions"]["jax"] == jax.__version__
    assert (
        about["made_on"] in (out / "README.md").read_text()
        and jax.__version__ in (out / "README.md").read_text()
    )
    for name in ("encode_image.jaxexport", "[b, 32, 16, 3]", "[b, 24]", "tokenizer.json"):
        assert name in (out / "README.md").read_text()
    assert ('"encode_text"' in (out / "README.md").read_text()) == THERE  # how to load `saved_model`
    listed = ", ".join([*written, "tokenizer.json", "export.json"])
    assert mixture["said"].splitlines()[-1].startswith(f"written to {out}: {listed}")
    # Each weight is stored once; the rest are programs and names.
    size = sum(leaf.nbytes for leaf in flatten(model.variables).values())
    for kind in ("jax/", "saved_model/variables/")[: len(written)]:
        held = sum(path.stat().st_size for name, path in files.items() if name.startswith(kind))
        assert size < held < size + 150_000
    if THERE:
        program = files["saved_model/saved_model.pb"].read_bytes()
        assert len(program) < size and b"composite_v" not in program  # unknown to TensorFlow


@pytest.mark.parametrize("name", ["up_person", "cskt", "zero_shot"])
def test_other_methods(tiny, tmp_path, name):
    model = model_of(tiny, name)
    writing.write_export(model, tmp_path / "out", platforms=("cpu",))
    read = jax_files.read(tmp_path / "out" / "jax")
    rows = sample_inputs(model, 2)
    for encoder, right in expected_features(model, rows).items():
        np.testing.assert_allclose(read[encoder](rows[encoder]), right, atol=2e-6)


@needs_tensorflow
def test_saved_model_programs_are_old_and_have_no_composites():
    """Covers `erf`, `top_k` and others that JAX writes as composites; compares with NumPy."""

    def function(weights, rows):
        values, places = jax.lax.top_k(rows.astype(np.float32) - weights["a"], 2)
        return jax.lax.erf(values) + jax.nn.gelu(values, approximate=False) + places

    tf = saved_model.tensorflow()
    (b,) = jax.export.symbolic_shape("b")
    kinds = {"a": jax.ShapeDtypeStruct((5,), np.float32), "unused": jax.ShapeDtypeStruct((2,), np.float32)}
    rows = jax.ShapeDtypeStruct((b, 5), np.int32)
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda"))(kinds, rows)
    program = saved_model.old_stablehlo(exported)
    assert b"StableHLO_v1.0.0" in program and b"composite_v" not in program
    a = np.array([0.5, 0, 1, 0.25, 0], np.float32)  # exact, so that the order is certain
    bound = saved_model._call_exported(exported, [tf.Variable(a), tf.Variable([0.0, 0.0])])
    call = tf.function(bound, autograph=False).get_concrete_function(tf.TensorSpec([None, 5], tf.int32))
    for size in (1, 4):
        given = np.random.default_rng(size).permuted(
            np.tile(np.arange(-2, 3, dtype=np.int32), (size, 1)), axis=1
        )
        places = np.argsort(-(given - a), axis=-1, kind="stable")[:, :2]
        values = np.take_along_axis(given - a, places, axis=-1).astype(np.float64)
        erf = np.vectorize(math.erf)
        right = erf(values) + values * (1 + erf(values / math.sqrt(2))) / 2 + places
        np.testing.assert_allclose(call(tf.constant(given))["features"], right, atol=1e-5)


@needs_tensorflow
def test_exact_gelu(tiny, tmp_path):
    """Programs of CLIPs with exact GELU contain `erf`."""
    model = model_of(tiny, "zero_shot")
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, act="gelu"))
    about = writing.write_export(model, tmp_path / "out", formats=("saved_model",))
    assert all(0 < error < 1e-5 for error in about["formats"]["saved_model"]["error"].values())


@needs_tensorflow
@pytest.mark.parametrize("when", ["written", "called"])
def test_reports_a_tensorflow_that_is_too_old(when, tiny, tmp_path, monkeypatch):
    from tensorflow.compiler.tf2xla.python import xla

    def refuse(*_, **__):
        raise NotImplementedError("XlaCallModule supports version 9")

    if when == "written":
        monkeypatch.setattr(xla, "call_module", refuse)
    else:  # not a program: TensorFlow looks at it when it is called
        monkeypatch.setattr(saved_model, "old_stablehlo", lambda exported: b"ML\xefR version 9")
    with pytest.raises(UserError, match=r"TensorFlow \d.* cannot read what JAX \d.*newer TensorFlow"):
        writing.write_export(model_of(tiny, "zero_shot"), tmp_path / "out", formats=("saved_model",))
    assert not list(tmp_path.iterdir())


def test_narrow_types_are_smaller_and_report_their_error(tiny, tmp_path):
    model = model_of(tiny, "zero_shot")
    found = {
        dtype: writing.write_export(model, tmp_path / dtype, platforms=("cpu",), dtype=dtype)
        for dtype in ("float16", "bfloat16")
    }
    rows = sample_inputs(model)
    right = expected_features(model, rows)
    for dtype, about in found.items():
        said = about["formats"]["jax"]["error"]
        read = jax_files.read(tmp_path / dtype / "jax")
        for encoder, feats in right.items():
            difference = np.linalg.norm(read[encoder](rows[encoder]) - feats, axis=1).max()
            assert said[encoder] == pytest.approx(difference, rel=1e-3)
            assert 1e-5 < difference < {"float16": 0.01, "bfloat16": 0.1}[dtype]
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(model.variables))
        held = sum(n for path, n in about["bytes"].items() if path.startswith("jax/"))
        assert size / 2 < held < size / 2 + 100_000


@pytest.mark.parametrize("writer", [jax_files, pytest.param(saved_model, marks=needs_tensorflow)])
def test_a_program_is_for_its_platforms(tiny, tmp_path, monkeypatch, writer):
    """Accelerators add biases in bfloat16, which a CPU adds before it rounds."""
    model, sums, exports = model_of(tiny, "zero_shot"), {}, writer.export.export

    def export(function, platforms):
        def trace(*specs):
            exported = exports(function, platforms=platforms)(*specs)
            if specs[-1].dtype == np.int32:  # the text encoder
                sums[platforms] = len(re.findall(r"stablehlo\.add .*xbf16>", str(exported.mlir_module())))
            return exported

        return trace

    monkeypatch.setattr(writer.export, "export", export)
    for platforms in (("cpu",), ("cuda",), ("cpu", "tpu")):
        writer.write(model, tmp_path, "bfloat16", platforms)
    biases = 4 * model.config.text_layers + 1  # qkv, out, fc, proj; the last block computes q by itself
    assert sums["cuda",] == sums["cpu", "tpu"] == sums["cpu",] + biases


def test_images_are_normalized_with_the_mean_of_the_model(tiny, tmp_path):
    """Not with CLIP's, which the encoder applies to raw pixels."""
    plain = model_of(tiny, "zero_shot")
    config = dataclasses.replace(plain.config, image_mean=(0.1, 0.2, 0.3), image_std=(0.5, 0.6, 0.7))
    model = dataclasses.replace(plain, config=config)
    writing.write_export(model, tmp_path / "out", platforms=("cpu",))
    pixels = sample_inputs(model, 2)["encode_image"]
    found = jax_files.read(tmp_path / "out" / "jax")["encode_image"](pixels)
    np.testing.assert_allclose(found, model.encode_images(list(pixels)), atol=2e-6)
    assert relative_error(found, model_of(tiny, "zero_shot").encode_images(list(pixels))) > 1e-3


@pytest.mark.parametrize("name", ["jax", "onnx"])
def test_image_constants_of_a_folder(own_clip, tmp_path, name):
    """The mean and std of preprocessor_config.json are part of the exported program."""
    if name == "onnx":
        pytest.importorskip("jax2onnx", reason="pip install -r requirements-onnx.txt")
    rows = np.random.default_rng(0).integers(0, 256, (3, 32, 16, 3), np.uint8)
    before = tpr_jax.from_pretrained(own_clip, image_size=(32, 16)).encode_images(list(rows))
    set_image_constants(own_clip)
    model = tpr_jax.from_pretrained(own_clip, image_size=(32, 16))
    description = writing.write_export(model, tmp_path / "out", formats=(name,), platforms=("cpu",))
    inside = description["image"]["inside_the_graph"]
    assert (tuple(inside["mean"]), tuple(inside["std"])) == (IMAGE_MEAN, IMAGE_STD)
    feats = writing.WRITERS[name].read(tmp_path / "out" / name)["encode_image"](rows)
    np.testing.assert_allclose(feats, model.encode_images(list(rows)), atol=1e-5 if name == "onnx" else 2e-6)
    assert relative_error(feats, before) > 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_runs_with_onnx_runtime_alone(tiny, tmp_path, name):
    """Needs the packages of requirements-onnx.txt."""
    pytest.importorskip("jax2onnx", reason="pip install -r requirements-onnx.txt")
    model = model_of(tiny, name)
    about = writing.write_export(model, tmp_path / "out", formats=("onnx",))
    assert all(0 < error < 1e-4 for error in about["formats"]["onnx"]["error"].values())
    assert_runs_in_a_new_process(tmp_path / "out", model, tmp_path, READ_ONNX, ("tpr_jax", "jax", "jax2onnx"))


def test_a_failed_export_keeps_the_older_one(tiny, tmp_path, monkeypatch):
    model, out = model_of(tiny, "zero_shot"), tmp_path / "out"

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jax_files, "write", fail)
    with pytest.raises(OSError, match="No space"):
        writing.write_export(model, out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "export.json").write_text(json.dumps({"made_by": "tpr_jax.export", "bytes": {"a": 1}}))
    (out / "a").write_text("older")
    with pytest.raises(OSError, match="No space"):
        writing.write_export(model, out)
    assert sorted(path.name for path in out.iterdir()) == ["a", "export.json"]
    assert list(tmp_path.iterdir()) == [out]
    monkeypatch.undo()
    monkeypatch.setattr(onnx_files, "write", fail)
    monkeypatch.setattr(jax_files, "write", lambda model, folder, *_: (folder / "b").write_text("newer"))
    writing.write_export(model, out, platforms=("tpu",))
    assert (out / "jax" / "b").read_text() == "newer" and not (out / "a").exists()
    assert list(tmp_path.iterdir()) == [out]
