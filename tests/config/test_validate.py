"""Every key of the config and every setting of every method is rejected and accepted at its limits.

A key or setting without a row in these tables fails, so that each new one gets a row.
"""

import dataclasses
import inspect

import numpy as np
import pytest
from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.config.validate import check_settings, check_values
from tpr_jax.errors import UserError, shown
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.models import methods, petl_config
from tpr_jax.models.config import ClipConfig

NAN, INF = float("nan"), float("inf")
HUGE, LONGEST = 10**30, 10**5000  # the latter Python does not even write out
NO_NUMBER = ("1", "", None, True, [1], NAN, INF, -INF, LONGEST, -LONGEST, 1e39, 1j)
NO_WHOLE = (*NO_NUMBER, 1.0, 0.5, HUGE, -HUGE)
NO_TEXT = (None, 3, 0.5, True, ["a"])
NO_FLAG = (None, 0, 1, "True", "", 0.0, [True])
NO_LIST = (None, 3, 0.5, True)
INT = 2**31 - 1

WHOLE = ((*NO_WHOLE, -1, 2**31), (0, 1, INT))
COUNT = ((*NO_WHOLE, -1, 0, 2**31), (1, 2, INT))
SEED = ((*NO_WHOLE, -1, 2**32, 2**32 + 1, 2**63, 2**64), (0, 1, 2**31, 2**32 - 1))
FLAG = (NO_FLAG, (True, False))
VANISHING = (1e-60, 1e-40, 5e-324)  # 0 in float32, or a subnormal number, which XLA takes for 0
POSITIVE = ((*NO_NUMBER, *VANISHING, -1.0, -1e-9), (0.0, 0, 1, 1e-30, 1.2e-38, 0.5, 1e30))
SHARE = ((*NO_NUMBER, *VANISHING, -1e-9, 1.0001, 5, HUGE), (0.0, 0, 0.05, 1, 1.0))
ABOVE = ((*NO_NUMBER, -0.5, 0, 0.0, *VANISHING, 1.0001, 2), (1e-6, 0.1, 1, 1.0))
MOMENT = ((*NO_NUMBER, *VANISHING, -0.1, 1, 1.0, 1 - 1e-12, 2, HUGE), (0, 0.0, 0.9, 0.999, 0.9999999))
DEVICES = ((*NO_WHOLE, -2, 0, 2**31), (-1, 1, 4))
NAME = ((*NO_TEXT, "", "nothing", "float23"), ())

# key: (rejected values, accepted values)
KEYS = {
    "seed": SEED,
    "debug": FLAG,
    "method.name": NAME,
    "backbone": ((*NO_TEXT, "", " "), ("clip-mini", "/a/folder", "a/hub-id")),
    "from_scratch": FLAG,
    "stretch_text": FLAG,
    "dataset": (NAME[0], ("cuhk_pedes", "mini_pedes")),
    "backbone_act": ((*NO_TEXT, "nothing", "relu"), ("", "gelu", "quick_gelu")),
    "backbone_heads": (
        (
            None,
            12,
            "12,8",
            (12,),
            (12, 8, 4),
            (0, 8),
            (12, -1),
            (12.0, 8),
            (True, 8),
            ("12", "8"),
            (12, 10**30),
        ),
        ((), [12, 8], (1, 1)),
    ),
    "backbone_mean": (
        (
            None,
            0.5,
            "0.5",
            (0.5,),
            (0.5, 0.5),
            (0.5, 0.5, 0.5, 0.5),
            (0.5, 0.5, True),
            ("a", 0, 0),
            (NAN, 0, 0),
        ),
        ((), (0.48, 0.46, 0.41), [0, 0.5, -1]),
    ),
    "backbone_std": (
        (None, 0.5, (0.5,), (0.5, 0.5, 0), (0.5, -0.5, 1), (0.5, 0.5, True), (0.5, 0.5, INF), (1, 1, 1e-60)),
        ((), (0.27, 0.26, 0.28), [1, 0.5, 2]),
    ),
    "data_dir": (NO_TEXT, ("", "data/own", "gs://bucket/data")),
    "source": (NAME[0], ("files", "tfds_sized")),
    "mix": (
        (
            *NO_LIST,
            ("folder",),
            (("folder", ""),),
            (("nothing", "", 1.0),),
            ((1, "", 1.0),),
            "folder",
            *tuple((("folder", "", w),) for w in (*NO_NUMBER, 0, 0.0, -1.0, 1001, HUGE)),
        ),
        ((), (("folder", "", 1),), [["folder", "data/own", 0.5], ["mini_pedes", "", 1000]]),
    ),
    "sampler": (NAME[0], ("random", "identity")),
    "instances_per_identity": COUNT,
    "captions_per_image": COUNT,
    "patch_dropout": MOMENT,
    "few_shot": SHARE,
    "few_shot_seed": SEED,
    "noisy_fraction": SHARE,
    "noise_seed": SEED,
    "on_bad_image": (NAME[0], ("error", "skip")),
    "on_leak": (NAME[0], ("error", "warn")),
    "image_size": (
        (
            *NO_LIST,
            "ab",
            (),
            (384,),
            (384, 0),
            (-1, 128),
            (384, 128, 3),
            (384.0, 128),
            (True, 128),
            ("1", 1),
            (NAN, 128),
            (384, HUGE),
            (8193, 128),
        ),
        ((384, 128), [224, 224], (8192, 11)),
    ),
    "text_length": ((*NO_WHOLE, -5, -1, 1, 2, 2**31), (0, 3, 77)),
    "augment": FLAG,
    "pad": ((*WHOLE[0], 128, 129, INT), (0, 1, 127)),
    "mask_text": FLAG,
    "mask_probability": SHARE,
    "learn_temperature": FLAG,
    "matryoshka": (
        (*NO_LIST, "64", (0, 5), (-1,), (5, 5), (50, 20), (2.0,), (True,), ("2",), (NAN,), ((1, 2),)),
        ((), (1,), (64, 128), [2, 3, 4]),
    ),
    "batch_size": COUNT,
    "eval_batch_size": ((*COUNT[0], 2**16 + 1), (1, 3, 2**16)),
    "num_epochs": COUNT,
    "total_steps": WHOLE,
    "eval_every": WHOLE,
    "eval_test_each_time": FLAG,
    "checkpoint_every": COUNT,
    "log_every": COUNT,
    "profile": FLAG,
    "dtype": (NAME[0], ("float32", "bfloat16")),
    "mesh.data": DEVICES,
    "mesh.model": DEVICES,
    "accumulate": COUNT,
    "remat": (NAME[0], ("none", "dots", "block")),
    "scan_layers": FLAG,
    **{f"losses.{name}": POSITIVE for name in LOSSES},
    "distill.teacher": (NO_TEXT, ("",)),
    "distill.feats": (POSITIVE[0], (0, 0.0)),
    "distill.scores": (POSITIVE[0], (0, 0.0)),
    "temperature": ((*NO_NUMBER, 0, 0.0, -0.02, 1e-7, 1e-300, 1e7), (1e-6, 0.02, 1, 1e6)),
    "sigmoid_from": (NAME[0], ("paper", "backbone")),
    "mlm_depth": ((*COUNT[0], 101), (1, 4, 100)),
    "optimizer.lr": POSITIVE,
    "optimizer.b1": MOMENT,
    "optimizer.b2": MOMENT,
    "optimizer.eps": ((*NO_NUMBER, 0, 0.0, -1e-3, 1e-21, 1e-50), (1e-20, 1e-8, 1e-3, 1)),
    "optimizer.schedule": (NAME[0], ("cosine", "step", "poly")),
    "optimizer.warmup_epochs": POSITIVE,
    "optimizer.warmup_factor": SHARE,
    "optimizer.milestones": (
        (
            *NO_LIST,
            "20",
            (0, 5),
            (-1,),
            (5, 5),
            (50, 20),
            (2.0,),
            (True,),
            ("2",),
            (NAN,),
            (HUGE,),
            ((1, 2),),
        ),
        ((), (1,), (20, 50), [2, 3, 4]),
    ),
    "optimizer.gamma": ABOVE,
    "optimizer.power": ABOVE,
    "optimizer.per_step": FLAG,
    "optimizer.weight_decay": POSITIVE,
    "optimizer.bias_lr_factor": POSITIVE,
    "optimizer.head_lr_factor": POSITIVE,
    "optimizer.clip_norm": POSITIVE,
    "optimizer.block_lr_decay": ABOVE,
    "optimizer.ema_decay": MOMENT,
}

AT_LEAST_ONE = (*NO_WHOLE, -1, 0, HUGE)
PAIRS = (NO_LIST, (1.0,), (1.0, 2.0, 3.0), ("a", 1.0), (NAN, 1.0), (1.0, INF), (1e39, 1.0), (True, 1.0))
SCALE = (None, True, "x", "", NAN, "nan", "inf", [1.0], 1e39, HUGE * 10**20)
BLOCKS = (0.5, "1", True, NAN, HUGE, -1, 13)
LAYERS = (NO_LIST[0], 3, (0,), (0, 13), (3, 3), (5, 2), (-1, 2), (0.0, 2), (0, True), (0, "2"), (0, HUGE))
NAMES = (None, 3, True, "lora", ("nothing",), (3,))

# The same of the settings of methods, with the towers of CLIP ViT-B/16.
SETTINGS = {
    "num_experts": ((*AT_LEAST_ONE, 1025), (2, 10, 1024)),
    "top_k": ((*AT_LEAST_ONE, 7), (1, 6)),
    "reduction": ((*AT_LEAST_ONE, 513), (1, 8, 512)),
    "rank": ((*AT_LEAST_ONE, 513), (1, 32, 512)),
    "prefix": ((*AT_LEAST_ONE, 78), (1, 10, 77)),
    "length": (AT_LEAST_ONE, (1, 4)),
    "prompts": ((*AT_LEAST_ONE[1:2], 0, -1, 1.5, "4", True, HUGE, 38), (1, 4, 37)),
    "depth": ((*BLOCKS, 0), (None, 1, 12)),
    "depth_lora": ((*BLOCKS, 0), (None, 1, 12)),
    "depth_prefix": ((*BLOCKS, 0), (None, 1, 12)),
    "depth_adapter": ((*BLOCKS, 12), (0, 11)),
    "router": ((*NO_TEXT, "", "blnd"), ("blend", "sum", "input")),
    "version": ((*NO_TEXT, "", "new"), ("paper", "released")),
    "direction": ((*NO_TEXT, "", "left"), ("both", "none")),
    "use": ((*NAMES, ()), (("lora",), ["prefix", "adapter"])),
    "targets": ((*NAMES, (), ("q", "q")), (("q",), ["k", "v"])),
    "vanilla": FLAG,
    "dora": FLAG,
    "scaled": FLAG,
    "scales": ((*PAIRS[0], *PAIRS[1:], "ab"), ((0.1, 4.0), [0, -1.0])),
    "scale": (SCALE, (1.0, 0, 2, -0.5)),
    "gate": (("x", True, NAN, INF, [1.0], 1e39), (None, 0.0, 10, 100.0)),
    "layers": (LAYERS, ((0, None), (0, 12), [3, 4])),
    "tuned": ((None, 3, "text/proj", (3,), ("(x",)), (("text/proj",), [".*"])),
    "both": ((3, "lora", {"a": 3}, {"a": {"part": "nothing"}}), (None, {}, {"a": {"part": "lora"}})),
    "vision": ((3, {"a": {}}), (None, {"a": {"part": "moe"}})),
    "text": ((3, {"a": {"part": "moe", "nothing": 1}}), (None, {"a": {"part": "prefix"}})),
}
OF_MIXTURE = ((3, True, {"nothing": 1}, {"length": 0}, {"depth": 13}), (None, {"length": 4}))

# Invalid settings of the parts of a combination.
FIELDS = {
    "slot": ((*NO_TEXT, "x"), ("after_mlp",)),
    "init": ((*NO_TEXT, "x"), ("zero", "normal")),
    "norm": FLAG,
    **{key: SETTINGS[key] for key in ("num_experts", "top_k", "reduction", "rank", "router", "targets")},
    **{key: SETTINGS[key] for key in ("dora", "scaled", "scale", "gate", "layers")},
    "length": SETTINGS["prefix"],
}


def leaves(config, prefix=""):
    for key, value in config.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]


def with_value(key: str, value) -> ConfigDict:
    config = config_lib.base()
    *parents, last = key.split(".")
    holder = config
    for parent in parents:
        holder = holder[parent]
    del holder[last]  # otherwise ConfigDict would cast the new value to the old type
    holder[last] = value
    return config


def label(value) -> str:
    return shown(value)[:40]


def cases(table: dict, which: int):
    found = [(key, value) for key, row in table.items() for value in row[which]]
    return pytest.mark.parametrize(("key", "value"), found, ids=[f"{k}-{label(v)}" for k, v in found])


def test_every_key_has_its_row():
    assert set(KEYS) == set(leaves(config_lib.base()))


@cases(KEYS, 0)
def test_rejects_invalid_values(key, value):
    with pytest.raises(UserError) as error:
        config_lib.check(with_value(key, value))
    line = str(error.value)
    assert line.startswith(f"config.{key}=") and "\n" not in line and len(line) < 500


@cases(KEYS, 1)
def test_accepts_boundary_values(key, value):
    config = with_value(key, value)
    if key.startswith("losses."):
        config.method = {"name": "dm_adapter"}  # has the balance term
        other = "itc" if key == "losses.sdm" else "sdm"
        config.losses[other] = 1.0
    if key == "instances_per_identity" or (key == "sampler" and value == "identity"):
        config.batch_size = config.instances_per_identity
    config_lib.check(config)


def configured(method: str, settings: dict) -> ConfigDict:
    """Returns a config of the method, with modules that have the setting if the method itself has none."""
    config = config_lib.base()
    config.method = ConfigDict({"name": method})
    with config.ignore_type():
        for key, value in settings.items():
            config.method[key] = value
    return config


def check_method(config: ConfigDict) -> None:
    """Checks the config and then the method with the backbone's towers, as a run does at its start."""
    config_lib.check(config)
    methods.check(config_lib.make_method(config), ClipConfig())


def settings_of(method: str) -> dict:
    known = inspect.signature(methods.METHODS[method]).parameters
    own = {"prompts": OF_MIXTURE} if method == "mixture" else {}
    return {key: {**SETTINGS, **own}[key] for key in known}


METHOD_CASES = [
    [(m, key, value) for m in methods.METHODS for key, row in settings_of(m).items() for value in row[which]]
    for which in (0, 1)
]
IDS = [[f"{m}.{key}-{label(value)}" for m, key, value in found] for found in METHOD_CASES]


def test_every_setting_of_every_method_has_its_row():
    known = {key for make in methods.METHODS.values() for key in inspect.signature(make).parameters}
    assert known == set(SETTINGS)
    fields = {field.name for part in petl_config.PARTS.values() for field in dataclasses.fields(part)}
    assert fields == set(FIELDS)


@pytest.mark.parametrize(("method", "key", "value"), METHOD_CASES[0], ids=IDS[0])
def test_rejects_invalid_settings(method, key, value):
    with pytest.raises(UserError) as error:
        check_method(configured(method, {key: value}))
    line = str(error.value)
    assert "\n" not in line and len(line) < 500
    # Tower checks name the part, because a combination may have several.
    words = {"prefix": "length", "prompts": "length", "depth_lora": "layers", "depth_prefix": "layers"}
    words |= {"depth_adapter": "layers", "scales": "scale", "both": "'mixture'", "vision": "'mixture'"}
    words |= {"text": "'mixture'", "targets": "target"}
    if method == "mixture" and isinstance(value, int):
        words["prompts"] = "'mixture'"
    assert key in line or words.get(key, key) in line


@pytest.mark.parametrize(("method", "key", "value"), METHOD_CASES[1], ids=IDS[1])
def test_accepts_boundary_settings(method, key, value):
    settings = {key: value}
    if key == "num_experts":
        settings["top_k"] = 1
    if method == "mixture" and key in ("prompts", "both", "vision", "text") and not value:
        settings["tuned"] = ("text/proj",)
    check_method(configured(method, settings))


PART_CASES = [
    [
        (name, field.name, value)
        for name, part in petl_config.PARTS.items()
        for field in dataclasses.fields(part)
        for value in FIELDS[field.name][which]
    ]
    for which in (0, 1)
]


@pytest.mark.parametrize(("part", "key", "value"), PART_CASES[0], ids=label)
def test_rejects_invalid_fields_of_modules(part, key, value):
    with pytest.raises(UserError) as error:
        check_method(configured("mixture", {"both": {"own": {"part": part, key: value}}}))
    line = str(error.value)
    words = {"targets": "target", "length": "prefix"}
    assert "\n" not in line and (key in line or words[key] in line)


@pytest.mark.parametrize(("part", "key", "value"), PART_CASES[1], ids=label)
def test_accepts_boundary_fields_of_modules(part, key, value):
    fewer = {"top_k": 1} if key == "num_experts" else {}
    check_method(configured("mixture", {"both": {"own": {"part": part, key: value, **fewer}}}))


def test_pad_is_limited_by_the_image_only_with_augmentation():
    config = with_value("pad", 500)
    config.augment = False
    check_values(config)


def test_top_k_above_the_default_number_of_experts():
    with pytest.raises(UserError, match=r"config.method.top_k=7 must lie between 1 and 6 experts"):
        config_lib.check(configured("dm_adapter", {"top_k": 7}))


def test_numbers_are_compared_in_float32():
    assert np.float32(1 - 1e-12) == 1 and np.float32(1e-60) == 0
    with pytest.raises(UserError, match=r"config.optimizer.b2=0.999999999999 must be below 1"):
        check_values(with_value("optimizer.b2", 1 - 1e-12))


def test_shown_truncates_values():
    assert (shown("a"), shown(1.5), shown((1, 2))) == ("'a'", "1.5", "(1, 2)")
    assert shown(LONGEST) == "a number of thousands of digits"
    assert len(shown("a" * 1000)) == 100


def test_settings_without_a_rule_are_checked_by_the_method():
    check_settings({"both": 3, "anything": object()})
    with pytest.raises(UserError, match=r"config.method.rank=0 must be a whole number of at least 1"):
        check_settings({"rank": 0})
