"""Introspection against planted routers and prefix keys, and against the model itself."""

import numpy as np
import pytest

from tests.tiny_clip import CONFIG, batch, quick_compilation, random_like  # noqa: F401
from tpr_jax.models import clip
from tpr_jax.models.clip import declare
from tpr_jax.models.introspect import build_inside
from tpr_jax.models.methods import dm_adapter, lora_moe, prefix, up_person

N = 7  # tokens of an image: the class token and 3 x 2 patches


def drawn(method, seed=0):
    return random_like(declare(CONFIG, method), seed)


def plant_router(router, of_token, experts=3):
    """Plants weights that route the token with its one large feature i to of_token[i] = (first, second).

    The experts' weights are 3/4 and 1/4.

    LayerNorm makes (15 - 1 at i, -1 elsewhere) / sqrt(15) of a one at place i of 16; so an expert's logit
    is 16 / sqrt(15) times its weight at i, less a number that is the same for experts whose weights have the
    same sum.
    """
    d = 16
    w = np.zeros((d, experts), np.float32)
    unit = np.log(3) * np.sqrt(15) / 16
    for i, (first, second) in enumerate(of_token):
        w[i] = -20.0
        w[i, first], w[i, second] = 0.0, -unit
    w[len(of_token)] = w[: len(of_token)].sum(0).max() - w[: len(of_token)].sum(0)  # equal sums
    router["w_in"] = w


@pytest.mark.parametrize("kind", ["moe", "lora_moe"])
def test_returns_the_experts_of_a_planted_router(kind):
    method = dm_adapter(3, 2, 4, "input") if kind == "moe" else lora_moe(("fc",), 2, 3, 2, "input")
    variables = drawn(method)
    visual = variables["params"]["visual"]
    visual["conv1"]["kernel"] = np.zeros_like(visual["conv1"]["kernel"])
    visual["class_embedding"] = np.zeros(16, np.float32)
    visual["positional_embedding"] = np.eye(16, dtype=np.float32)[:N]
    block, own = visual["block_0"], variables["moe"]["visual"]["block_0"]
    for layer in (visual["ln_pre"], block["ln_1"], block["ln_2"]):
        layer["scale"], layer["bias"] = np.ones(16, np.float32), np.zeros(16, np.float32)
    for name in ("kernel", "bias"):  # attention adds nothing
        block["attn"]["out"][name] = np.zeros_like(block["attn"]["out"][name])
    of_token = [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1), (0, 1)]
    if kind == "moe":
        own["beside_mlp"]["ln_3"] = {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}
        plant_router(own["beside_mlp"]["router"], of_token)
        path = "visual/block_0/beside_mlp"
    else:
        plant_router(own["mlp"]["fc"]["lora_fc"]["router"], of_token)
        path = "visual/block_0/mlp/fc/lora_fc"
    found = build_inside(CONFIG, method)["image"](variables, np.zeros((2, *CONFIG.image_size, 3), np.float32))
    wanted = np.zeros((N, 3))
    for token, (first, second) in enumerate(of_token):
        wanted[token, first], wanted[token, second] = 0.75, 0.25
    assert list(found["experts"]) == [path] and not found["prefix"]
    np.testing.assert_allclose(found["experts"][path], np.broadcast_to(wanted, (2, N, 3)), atol=2e-3)


def test_experts_agree_with_the_routing_statistics():
    method = dm_adapter(3, 2, 4, "blend")
    variables, given = drawn(method), batch(3)
    functions, inside = clip.build(CONFIG, method), build_inside(CONFIG, method)
    pixels = clip.normalize(given["image"])
    for name, inputs in (("image", pixels), ("text", given["ids"])):
        tokens, routing = functions[f"encode_{name}"](variables, inputs, all_tokens=True)
        found = inside[name](variables, inputs)
        np.testing.assert_allclose(found["tokens"], tokens, atol=1e-6)
        assert len(routing) == len(found["experts"]) == {"image": 1, "text": 2}[name]
        for block, (path, weights) in enumerate(sorted(found["experts"].items())):
            assert f"block_{block}/" in path
            np.testing.assert_allclose((weights > 0).mean((0, 1)), routing[block]["chosen"], atol=1e-6)
            np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_tokens_contain_the_features():
    method = up_person(rank=3, prefix=2)
    variables, given = drawn(method), batch(3)
    functions, inside = clip.build(CONFIG, method), build_inside(CONFIG, method)
    pixels, ids = clip.normalize(given["image"]), given["ids"]
    one, _ = functions["encode_image"](variables, pixels)
    np.testing.assert_allclose(inside["image"](variables, pixels)["tokens"][:, 0], one, atol=1e-5)
    one, _ = functions["encode_text"](variables, ids)
    tokens = np.asarray(inside["text"](variables, ids)["tokens"])
    np.testing.assert_allclose(tokens[np.arange(3), ids.argmax(1)], one, atol=1e-5)


def plant_queries(attention, leaves, scores, heads):
    """Plants equal queries; in head h the first prefix key scores scores[h], all other keys 0.

    A prefix key is scaled by its own scalar, and scores are divided by the root of a head's width.
    """
    d = leaves["key"].shape[1]
    width = d // heads
    attention["qkv"]["kernel"] = np.zeros_like(attention["qkv"]["kernel"])
    attention["qkv"]["bias"] = np.zeros_like(attention["qkv"]["bias"])
    attention["qkv"]["bias"][:d] = 1.0
    leaves["key"] = np.zeros_like(leaves["key"])
    leaves["key_scale"] = np.float32(2.0)
    for head, score in enumerate(scores):
        leaves["key"][0, head * width] = score * np.sqrt(width) / 2.0


def test_returns_the_attention_on_a_planted_prefix_key():
    method = prefix(length=2)
    variables = drawn(method)
    inside, given = build_inside(CONFIG, method), batch(2)

    scores = np.array([60.0, -60.0, 0.0, 1.5])
    block = variables["params"]["visual"]["block_0"]["attn"], variables["prefix"]["visual"]["block_0"]["attn"]
    plant_queries(block[0], block[1]["prefix"], scores, 4)
    found = inside["image"](variables, clip.normalize(given["image"]))["prefix"]
    # The other prefix key scores 0, like the N tokens.
    wanted = (np.exp(scores) + 1) / (np.exp(scores) + 1 + N)
    assert (
        wanted[0] == pytest.approx(1)
        and wanted[1] == pytest.approx(1 / 8)
        and list(found) == ["visual/block_0"]
    )
    np.testing.assert_allclose(
        found["visual/block_0"], np.broadcast_to(wanted[:, None], (2, 4, N)), atol=1e-5
    )

    scores = np.array([60.0, 0.5])
    for i in range(2):
        attention = variables["params"]["text"][f"block_{i}"]["attn"]
        plant_queries(attention, variables["prefix"]["text"][f"block_{i}"]["attn"]["prefix"], scores, 2)
    found = inside["text"](variables, given["ids"])["prefix"]
    seen = 1 + np.arange(CONFIG.context_length)  # a word sees itself and those before it
    for i in range(2):
        wanted = (np.exp(scores[:, None]) + 1) / (np.exp(scores[:, None]) + 1 + seen)
        mass = found[f"text/block_{i}"]
        np.testing.assert_allclose(mass, np.broadcast_to(wanted, mass.shape), atol=1e-5)
