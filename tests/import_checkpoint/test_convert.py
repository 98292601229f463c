"""Checkpoints of other programs become folders with the same features."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tpr_jax
from tests.clip_folder import OPEN_CLIP, copy_open_clip, read_golden
from tests.reference_bundles import each, stored
from tests.tiny_clip import quick_compilation  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.import_checkpoint.convert import Settings, import_checkpoint
from tpr_jax.weights import backbone, reference
from tpr_jax.weights.clip import from_hugging_face, load_clip, to_openai
from tpr_jax.weights.resize import resize_positions


def import_as(method, source, out, /, **settings):
    """Imports and returns the model and the lines that were printed."""
    lines: list[str] = []
    import_checkpoint(str(source), method, out, Settings(**settings), lines.append)
    return tpr_jax.from_pretrained(out), lines


def inputs(config):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, config.vocab_size - 1, (2, config.context_length))
    ids[:, 5] = config.vocab_size - 1
    return rng.normal(size=(2, *config.image_size, 3)).astype(np.float32), ids


def assert_same_features(found, wanted):
    assert found.config.image_size == wanted.config.image_size
    arrays = inputs(wanted.config)
    for a, b in zip(found.features_from_arrays(*arrays), wanted.features_from_arrays(*arrays), strict=True):
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 1e-5


@each
def test_authors_checkpoints(name, tmp_path):
    state, image_size, args = stored(name)
    settings = {"top_k": args["topk"]} if name == "dm_adapter" else {}
    save_file({f"module.{key}": array for key, array in state.items()}, tmp_path / "best.safetensors")
    model, lines = import_as(
        name, tmp_path / "best.safetensors", tmp_path / "out", image_size=image_size, method=settings
    )
    assert_same_features(model, reference.load(state, method=name, image_size=image_size, **settings))
    assert model.method.name == name
    assert lines[0].startswith(f"read: best.safetensors: {len(state)} arrays of float16")
    assert lines[-1].startswith(f"wrote: {tmp_path / 'out'}")
    assert any(line.startswith("inferred: ") for line in lines)
    assert any("such as the temperature" in line for line in lines) == (
        name == "dm_adapter" or "base_model.logit_scale" in state
    )


@pytest.fixture(scope="module")
def clip_state():
    """Returns a small CLIP under OpenAI's names, with positions of a grid of 6 x 2 as of person photos."""
    config, params = from_hugging_face(*read_golden())
    state = to_openai(params, config)
    positions = resize_positions(state["visual.positional_embedding"], (4, 4), (6, 2))
    return state | {"visual.positional_embedding": positions}


def rde(state):
    """Returns the names of RDE's released checkpoints: CLIP as `base_model`, and what it adds."""
    added = {
        "visul_emb_layer.fc.weight": np.zeros((4, 3)),
        "visul_emb_layer.fc.bias": np.zeros(4),
        "texual_emb_layer.linear.weight": np.zeros((4, 3)),
        "classifier.weight": np.zeros((5, 3)),
    }
    return {f"base_model.{name}": array for name, array in state.items()} | added


def tbps_clip(state):
    """Returns TBPS-CLIP's names: the text tower as `encode_text`, and what it adds."""
    towers = ("visual.", "logit_scale")
    named = {
        name if name.startswith(towers) else f"encode_text.{name}": array for name, array in state.items()
    }
    return named | {"simclr_mlp.0.weight": np.zeros((4, 3)), "mlm_head.fc.bias": np.zeros(3)}


def test_irras_program_without_its_heads(clip_state, tmp_path):
    """So are checkpoints of IRRA's program with SDM alone, such as HAM's: no module besides CLIP."""
    state = {f"base_model.{name}": array for name, array in clip_state.items() if name != "logit_scale"}
    np.savez(tmp_path / "best0.npz", **state)
    model, lines = import_as("clip", tmp_path / "best0.npz", tmp_path / "out")
    assert model.config.image_size == (48, 16)
    assert not any(line.startswith("left out") for line in lines)
    _, params = load_clip(backbone.find(tmp_path / "out").path, (48, 16))
    positions = clip_state["visual.positional_embedding"]
    np.testing.assert_allclose(params["visual"]["positional_embedding"], positions, atol=1e-6)


@pytest.mark.parametrize(
    ("rename", "left_out"),
    [
        (rde, "classifier (1), texual_emb_layer (1), visul_emb_layer (2)"),
        (tbps_clip, "mlm_head (1), simclr_mlp (1)"),
    ],
)
def test_fine_tuned_clips(clip_state, rename, left_out, tmp_path):
    np.savez(tmp_path / "best.npz", **{f"module.{k}": a for k, a in rename(clip_state).items()})
    model, lines = import_as("clip", tmp_path / "best.npz", tmp_path / "out")
    config = model.config
    assert (config.image_size, config.grid) == ((48, 16), (6, 2))
    assert (config.act, config.vision_heads, config.text_heads) == ("quick_gelu", 2, 1)
    np.testing.assert_allclose(
        model.variables["params"]["visual"]["positional_embedding"],
        clip_state["visual.positional_embedding"],
        atol=1e-6,
    )
    np.testing.assert_array_equal(model.variables["params"]["text"]["proj"], clip_state["text_projection"])
    assert f"left out: arrays of modules that are not CLIP's: {left_out}" in lines
    assert any(line.startswith("assumed: OpenAI's quick GELU") for line in lines)


def test_settings_of_a_clip(clip_state, tmp_path):
    np.savez(tmp_path / "w.npz", **clip_state)
    constants = {"image_mean": (0.1, 0.2, 0.3), "image_std": (0.4, 0.5, 0.6)}
    model, lines = import_as(
        "clip",
        tmp_path / "w.npz",
        tmp_path / "out",
        act="gelu",
        heads=(4, 2),
        image_size=(16, 16),
        **constants,
    )
    assert (model.config.act, model.config.vision_heads, model.config.image_size) == ("gelu", 4, (16, 16))
    assert (model.mean, model.std) == tuple(constants.values())
    assert not any(line.startswith("assumed") for line in lines)
    with pytest.raises(UserError, match=r"does not record its activation and its heads: .*--act and --heads"):
        import_as("clip", tmp_path / "w.npz", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_open_clip(tmp_path):
    """A checkpoint of OpenCLIP's training beside a config, without one, and a whole folder."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    copy_open_clip(folder)
    wanted = tpr_jax.from_pretrained(folder)
    state = load_file(folder / "open_clip_model.safetensors")
    np.savez(folder / "epoch_3.npz", **{f"module.{name}": array for name, array in state.items()})
    model, lines = import_as("open_clip", folder / "epoch_3.npz", tmp_path / "file")
    assert_same_features(model, wanted)
    assert model.mean == (0.5, 0.5, 0.5) and f"config: {folder / 'open_clip_config.json'}" in lines
    assert_same_features(import_as("open_clip", folder, tmp_path / "folder")[0], wanted)
    (folder / "open_clip_config.json").unlink()
    told = {"act": "gelu", "heads": (4, 3), "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
    assert_same_features(import_as("open_clip", folder / "epoch_3.npz", tmp_path / "told", **told)[0], wanted)


def test_shards(clip_state, tmp_path):
    names = sorted(clip_state)
    weight_map = {name: f"w-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: clip_state[n] for n in names if weight_map[n] == file}, tmp_path / file)
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for i, source in enumerate((index, tmp_path)):
        model, lines = import_as("clip", source, tmp_path / f"out{i}", act="gelu", heads=(2, 1))
        assert lines[0] == f"read: w-0.safetensors, w-1.safetensors: {len(names)} arrays of float32"
        np.testing.assert_array_equal(
            model.variables["params"]["text"]["proj"], clip_state["text_projection"]
        )


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("dm_adapter", {"base_model.visual.proj": None}, "'visual.proj' is missing"),
        ("dm_adapter", {"odd.weight": np.zeros(3)}, "'odd.weight' of shape"),
        ("up_person", {}, "belongs to dm_adapter: use --method dm_adapter"),
        ("irra", {}, "belongs to dm_adapter: use --method dm_adapter"),
        ("clip", {}, "belongs to dm_adapter: use --method dm_adapter"),
        ("open_clip", {}, "belongs to dm_adapter: use --method dm_adapter"),
    ],
)
def test_reports_a_checkpoint_that_does_not_fit(method, change, message, tmp_path):
    state = {name: array for name, array in (stored()[0] | change).items() if array is not None}
    save_file(state, tmp_path / "best.safetensors")
    with pytest.raises(UserError, match=rf"^{tmp_path}/best.safetensors: .*{message}") as error:
        import_as(method, tmp_path / "best.safetensors", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors"]


def test_rejects_settings_that_do_not_belong(tmp_path):
    save_file(stored()[0], tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="--act: the checkpoints of dm_adapter are based on OpenAI's"):
        import_as("dm_adapter", tmp_path / "w.safetensors", tmp_path / "out", act="gelu")
    with pytest.raises(UserError, match="--set top_k: CLIP has no settings of a method"):
        import_as("clip", tmp_path / "w.safetensors", tmp_path / "out", method={"top_k": 2})
    with pytest.raises(UserError, match="setting 'rank' is unknown"):
        import_as("dm_adapter", tmp_path / "w.safetensors", tmp_path / "out", method={"rank": 2})


def test_never_overwrites(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    for out in (tmp_path / "out", tmp_path / "out" / "mine"):
        with pytest.raises(UserError, match=f"--out {out}: already exists; name a new folder"):
            import_as("open_clip", OPEN_CLIP, out)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    import_as("open_clip", OPEN_CLIP, tmp_path / "empty")
    with pytest.raises(UserError, match=r"cannot be written"):
        import_as("open_clip", OPEN_CLIP, tmp_path / "out" / "mine" / "below")
