"""The slots and blocks of parts, and the validation of their settings."""

import dataclasses

import pytest

from tpr_jax.errors import UserError
from tpr_jax.models.petl_config import (
    ADAPTER_SLOTS,
    PARTS,
    TARGETS,
    Adapter,
    Lora,
    LoraMoe,
    Moe,
    Prefix,
    Prompts,
    check_prompts,
    check_tower,
    slots_of_block,
    text_tokens,
)


def check(*parts, layers=4, width=16, context=8):
    check_tower(parts, "text", layers=layers, width=width, context=context)


def test_slots_of_each_kind():
    assert Adapter("after_mlp").slots == ("after_mlp",) and Moe().slots == ("beside_mlp",)
    assert Lora(("q", "fc")).slots == ("lora_q", "lora_fc") and Prefix().slots == ("prefix",)
    assert LoraMoe(("proj",)).slots == ("lora_proj",)


def test_parts_are_found_by_their_kind():
    expected = {"adapter": Adapter, "moe": Moe, "lora": Lora, "lora_moe": LoraMoe, "prefix": Prefix}
    assert expected == PARTS


def test_mixtures_have_the_settings_of_a_router():
    for part in PARTS.values():
        names = {field.name for field in dataclasses.fields(part)}
        assert part.is_mixture == ({"num_experts", "top_k", "router"} <= names)


def test_layers_select_blocks():
    low, high, all_of_them = Lora(layers=(0, 2)), Lora(rank=4, layers=(2, None)), Adapter()
    parts = (low, high, all_of_them)
    by_block = [slots_of_block(parts, i, 4) for i in range(4)]
    assert [slots["lora_k"] for slots in by_block] == [low, low, high, high]
    assert all(slots["beside_mlp"] is all_of_them for slots in by_block)
    assert [sorted(slots_of_block((Prefix(layers=(1, 3)),), i, 4)) for i in range(4)] == [
        [],
        ["prefix"],
        ["prefix"],
        [],
    ]


def test_accepts_parts_in_different_slots():
    check(
        *(Adapter(slot) for slot in ADAPTER_SLOTS if slot != "beside_mlp"),
        Moe(num_experts=2, top_k=2),
        Lora(TARGETS[:3], rank=16),
        LoraMoe(TARGETS[3:], rank=1),
        Prefix(8),
    )
    check(Lora(rank=2, layers=(0, 2)), Lora(rank=3, layers=(2, 4)))


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((Adapter(), Moe()), "moe of the text tower: slot 'beside_mlp' of block 0 is taken"),
        (
            (Lora(rank=2), LoraMoe(("v", "q"))),
            "lora_moe of the text tower: slot 'lora_v' of block 0 is taken",
        ),
        (
            (Prefix(1, layers=(0, 3)), Prefix(2, layers=(2, 4))),
            "prefix .*: slot 'prefix' of block 2 is taken",
        ),
        (
            (Adapter(layers=(0, 5)),),
            r"adapter .*: layers=\(0, 5\) is not a range within the tower's 4 blocks",
        ),
        ((Adapter(layers=(4, None)),), r"layers=\(4, None\) is not a range"),
        ((Adapter(layers=(2, 2)),), r"layers=\(2, 2\) is not a range"),
        ((Adapter(layers=(-1, 2)),), r"layers=\(-1, 2\) is not a range"),
        ((Adapter(layers=(1,)),), r"layers=\(1,\) .*\(first, end\)"),
        ((Adapter(layers=("a", 2)),), r"layers=\('a', 2\) .*\(first, end\)"),
        ((Adapter(layers=3),), r"layers=3 .*\(first, end\)"),
        ((Adapter(reduction=0),), "reduction=0 must be a whole number of at least 1"),
        ((Adapter(reduction=17),), "reduction=17 exceeds the tower's width of 16"),
        ((Adapter(reduction="8"),), "reduction='8' must be a whole number"),
        ((Adapter(slot="beside"),), "slot='beside' is unknown: choose from beside_ln_1, after_attn"),
        ((Adapter(init="one"),), "init='one' is unknown: choose from zero, normal"),
        ((Adapter(scale="lerned"),), "scale='lerned' must be a number or learned"),
        ((Adapter(scale=float("nan")),), "scale=nan must be a number"),
        ((Moe(scale="learned"),), "moe of the text tower: scale='learned' must be a number$"),
        ((Moe(top_k=7),), "top_k=7 must lie between 1 and the 6 experts"),
        ((Moe(top_k=0),), "top_k=0 must be a whole number of at least 1"),
        ((Moe(num_experts=0),), "num_experts=0 must be a whole number of at least 1"),
        ((Moe(router="blnd"),), "router='blnd' is unknown: choose from blend, sum, input"),
        ((Moe(slot="lora_k"),), "slot='lora_k' is unknown"),
        ((LoraMoe(top_k=7),), "top_k=7 must lie between 1 and the 6 experts"),
        ((LoraMoe(rank=17),), "rank=17 exceeds the tower's width of 16"),
        ((Lora(rank=0),), "lora of the text tower: rank=0 must be a whole number of at least 1"),
        ((Lora(rank=17),), "rank=17 exceeds the tower's width of 16"),
        ((Lora(rank=2.5),), "rank=2.5 must be a whole number"),
        ((Lora(rank=True),), "rank=True must be a whole number"),
        ((Lora((), 2),), r"targets=\(\) must name at least one target, each only once"),
        ((Lora(("k", "k"), 2),), "must name at least one target, each only once"),
        ((Lora(("k", "w"), 2),), "target 'w' is unknown: choose from q, k, v, out, fc, proj"),
        ((Prefix(9),), "prefix of the text tower: length=9 exceeds a text's 8 tokens"),
        ((Prefix(0),), "length=0 must be a whole number of at least 1"),
        ((Prefix(2, gate="ten"),), "gate='ten' must be a number or None"),
    ],
)
def test_rejects_a_part_that_does_not_fit(parts, told):
    with pytest.raises(UserError, match=told) as error:
        check(*parts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (Prompts(direction="up"), "direction='up' is unknown: choose from both, to_vision, to_text, none"),
        (Prompts(depth=5), "depth=5 must lie between 1 and the 4 blocks"),
        (Prompts(depth=0), "depth=0 must lie between 1 and the 4 blocks"),
        (Prompts(length=0), "length=0 must be at least 1"),
        (Prompts(length="2"), "length='2' must be"),
        # 2 * 4 of 9 tokens leave only start-of-text; 2 * 3 leave start, one word and end.
        (Prompts(length=4), "length=4 .*leave room for words among the text's 9 tokens"),
        (Prompts(length=8, direction="none"), "length=8 .*leave room"),
    ],
)
def test_rejects_prompts_that_do_not_fit(prompts, told):
    with pytest.raises(UserError, match=told) as error:
        check_prompts(prompts, (6, 4), 9)
    assert "\n" not in str(error.value)


def test_accepts_prompts_that_fit():
    for prompts in (Prompts(3, 4), Prompts(7, 1, "none"), Prompts(7, 1, "to_vision"), Prompts(1, None)):
        check_prompts(prompts, (6, 4), 9)


def test_number_of_prompt_tokens_in_a_text():
    counts = [text_tokens(Prompts(3, direction=d)) for d in ("both", "to_text", "to_vision", "none")]
    assert counts == [6, 6, 3, 3] and text_tokens(None) == 0
