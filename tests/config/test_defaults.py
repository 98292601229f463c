"""The shared recipe and the check of a config."""

import json

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from tpr_jax.config import defaults as config_lib
from tpr_jax.errors import UserError


def dm_adapter(**changes) -> ConfigDict:
    config = config_lib.base()
    config.method = {"name": "dm_adapter", "num_experts": 6, "top_k": 2, "scales": (0.1, 4.0), **changes}
    return config


def test_base_is_the_published_recipe():
    config = config_lib.base()
    assert (config.batch_size, config.num_epochs, config.image_size) == (128, 60, (384, 128))
    assert config.temperature == 0.02
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay) == (3e-4, 1e-3, 4e-5)
    assert (optimizer.warmup_epochs, optimizer.warmup_factor, optimizer.bias_lr_factor) == (5, 0.1, 2)
    assert (optimizer.schedule, optimizer.per_step) == ("cosine", False)
    config_lib.check(config)


def test_recipe_merges_losses_and_optimizer_and_applies_mini_pedes_last():
    changes = {"method": {"name": "lora", "rank": 16}, "losses": {"sdm": 0.5}, "optimizer": {"lr": 1.0}}
    paper = config_lib.recipe("rstp_reid", **changes, pad=3, mini_pedes={"optimizer.lr": 2.0})
    assert (paper.dataset, paper.eval_test_each_time, paper.pad) == ("rstp_reid", True, 3)
    assert paper.method.to_dict() == changes["method"]
    assert (paper.losses.sdm, paper.losses.itc) == (0.5, 0.0)
    assert (paper.optimizer.lr, paper.optimizer.b1) == (1.0, 0.9)
    mini = config_lib.recipe("mini_pedes", **changes, mini_pedes={"optimizer.lr": 2.0, "method.rank": 4})
    assert (mini.dataset, mini.eval_test_each_time, mini.backbone) == ("mini_pedes", False, "clip-mini")
    assert (mini.optimizer.lr, mini.method.rank, mini.losses.sdm, mini.losses.itc) == (2.0, 4, 0.5, 10.0)
    assert config_lib.recipe("cuhk_pedes").to_dict() == {
        **config_lib.base().to_dict(),
        "eval_test_each_time": True,
    }


def test_keys_are_joined_by_dots():
    config = ConfigDict({"a": 1, "b": {"c": 2, "d": {"e": 3}}})
    assert config_lib.keys(config) == ["a", "b", "b.c", "b.d", "b.d.e"]


def test_to_plain_equals_a_json_round_trip():
    plain = config_lib.to_plain(config_lib.base())
    assert plain["image_size"] == [384, 128]
    assert json.loads(json.dumps(plain)) == plain


def test_losses_and_method_settings():
    config = dm_adapter()
    config.losses.update({"balance": 0.5})
    assert config_lib.loss_weights(config) == {"sdm": 1.0, "balance": 0.5}
    assert config_lib.method_settings(config) == {"num_experts": 6, "top_k": 2, "scales": (0.1, 4.0)}


def test_nearest():
    assert config_lib.nearest("cosin", ("cosine", "linear")) == "did you mean 'cosine'?"
    assert config_lib.nearest("zzz", ("cosine", "linear")) == "choose from: cosine, linear"


def test_mini_pedes_recipe_is_sound():
    config = dm_adapter()
    config_lib.for_mini_pedes(config)
    config_lib.check(config)
    assert config.dataset == "mini_pedes" and config.backbone == "clip-mini"
    assert config.image_size == (192, 64)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("method.name", "dm_adaptr", "config.method.name='dm_adaptr' is unknown: did you mean 'dm_adapter'?"),
        ("dataset", "cuhk", "config.dataset='cuhk' is unknown: did you mean 'cuhk_pedes'?"),
        ("dtype", "bfloat61", "config.dtype='bfloat61' is unknown: did you mean 'bfloat16'?"),
        ("optimizer.schedule", "cosin", "did you mean 'cosine'?"),
        ("losses.sdm", 0.0, "config.losses are all 0"),
        ("losses.sdm", float("nan"), "config.losses.sdm=nan must be a number"),
        ("batch_size", 0, "config.batch_size=0 must be at least 1"),
        ("eval_batch_size", -3, "config.eval_batch_size=-3 must be at least 1"),
        ("num_epochs", 0, "config.num_epochs=0 must be at least 1"),
        ("checkpoint_every", 0, "config.checkpoint_every=0 must be at least 1"),
        ("log_every", 0, "config.log_every=0 must be at least 1"),
        ("total_steps", -1, "config.total_steps=-1 must be a number and not negative"),
        ("eval_every", -1, "config.eval_every=-1"),
        ("seed", -1, "config.seed=-1"),
        ("pad", -1, "config.pad=-1"),
        ("sampler", "idenity", "config.sampler='idenity' is unknown: did you mean 'identity'?"),
        ("instances_per_identity", 0, "config.instances_per_identity=0 must be at least 1"),
        ("few_shot", 5.0, "config.few_shot=5.0 must lie between 0 and 1: 5 % is 0.05"),
        ("few_shot", float("nan"), "config.few_shot=nan must lie between 0 and 1"),
        ("noisy_fraction", -0.2, "config.noisy_fraction=-0.2 must lie between 0 and 1"),
        ("few_shot_seed", -1, "config.few_shot_seed=-1 must be a number and not negative"),
        ("noise_seed", -1, "config.noise_seed=-1"),
        ("optimizer.lr", -1.0, "config.optimizer.lr=-1.0"),
        ("optimizer.lr", float("nan"), "config.optimizer.lr=nan"),
        ("optimizer.lr", float("inf"), "config.optimizer.lr=inf"),
        ("optimizer.weight_decay", float("nan"), "config.optimizer.weight_decay=nan"),
        ("temperature", 0.0, "config.temperature=0.0 must be above 0"),
        ("temperature", float("nan"), "config.temperature=nan must be above 0"),
        ("image_size", (384,), "config.image_size=(384,) must be (height, width)"),
        ("image_size", (384, 0), "config.image_size=(384, 0) must be"),
        ("image_size", ("a", "b"), "config.image_size=('a', 'b') must be"),
        ("image_size", (38.5, 12.0), "config.image_size=(38.5, 12.0) must be"),
    ],
)
def test_rejects_invalid_values(key, value, told):
    config = config_lib.base()
    *parents, last = key.split(".")
    holder = config
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    with pytest.raises(UserError) as error:
        config_lib.check(config)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"top_k": 7}, "config.method.top_k=7 must lie between 1 and 6 experts"),
        ({"top_k": 0}, "config.method.top_k=0 must be a whole number of at least 1"),
        ({"num_experts": 0}, "config.method.num_experts=0 must be a whole number of at least 1"),
        ({"reduction": 0}, "config.method.reduction=0 must be a whole number of at least 1"),
        ({"router": "blnd"}, "config.method.router='blnd' is unknown: did you mean 'blend'?"),
        ({"scales": (1.0,)}, "config.method.scales=(1.0,) must be two numbers"),
        ({"scales": ("a", 1.0)}, "config.method.scales=('a', 1.0) must be two numbers"),
        (
            {"rank": 4},
            "config.method.rank is not a setting of method 'dm_adapter': it takes num_experts, top_k",
        ),
        ({"name": "zero_shot"}, "config.method.num_experts is not a setting of method 'zero_shot'"),
        ({"scales": 3}, "config.method.scales=3 must be two numbers"),
        ({"num_experts": "six"}, "config.method.num_experts='six' must be a whole number of at least 1"),
    ],
)
def test_rejects_invalid_method_settings(changes, told):
    with pytest.raises(UserError) as error:
        config_lib.check(dm_adapter(**changes))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_batch_is_whole_identities():
    config = config_lib.base()
    config.batch_size, config.instances_per_identity = 130, 4
    config_lib.check(config)
    assert config_lib.instances(config) == 0
    config.sampler = "identity"
    assert config_lib.instances(config) == 4
    told = "config.batch_size=130 must be a multiple of config.instances_per_identity=4"
    with pytest.raises(UserError, match=told):
        config_lib.check(config)
    config.batch_size = 132
    config_lib.check(config)


def test_make_method_passes_the_settings_on():
    made = config_lib.make_method(dm_adapter(num_experts=4, router="sum"))
    assert made.text[0].num_experts == 4 and made.text[0].scale == 4.0 and made.vision[0].router == "sum"


def test_unset_settings_stay_unset():
    config = config_lib.base()
    config.method = {"name": "prompts", "length": 2, "depth": placeholder(int)}
    config_lib.check(config)
    assert config_lib.make_method(config).prompts.depth is None
    assert config_lib.to_plain(config)["method"]["depth"] is None


def test_a_setting_of_the_wrong_type_is_one_line():
    config = config_lib.base()
    config.method = {"name": "up_person", "use": 3}
    with pytest.raises(UserError, match=r"config.method.use=3 must be a list of names"):
        config_lib.check(config)


ROWS = {"mini_pedes": {"lora": 1, "depth_1": 2}, "cuhk_pedes": {"lora": 1, "depth_12": 2}}


def test_row_and_dataset_of_an_ablation():
    assert config_lib.row_and_dataset("depth_1", ROWS.get) == ("depth_1", "mini_pedes")
    assert config_lib.row_and_dataset("depth_12,cuhk_pedes", ROWS.get) == ("depth_12", "cuhk_pedes")
    for argument, told in [
        ("depth_12", "row 'depth_12' is unknown: did you mean 'depth_1'?"),
        ("", "row '' is unknown: choose from: lora, depth_1"),
        ("lora,cuhk", "data set 'cuhk' is unknown: did you mean 'cuhk_pedes'?"),
    ]:
        with pytest.raises(UserError) as error:
            config_lib.row_and_dataset(argument, ROWS.get)
        assert str(error.value) == told


def test_balance_needs_a_mixture():
    config = config_lib.base()
    config.losses.balance = 0.5
    with pytest.raises(
        UserError, match=r"config.losses.balance needs a mixture, but method 'zero_shot' has none"
    ):
        config_lib.check(config)


def test_rejects_added_and_missing_keys():
    config = config_lib.base()
    config.batchsize = 4
    with pytest.raises(UserError, match=r"config.batchsize is unknown: did you mean 'batch_size'?"):
        config_lib.check(config)
    config = config_lib.base()
    config.losses.sdn = 1.0
    with pytest.raises(UserError, match=r"config.losses.sdn is unknown: did you mean 'losses.sdm'?"):
        config_lib.check(config)
    config = config_lib.base()
    del config.optimizer["lr"]
    with pytest.raises(UserError, match=r"config.optimizer.lr is missing: start get_config with"):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("milestones", "epochs", "total_steps", "note"),
    [
        ((20, 50), 60, 0, None),
        ((20, 50), 20, 0, "all lie beyond config.num_epochs=20: after its warm-up the rate stays the same"),
        ((19, 50), 20, 0, None),
        ((20, 50), 60, 201, None),  # step 200 is the first of epoch 20
        ((20, 50), 60, 200, "all lie beyond config.total_steps=200 (20 epochs)"),
        ((20, 50), 60, 35, "all lie beyond config.total_steps=35 (3.5 epochs)"),
        ((20, 50), 60, 10**9, None),
        ((), 60, 0, "all lie beyond config.num_epochs=60"),
    ],
)
def test_notes_milestones_that_the_run_does_not_reach(milestones, epochs, total_steps, note):
    config = config_lib.base()
    config.num_epochs, config.total_steps = epochs, total_steps
    config.optimizer.schedule, config.optimizer.milestones = "step", milestones
    told = config_lib.schedule_note(config, steps_per_epoch=10)
    assert (note in told and "\n" not in told) if note else told == ""
    config.optimizer.schedule = "cosine"
    assert config_lib.schedule_note(config, steps_per_epoch=10) == ""


@pytest.mark.parametrize(
    ("epochs", "total_steps", "remedy"),
    [(3, 0, "(1,)"), (40, 0, "(20,)"), (60, 100, "(5,)"), (60, 11, "(1,)"), (60, 10, None), (1, 0, None)],
)
def test_the_note_proposes_a_milestone_within_the_run(epochs, total_steps, remedy):
    config = config_lib.base()
    config.num_epochs, config.total_steps = epochs, total_steps
    config.optimizer.schedule, config.optimizer.milestones = "step", (50,)
    told = config_lib.schedule_note(config, steps_per_epoch=10)
    wanted = f"the same; --config.optimizer.milestones={remedy} lowers it" if remedy else "stays the same"
    assert told.endswith(wanted)
