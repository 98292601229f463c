"""Patches against words: a planted patch, features computed by NumPy; decoded tokens; chosen examples."""

import dataclasses

import numpy as np
import pytest

from tests.tiny_clip import CONFIG, batch, quick_compilation, random_like  # noqa: F401
from tpr_jax.data.tokenizer import clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.model import make_model
from tpr_jax.models.clip import declare
from tpr_jax.models.clip import extract_patches as cut
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD
from tpr_jax.models.methods import zero_shot
from tpr_jax.models.petl_config import Prompts
from tpr_jax.visualize import features, inputs, tokens, words


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.layer_norm_eps)


@pytest.fixture(scope="module")
def planted():
    """Returns a model, an image, a text feature and the features of all patches.

    Patch 4, in row 2 and column 0, has the feature of the text. The only block adds nothing, so the features
    of patches can be computed by hand.
    """
    variables = random_like(declare(CONFIG, zero_shot()), 0)
    visual = variables["params"]["visual"]
    for norm in (visual["ln_pre"], visual["ln_post"]):
        norm["scale"], norm["bias"] = np.ones(16, np.float32), np.zeros(16, np.float32)
    for layer in (visual["block_0"]["attn"]["out"], visual["block_0"]["mlp"]["proj"]):
        layer["kernel"], layer["bias"] = np.zeros_like(layer["kernel"]), np.zeros_like(layer["bias"])
    photo, text = batch(1)["image"][0], np.random.default_rng(5).normal(size=CONFIG.embed_dim)
    pixels = (photo / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    flat = np.asarray(cut(pixels[None].astype(np.float32), CONFIG.patch_size))[0]
    embedded = flat @ visual["conv1"]["kernel"].reshape(-1, 16) + visual["positional_embedding"][1:]
    states = layer_norm(layer_norm(embedded))  # [6, 16]
    # A projection that maps patch 4 to the feature of the text.
    state = states[4] / np.linalg.norm(states[4])
    proj = visual["proj"] - np.outer(state, state @ visual["proj"]) + np.outer(state, text) / 2
    visual["proj"] = proj.astype(np.float32)
    return make_model(CONFIG, zero_shot(), variables), photo, text, states @ proj


def test_planted_patch_has_the_highest_cosine(planted):
    model, photo, text, feats = planted
    ((pixels, found),) = features.introspect_images(model, [photo])
    assert (pixels[0] == photo).all()
    cosines = words.patch_cosines(model, found["tokens"][0], np.stack([text, -text]))
    wanted = feats @ text / np.linalg.norm(feats, axis=1) / np.linalg.norm(text)
    np.testing.assert_allclose(cosines, np.stack([wanted, -wanted]).reshape(2, 3, 2), atol=1e-4)
    assert cosines[0, 2, 0] == pytest.approx(1, abs=1e-4) == cosines[0].max()


def test_unique_words():
    assert words.unique_words("A red coat, a RED t-shirt & the man's hat.") == [
        *("a", "red", "coat", "t-shirt", "the", "man's", "hat")
    ]
    assert words.unique_words("红色 外套") == ["红色", "外套"] and words.unique_words("...") == []
    assert len(words.unique_words(" ".join(f"w{i}" for i in range(99)))) == words.MAX_WORDS


@pytest.fixture(scope="module")
def clips_own():
    return clip_tokenizer()


def test_decodes_tokens(tiny, clips_own):
    for tokenizer in (clips_own, folder_tokenizer(tiny["clip"])):
        config = type(CONFIG)(eot_id=tokenizer.eot_id, context_length=tokenizer.context_length)
        for text in ("a person in a red coat", "red; blue", "naïve 帽子"):
            found = tokens.token_labels(tokenizer, tokenizer([text])[0], config)
            assert found[0] == tokens.START and found[-1] == tokens.END
            if text.isascii():
                assert "".join(found[1:-1]) == text.replace(" ", "")
            if text.startswith("a person") and tokenizer.vocab_size > 40_000:  # CLIP's has a token a word
                assert found[1:-1] == text.split()


def test_labels_of_prompts(clips_own):
    tokenizer = dataclasses.replace(clips_own, context_length=8)
    config = type(CONFIG)(eot_id=tokenizer.eot_id, context_length=8)
    ids, prompts = tokenizer(["a red coat and a hat"])[0], Prompts(2, 1, "none")
    found = tokens.token_labels(tokenizer, ids, config, prompts)
    assert found == ["[start]", "[prompt]", "[prompt]", "a", "red", "coat", "and", "[end]"]


def test_selected_captions_describe_the_selected_photos(tiny):
    examples = inputs.split_examples(None, tiny["data"], "test")
    photos, texts = inputs.select_examples(examples, 3)
    assert photos == [0, 8, 15] and texts == [0, 16, 30]
    assert [examples.text_pids[text] for text in texts] == [examples.image_pids[photo] for photo in photos]
    assert inputs.evenly_spaced(4, 9).tolist() == [0, 1, 2, 3] and inputs.evenly_spaced(5, 1).tolist() == [0]


def test_default_is_mini_pedes():
    examples = inputs.split_examples(None, None, "val")
    assert (
        examples.label == "MiniPEDES, rendered, val"
        and len(examples.images) == 400
        and len(examples.texts) == 800
    )
    with pytest.raises(UserError, match="unknown"):
        inputs.split_examples(None, None, "vla")
