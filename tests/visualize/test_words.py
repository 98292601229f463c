"""Patches against words: a planted patch, features worked out by NumPy; tokens read back; what is shown."""

import dataclasses

import numpy as np
import pytest

from tests.saved_models import declared
from tests.tiny_clip import CONFIG, batch, quick_compilation, random_like  # noqa: F401
from tpr_jax.data.tokenizer import clip_tokenizer, folder_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.model import make_model
from tpr_jax.models.clip import extract_patches as cut
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD
from tpr_jax.models.methods import zero_shot
from tpr_jax.models.petl_config import Prompts
from tpr_jax.visualize import inputs, look, tokens, words


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.layer_norm_eps)


@pytest.fixture(scope="module")
def planted():
    """(model, a photo, a text's feature, those of all patches); patch 4, row 2 and column 0, has the text's.

    The only block adds nothing, so the features of patches can be written down.
    """
    variables = random_like(declared(CONFIG, zero_shot()), 0)
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
    # Such a projection that patch 4 has the text's feature: what it has along that patch's state is replaced.
    state = states[4] / np.linalg.norm(states[4])
    proj = visual["proj"] - np.outer(state, state @ visual["proj"]) + np.outer(state, text) / 2
    visual["proj"] = proj.astype(np.float32)
    return make_model(CONFIG, zero_shot(), variables), photo, text, states @ proj


def test_a_planted_patch_is_the_brightest(planted):
    model, photo, text, feats = planted
    ((pixels, found),) = look.inside_photos(model, [photo])
    assert (pixels[0] == photo).all()
    cosines = words.patch_cosines(model, found["tokens"][0], np.stack([text, -text]))
    wanted = feats @ text / np.linalg.norm(feats, axis=1) / np.linalg.norm(text)
    np.testing.assert_allclose(cosines, np.stack([wanted, -wanted]).reshape(2, 3, 2), atol=1e-4)
    assert cosines[0, 2, 0] == pytest.approx(1, abs=1e-4) == cosines[0].max()


def test_words_of_a_sentence():
    assert words.words_of("A red coat, a RED t-shirt & the man's hat.") == [
        *("a", "red", "coat", "t-shirt", "the", "man's", "hat")
    ]
    assert words.words_of("红色 外套") == ["红色", "外套"] and words.words_of("...") == []
    assert len(words.words_of(" ".join(f"w{i}" for i in range(99)))) == words.MOST_WORDS


@pytest.fixture(scope="module")
def clips_own():
    return clip_tokenizer()


def test_tokens_are_read_back(tiny, clips_own):
    for tokenizer in (clips_own, folder_tokenizer(tiny["clip"])):
        config = type(CONFIG)(eot_id=tokenizer.eot_id, context_length=tokenizer.context_length)
        for text in ("a person in a red coat", "red; blue", "naïve 帽子"):
            found = tokens.labels(tokenizer, tokenizer([text])[0], config)
            assert found[0] == tokens.START and found[-1] == tokens.END
            if text.isascii():
                assert "".join(found[1:-1]) == text.replace(" ", "")
            if text.startswith("a person") and tokenizer.vocab_size > 40_000:  # CLIP's has a token a word
                assert found[1:-1] == text.split()


def test_prompts_take_the_places_that_the_tower_gives_them(clips_own):
    tokenizer = dataclasses.replace(clips_own, context_length=8)
    config = type(CONFIG)(eot_id=tokenizer.eot_id, context_length=8)
    ids, prompts = tokenizer(["a red coat and a hat"])[0], Prompts(2, 1, "none")
    found = tokens.labels(tokenizer, ids, config, prompts)
    assert found == ["[start]", "[prompt]", "[prompt]", "a", "red", "coat", "and", "[end]"]


def test_photos_and_captions_of_a_split_go_together(tiny):
    shown = inputs.split_of(None, tiny["data"], "test")
    photos, texts = inputs.some(shown, 3)
    assert photos == [0, 8, 15] and texts == [0, 16, 30]
    assert [shown.text_pids[text] for text in texts] == [shown.photo_pids[photo] for photo in photos]
    assert inputs.spread(4, 9).tolist() == [0, 1, 2, 3] and inputs.spread(5, 1).tolist() == [0]


def test_minipedes_is_what_is_shown_without_a_folder():
    shown = inputs.split_of(None, None, "val")
    assert shown.label == "MiniPEDES, rendered, val" and len(shown.photos) == 400 and len(shown.texts) == 800
    with pytest.raises(UserError, match="unknown"):
        inputs.split_of(None, None, "vla")
