"""Methods that do not fit end with one line that names the module, and exit code 2."""

from pathlib import Path

import pytest

from tpr_jax.config import defaults as config_lib
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.config import ClipConfig

SIZES = ClipConfig(vision_width=32, vision_layers=3, text_width=16, text_layers=2, context_length=12)


def adapter(**settings):
    return {"part": "adapter", **settings}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"both": {"a": {"part": "lora", "rank": 0}}}, "lora of the vision tower: rank=0"),
        (
            {"text": {"a": {"part": "lora", "rank": 17}}},
            "lora of the text tower: rank=17 exceeds the tower's width",
        ),
        ({"both": {"a": {"part": "lora", "rank": "8"}}}, "rank='8' must be a whole number"),
        ({"both": {"a": {"part": "lora", "targets": ["qv"]}}}, "target 'qv' is unknown"),
        (
            {"both": {"a": {"part": "lora", "targets": []}}},
            "targets=() must name at least one target, each only once",
        ),
        (
            {"text": {"a": {"part": "prefix", "length": 13}}},
            "length=13 exceeds a text's 12",
        ),
        ({"text": {"a": {"part": "prefix", "gate": "x"}}}, "gate='x' must be a number or None"),
        ({"vision": {"a": {"part": "moe", "top_k": 7}}}, "moe of the vision tower: top_k=7 must lie between"),
        ({"vision": {"a": {"part": "lora_moe", "top_k": 7}}}, "lora_moe of the vision tower: top_k=7"),
        ({"vision": {"a": {"part": "moe", "num_experts": 0}}}, "num_experts=0 must be"),
        ({"vision": {"a": {"part": "moe", "router": "x"}}}, "router='x' is unknown"),
        ({"text": {"a": adapter(reduction=17)}}, "reduction=17 exceeds the tower's width of 16"),
        ({"text": {"a": adapter(slot="x")}}, "slot='x' is unknown"),
        ({"text": {"a": adapter(init="x")}}, "init='x' is unknown"),
        ({"text": {"a": adapter(scale="x")}}, "scale='x' must be a number or learned"),
        (
            {"both": {"a": adapter(layers=[0, 3])}},
            "text tower: layers=(0, 3) is not a range within the tower's 2",
        ),
        ({"both": {"a": adapter(layers=2)}}, "layers=2 is not a range"),
        ({"both": {"a": adapter(), "b": adapter()}}, "slot 'beside_mlp' of block 0 is taken by another part"),
        (
            {"both": {"a": adapter()}, "text": {"b": {"part": "moe"}}},
            "moe of the text tower: slot 'beside_mlp'",
        ),
        ({"prompts": {"length": 6}}, "prompts: length=6 must be at least 1 and leave room"),
        ({"prompts": {"length": 0}}, "prompts: length=0"),
        ({"prompts": {"depth": 3}}, "prompts: depth=3 must lie between 1 and the 2 blocks"),
        ({"prompts": {"direction": "x"}}, "prompts: direction='x' is unknown"),
        ({"tuned": ["(x"]}, "tuned: '(x' is not a regular expression"),
        # These are found before the backbone is known.
        ({"both": {"a": {"part": "x"}}}, "method.both.a: part='x' is unknown"),
        ({"both": 3}, "a setting of 'mixture' has the wrong type"),
        ({"other": 3}, "config.method.other is not a setting of method 'mixture'"),
    ],
)
def test_a_config_with_a_part_that_does_not_fit(settings, told):
    config = config_lib.base()
    config.method = {"name": "mixture", **settings}
    with pytest.raises(UserError) as error:
        config_lib.check(config)
        methods.check(config_lib.make_method(config), SIZES)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (
            {"name": "up_person", "prefix": 25, "rank": 4},
            "length=25 exceeds a text's 24 tokens",
        ),
        (
            {"name": "dm_adapter", "num_experts": 3, "top_k": 4},
            "config.method.top_k=4 must lie between 1 and 3",
        ),
        ({"name": "lora", "rank": 0}, "config.method.rank=0 must be a whole number"),
        (
            {"name": "up_person", "rank": 4, "depth_lora": 2},
            "layers=(0, 2) is not a range within the tower's 1 blocks",
        ),
        ({"name": "cskt", "depth": 2}, "prompts: depth=2 must lie between 1 and the 1 blocks"),
        (
            {"name": "mixture", "both": {"a": adapter(), "b": adapter()}},
            "adapter of the vision tower: slot 'beside_mlp' of block 0 is taken by another part",
        ),
        ({"name": "mixture", "tuned": ("visual/nothing",)}, "matches no weight of CLIP"),
        ({"name": "up_person", "version": "new"}, "version='new' is unknown: choose from paper, released"),
    ],
    ids=["prefix", "top_k", "rank", "layers", "depth", "slot", "tuned", "version"],
)
def test_ends_with_one_line(tiny, explained, tmp_path, capsys, method, told):
    """Runs the tiny config with another method, from the command line."""
    text = Path(tiny["config"]).read_text()
    changed = f"{text.rpartition('    return config')[0]}    config.method = {method!r}\n"
    (tmp_path / "own.py").write_text(changed + "    config.losses.balance = 0.0\n    return config\n")
    line = explained(capsys, "--config", tmp_path / "own.py", "--workdir", tmp_path / "run")
    assert told in line
