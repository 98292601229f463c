"""A small SigLIP in each command: training, evaluation, search, export and figures."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
import tokenizers

import tpr_jax
from tests import search_galleries
from tests.conftest import made_once
from tests.saved_models import trained
from tests.siglip_folder import write_siglip
from tpr_jax.aot import programs
from tpr_jax.config.flags import parse_flags
from tpr_jax.data import records
from tpr_jax.data.siglip_tokenizer import siglip_tokenizer
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.export.write import write_export
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import mixture
from tpr_jax.search.index.build import build
from tpr_jax.search.index.store import model_sha256
from tpr_jax.search.query.search import open_searcher, search, text_notes
from tpr_jax.train import evaluate, loop, setup
from tpr_jax.visualize import __main__ as visualize
from tpr_jax.weights import backbone

# All that is drawn: a mixture of experts, a prefix and prompts.
PARTS = {"experts": {"part": "moe", "num_experts": 3}, "tokens": {"part": "prefix", "length": 2}}
METHOD = mixture(both=PARTS, prompts={"length": 1})
TEXTS = ["a man in a RED coat", "woman", "a person with black hair, white shoes and a blue bag"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder with `one`, `two`, each a SigLIP, and `model`, a saved model on `one`."""

    def make(root):
        for name, version in (("one", 1), ("two", 2)):
            write_siglip(root / name, version)
        tokenizer = tpr_jax.from_pretrained(root / "one").tokenizer
        model = trained(root / "one", METHOD, (32, 16), tokenizer=tokenizer)
        model.save_pretrained(root / "model")

    return made_once(tmp_path_factory, "siglip_commands", make)


def test_evaluation_encodes_all_positions():
    """Captions of any length reach the text tower as rows of the full context."""
    config, shapes = ClipConfig(family="siglip", context_length=64), set()
    images = np.zeros((3, 8, 8, 3), np.uint8)
    table = records.Records(
        name="x",
        image_paths=["a", "b", "c"],
        captions=[["a"], ["b"], ["c d"]],
        pids=np.arange(3),
        stored=list(images),
    )

    def encoder(variables, rows):
        shapes.add(rows.shape)
        return np.ones((len(rows), 2), np.float32)

    def tokenize(texts):
        rows = np.ones((len(texts), 64), np.int32)
        rows[:, 0] = 9
        return rows

    for settings, length in (({"config": config}, 64), ({}, 24)):
        shapes.clear()
        evaluate.encode_split((encoder, encoder), {}, table, tokenize, (8, 8), 4, **settings)
        assert {shape for shape in shapes if len(shape) == 2} == {(4, length)}


def small_config(tiny, backbone, **changes):
    config = parse_flags(["main", "--config", tiny["config"], "--workdir", "unused"])[0]
    config.method = changes.pop("method", config.method)
    config.update({"backbone": str(backbone), "total_steps": 2, "eval_every": 0, **changes})
    return config


def test_training_with_all_losses(tiny, folder, tmp_path):
    """IRRA trains all of SigLIP 2, whose vocabulary has a mask token, and the result loads and retrieves."""
    config = small_config(tiny, folder / "two", method={"name": "irra"}, mlm_depth=1, num_epochs=1)
    config.losses.update({"sdm": 1.0, "balance": 0.0, "id": 1.0, "mlm": 1.0, "sigmoid": 1.0, "filip": 1.0})
    results = loop.train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "sdm", "id", "mlm", "sigmoid", "filip"):
        assert np.isfinite(rows[0][name]) and rows[0][name] > 0
    assert rows[0]["loss"] != rows[1]["loss"] and results["steps"] == 2
    assert results["trainable_params"] == results["total_params"]
    model = tpr_jax.from_pretrained(tmp_path)
    assert model.config.family == "siglip" and model.encode_texts(TEXTS).shape == (3, 128)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "siglip"


def test_masks_without_a_mask_token(tiny, folder, capsys):
    """The augmentation is left out, with a note; masked language modeling is an error."""
    tokenizer = siglip_tokenizer(folder / "one", 16)
    config = small_config(tiny, folder / "one")
    setup.check_mask(config, tokenizer, "SigLIP")
    assert "config.mask_text=True has no effect: the tokenizer of SigLIP has no" in capsys.readouterr().err
    config.losses.mlm = 1.0
    with pytest.raises(
        UserError, match=r"config\.losses\.mlm=1.0 needs a mask token, which the tokenizer of"
    ):
        setup.check_mask(config, tokenizer, "SigLIP")
    setup.check_mask(config, siglip_tokenizer(folder / "two", 16), "SigLIP 2")


def test_the_tokens_that_a_caption_is_truncated_to(tiny, folder):
    """`text_length` cuts the words, and the rows still have all positions."""
    config, _, tokenizer = backbone.load(folder / "one", (32, 16), text_length=5)
    assert tokenizer(TEXTS).shape == (3, 16) and (tokenizer(TEXTS)[:, 5:] == 1).all()
    assert backbone.row_length(5, config, "x") == 16
    assert backbone.load(folder / "one", (32, 16), text_length=0)[2].length == 16


@pytest.mark.parametrize("name", ["dm_adapter", "full_finetune"])
def test_planning_for_a_tpu(tiny, folder, name):
    """The programs are traced for rows of the full context."""
    config = small_config(tiny, folder / "one", method={"name": name}, text_length=5)
    if name == "full_finetune":
        config.losses.balance = 0.0
    by_name = programs.programs(config, sharding.make_mesh(devices=jax.devices()[:1]))
    assert set(by_name) == {"train_step", "encode_image", "encode_text"}
    text = by_name["encode_text"].lower().as_text()
    assert "16xi32" in text


def test_search(folder, tmp_path):
    names = search_galleries.photos(tmp_path / "photos", 4)
    build(tmp_path / "photos", tmp_path / "index", folder / "model", batch_size=4)
    model = tpr_jax.from_pretrained(folder / "model")
    images = model.encode_images([tmp_path / "photos" / name for name in names])
    found = search(open_searcher(tmp_path / "index"), TEXTS[0], top_k=4)
    scores = images @ model.encode_texts(TEXTS[:1])[0]
    np.testing.assert_allclose([r["score"] for r in found["results"]], np.sort(scores)[::-1], atol=2e-3)


def test_the_files_beside_the_tokenizer_belong_to_the_model(tmp_path):
    """An index made with other padding or end of text is not searched with the changed model."""
    one = write_siglip(tmp_path)
    before = model_sha256(one)
    (one / "tokenizer_config.json").write_text("{}")
    assert model_sha256(one) != before
    before = model_sha256(one)
    (one / "README.md").write_text("x")
    assert model_sha256(one) == before


def test_notes_on_long_texts(folder):
    """15 of 16 positions are for words; prompts take none. Padding equals end of text here."""
    model = tpr_jax.from_pretrained(folder / "model")
    assert text_notes(model, "red " * 15) == []
    assert "knows English best" in text_notes(model, "東京")[0]
    many = dataclasses.replace(model, config=dataclasses.replace(model.config, vocab_size=256000))
    assert text_notes(many, "東京") == []
    assert text_notes(model, "red " * 16) == ["the text is cut after 15 tokens, about as many words"]


def test_export(folder, tmp_path):
    model = tpr_jax.from_pretrained(folder / "model")
    formats = ("jax", "saved_model") if importlib.util.find_spec("tensorflow") else ("jax",)
    description = write_export(model, tmp_path / "out", formats=formats, platforms=("cpu", "tpu"))
    for name in formats:
        assert all(0 < error < 1e-5 for error in description["formats"][name]["error"].values())
    text = description["text"]
    assert (text["shape"], text["padding_id"], text["end_id"], text["start_id"]) == (["b", 16], 1, 1, None)
    assert description["image"]["inside_the_graph"]["mean"] == [0.5, 0.5, 0.5]
    alone = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    rows = [alone.encode(text).ids for text in [*TEXTS, "red " * 40]]
    np.testing.assert_array_equal(rows, model.tokenizer([*TEXTS, "red " * 40]))


@pytest.mark.parametrize("name", ["experts", "prefix", "words", "map"])
def test_figures(name, folder, tmp_path):
    search_galleries.photos(tmp_path / "photos", 3)
    words = [name, "--model", folder / "model", "--out", tmp_path / "out", "--photos", tmp_path / "photos"]
    visualize.run(["visualize", *map(str, words), "--text", TEXTS[0], TEXTS[1]])
    page = (tmp_path / "out" / f"{name}.html").read_text()
    assert "class token" not in page and "causal" not in page


def test_labels_of_tokens(folder):
    from tpr_jax.visualize.tokens import token_labels

    model = tpr_jax.from_pretrained(folder / "model")
    ids = model.tokenizer(["red zz", "red " * 40])
    labels = [token_labels(model.tokenizer, row, model.config, model.method.prompts) for row in ids]
    assert labels[0] == ["red", "▁", "z", "z", "[end]"]
    assert labels[1] == ["red"] * 15 + ["[end]"]
