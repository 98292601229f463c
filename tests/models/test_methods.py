"""The methods: their parts by slot, and the settings of the papers' ablations."""

import pytest

from tests import tiny_clip as tiny
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.clip import declare
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import METHODS, Method, cskt, dm_adapter, mixture, parallel_adapter, up_person
from tpr_jax.models.petl_config import Adapter, Lora, LoraMoe, Moe, Prefix, Prompts


def test_dm_adapter_matches_the_paper():
    method = dm_adapter()
    shared = {"slot": "beside_mlp", "num_experts": 6, "top_k": 2, "reduction": 8, "router": "blend"}
    assert method.vision == (Moe(**shared, scale=0.1),) and method.text == (Moe(**shared, scale=4.0),)
    assert (method.trainable, method.prompts, method.tuned) == (("moe",), None, ())


def test_up_person_matches_the_paper():
    method = up_person()
    assert method.vision == method.text
    assert set(method.text) == {
        Adapter("beside_ln_1", 8, "learned", norm=False, init="zero"),
        Adapter("beside_ln_2", 8, "learned", norm=False, init="zero"),
        Lora(("k", "v"), 32, "learned", dora=False),
        Prefix(10, 10.0, scaled=True),
    }
    assert method.trainable == ("adapter", "lora", "prefix")
    assert Prefix(10, 100.0) in up_person(version="released").text


def test_cskt_matches_the_paper():
    method = cskt()
    assert method.vision == (Adapter("beside_mlp", 8, 0.1, norm=True, init="normal"),)
    assert method.text == (Adapter("beside_mlp", 8, 4.0, norm=True, init="normal"),)
    assert method.prompts == Prompts(4, None, "both") and method.trainable == ("adapter", "prompt")


def test_ablations_of_dm_adapter():
    method = dm_adapter(num_experts=10, top_k=6, reduction=4, router="input", scales=(1.0, 2.0))
    assert method.vision == (Moe("beside_mlp", 10, 6, 4, "input", 1.0),)
    assert method.text == (Moe("beside_mlp", 10, 6, 4, "input", 2.0),)
    method = parallel_adapter()
    assert method.vision == (Adapter("beside_mlp", 8, 0.1),)
    assert method.text == (Adapter("beside_mlp", 8, 4.0),)
    assert method.trainable == ("adapter",)


def test_ablations_of_up_person():
    """Covers each part alone, each pair, a prefix without its gate, and each part's depth."""
    for use, collections in [
        (("lora",), ("lora",)),
        (("prefix", "adapter"), ("adapter", "prefix")),
        (("adapter", "lora"), ("adapter", "lora")),
    ]:
        assert up_person(use=use).trainable == collections
    assert up_person(use=("prefix",), vanilla=True).text == (Prefix(10, None, scaled=True),)
    assert up_person(use=("prefix",), depth_prefix=3).text == (Prefix(10, 10.0, layers=(0, 3)),)
    assert up_person(use=("lora",), depth_lora=5).text == (Lora(("k", "v"), 32, layers=(0, 5)),)
    assert [part.layers for part in up_person(use=("adapter",), depth_adapter=9).text] == [(9, None)] * 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"version": "v2"}, "version='v2' .*paper, released"), ({"use": ()}, "use"), ({"use": ("lor",)}, "use")],
)
def test_rejects_unknown_settings_of_up_person(settings, told):
    with pytest.raises(UserError, match=told):
        up_person(**settings)


def test_methods_without_parts():
    assert METHODS["zero_shot"]() == Method("zero_shot") and METHODS["zero_shot"]().trainable == ()
    for name in ("full_finetune", "irra", "linear_probe", "bitfit", "layer_norm"):
        assert METHODS[name]().trainable == ("params",)


def test_single_parts():
    assert methods.prefix(5, gate=3.0).text == (Prefix(5, 3.0),)
    assert methods.prefix(5, gate=3.0, vanilla=True, scaled=False).vision == (Prefix(5, None, False),)
    assert methods.lora(("q",), 4, "0.5", True, (0, 2)).text == (Lora(("q",), 4, 0.5, True, (0, 2)),)
    assert methods.lora().text == (Lora(("q", "v"), 16, 1.0),)
    assert methods.lora(scale="learned").text == (Lora(("q", "v"), 16, "learned"),)
    slots = ("after_attn", "after_mlp")
    assert methods.sequential_adapter(4).text == tuple(Adapter(s, 4, 1.0, norm=False) for s in slots)
    assert methods.prompts(3, 2, "none").prompts == Prompts(3, 2, "none")
    assert methods.lora_moe(("q",), 4, 5, 3, "sum", 2.0).text == (LoraMoe(("q",), 4, 5, 3, "sum", 2.0),)


def test_mixture_combines_any_parts():
    method = mixture(
        both={"fine": {"part": "lora", "targets": ["q", "fc"], "rank": 8, "layers": [2, 4]}},
        vision={"wide": {"part": "moe", "num_experts": 4}, "low": {"part": "lora_moe", "targets": ["out"]}},
        text={"tokens": {"part": "prefix", "length": 3}, "small": {"part": "adapter", "slot": "after_mlp"}},
        prompts={"length": 2, "direction": "to_text"},
        tuned=["text/ln_final/bias"],
    )
    shared = Lora(("q", "fc"), 8, layers=(2, 4))
    assert method.vision == (shared, Moe(num_experts=4), LoraMoe(("out",)))
    assert method.text == (shared, Prefix(3), Adapter("after_mlp"))
    assert method.prompts == Prompts(2, None, "to_text") and method.tuned == ("text/ln_final/bias",)
    assert method.trainable == ("adapter", "lora", "moe", "params", "prefix", "prompt")
    assert method.mixtures == (Moe(num_experts=4), LoraMoe(("out",)))
    assert mixture() == Method("mixture")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"both": {"fine": {"part": "lroa"}}},
            "method.both.fine: part='lroa' is unknown: choose from adapter",
        ),
        ({"text": {"fine": {"rank": 3}}}, "method.text.fine: part=None is unknown"),
        ({"text": {"fine": 3}}, "method.text.fine: part=3 is unknown"),
        ({"both": {"fine": {"part": "lora", "rnk": 3}}}, r"method.both.fine.rnk is unknown: .*rank\?"),
        ({"vision": {"x": {"part": "moe", "zzz": 3}}}, "method.vision.x.zzz is unknown: .*num_experts"),
        ({"prompts": {"lenght": 3}}, r"prompts.lenght is unknown: did you mean length\?"),
    ],
)
def test_rejects_unknown_parts_of_a_mixture(settings, told):
    with pytest.raises(UserError, match=told):
        mixture(**settings)


@pytest.mark.parametrize("name", METHODS)
def test_names_and_trainable_collections(name):
    """A method has its own name, and its model has exactly its trainable collections."""
    method = METHODS[name](**tiny.SETTINGS.get(name, {}))
    assert method.name == name
    shapes = declare(tiny.CONFIG, method)
    assert set(method.trainable) <= set(shapes)
    assert set(shapes) - {"params"} == set(method.trainable) - {"params"}


def test_check_names_the_tower():
    config = ClipConfig(text_layers=6, context_length=20)
    methods.check(mixture(vision={"x": {"part": "lora", "layers": (0, 12)}}), config)
    for settings, told in [
        ({"both": {"x": {"part": "lora", "layers": (0, 12)}}}, "lora of the text tower: layers=.*6 blocks"),
        ({"vision": {"x": {"part": "adapter", "reduction": 900}}}, "adapter of the vision tower: reduction"),
        ({"prompts": {"depth": 7}}, "prompts: depth=7 must lie between 1 and the 6 blocks"),
        ({"prompts": {"length": 10}}, "prompts: length=10 .*20 tokens"),
        ({"tuned": ["visual/(proj"]}, r"tuned: 'visual/\(proj' is not a regular expression"),
    ]:
        with pytest.raises(UserError, match=told):
            methods.check(mixture(**settings), config)
