"""Every config and every row of the ablations is valid, fits its backbone, and has the published values."""

import re
from pathlib import Path

import jax
import pytest

from tests.config_files import ABLATIONS, DATASETS, FOLDER, NAMES, PRETRAIN, parsed, rows_of, split
from tests.tiny_clip import quick_compilation  # noqa: F401 (a fixture for the whole module)
from tpr_jax.config import defaults as config_lib
from tpr_jax.config.flags import parse_flags
from tpr_jax.errors import UserError
from tpr_jax.models import methods
from tpr_jax.models.clip import declare
from tpr_jax.models.config import NO_HEADS, ClipConfig, Heads
from tpr_jax.models.petl_config import Prefix
from tpr_jax.weights.backbone import clip_mini_dir
from tpr_jax.weights.clip import read_sizes


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("zero_shot", *PRETRAIN)])
@pytest.mark.parametrize("dataset", DATASETS)
def test_every_recipe_fits_its_backbone(name, dataset):
    """The modules fit clip-mini or ViT-B/16, prompts leave room for words, and a mixture is balanced."""
    mini = dataset == "mini_pedes"
    sizes = read_sizes(Path(clip_mini_dir())) if mini else ClipConfig()
    rows = rows_of(name, dataset) if name in ABLATIONS else [""]
    for row in rows:
        config = parsed(name, f"{row},{dataset}" if row else dataset)
        method = config_lib.make_method(config)
        methods.check(method, sizes)
        assert (config.dataset, config.backbone == "clip-mini") == (dataset, mini)
        assert bool(config.losses.balance) == (bool(method.mixtures) and row != "moe")
        assert bool(config.losses.itc) == (mini or name in ("full_finetune", "pretrain_people"))


def test_rows_of_dm_adapters_ablation():
    rows = rows_of("ablation_dm_adapter", "cuhk_pedes")
    assert len(rows) == 4 + 9 + 6
    settings = {row: parsed("ablation_dm_adapter", f"{row},cuhk_pedes") for row in rows}
    assert settings["adapter"].method.name == "parallel_adapter"
    for row, router, balance in (
        ("moe", "input", 0),
        ("moe_balance", "input", 0.5),
        ("domain_router", "blend", 0.5),
    ):
        assert (settings[row].method.router, settings[row].losses.balance) == (router, balance)
    assert [settings[f"experts_{e}"].method.num_experts for e in range(2, 11)] == list(range(2, 11))
    assert [settings[f"top_{k}"].method.top_k for k in range(1, 7)] == list(range(1, 7))
    whole = parsed("dm_adapter", "cuhk_pedes")
    assert settings["domain_router"].to_dict() == whole.to_dict()
    assert parsed("ablation_dm_adapter").to_dict() == parsed("dm_adapter").to_dict()


def test_the_readme_lists_every_config_and_what_it_trains():
    listed = (FOLDER / "README.md").read_text().partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", listed, re.MULTILINE)
    assert sorted(name for name, _ in rows) == NAMES
    for name, told in rows:
        if name in (*ABLATIONS, *PRETRAIN):
            assert told == ("by row" if name in ABLATIONS else "all")
            continue
        config = parsed(name, "cuhk_pedes")
        heads = Heads(11_003, config.mlm_depth) if config.losses.id else NO_HEADS
        found, _ = split(declare(ClipConfig(), config_lib.make_method(config), heads), config)
        assert f"{sum(leaf.size for leaf in jax.tree.leaves(found)):,}" == told, name


@pytest.mark.parametrize("dataset", DATASETS)
def test_rows_of_up_persons_ablation(dataset):
    rows = rows_of("ablation_up_person", dataset)
    blocks = 4 if dataset == "mini_pedes" else 12
    assert len(rows) == 3 + 3 + 1 + 2 + 3 * blocks
    made = {row: config_lib.make_method(parsed("ablation_up_person", f"{row},{dataset}")) for row in rows}
    for row in ("prefix", "lora", "adapter", "prefix_lora", "prefix_adapter", "lora_adapter"):
        assert made[row].trainable == tuple(sorted(row.split("_")))
    whole = parsed("up_person", dataset)
    assert made["all"] == config_lib.make_method(whole)
    recipe = parsed("ablation_up_person", f"all,{dataset}")
    assert recipe.optimizer.to_dict() == whole.optimizer.to_dict()
    gates = {row: [p.gate for p in made[row].text if isinstance(p, Prefix)] for row in rows}
    assert gates["vanilla_prefix"] == gates["vanilla_all"] == [None] and gates["prefix"] == [10.0]
    layers = {row: {type(p).__name__: p.layers for p in made[row].text} for row in rows}
    assert layers["depth_lora_3"] == {"Adapter": (0, None), "Lora": (0, 3), "Prefix": (0, None)}
    assert layers["depth_prefix_2"] == {"Adapter": (0, None), "Lora": (0, None), "Prefix": (0, 2)}
    assert layers["depth_adapter_1"] == {"Adapter": (1, None), "Lora": (0, None), "Prefix": (0, None)}


def test_published_recipes():
    """Checks the rate, bias factor, batch size, losses, rank and prefix length on each data set."""
    found = {}
    for name in ("dm_adapter", "up_person", "cskt", "irra"):
        for dataset in DATASETS[1:]:
            c = parsed(name, dataset)
            losses = config_lib.loss_weights(c)
            found[name, dataset] = (c.optimizer.lr, c.optimizer.bias_lr_factor, c.batch_size, losses)
    for dataset in DATASETS[1:]:
        assert found["dm_adapter", dataset] == (3e-4, 2, 128, {"sdm": 1, "balance": 0.5})
        assert found["cskt", dataset] == (3e-4, 2, 128, {"sdm": 1})
        assert found["irra", dataset] == (1e-5, 2, 64, {"sdm": 1, "mlm": 1, "id": 1})
        rate = 1e-4 if dataset == "rstp_reid" else 1e-3
        assert found["up_person", dataset] == (rate, 1, 128, {"sdm": 1})
    sizes = [(c.method.rank, c.method.prefix) for c in (parsed("up_person", d) for d in DATASETS[1:])]
    assert sizes == [(32, 10), (32, 14), (16, 2)]
    assert not parsed("irra", "cuhk_pedes").mask_text and parsed("dm_adapter", "cuhk_pedes").mask_text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("zero_shot", *PRETRAIN)])
def test_benchmarks_are_scored_on_test_each_epoch_as_papers_do(name):
    row = {"ablation_dm_adapter": "moe,", "ablation_up_person": "all,"}.get(name, "")
    asked = [parsed(name, row + dataset).eval_test_each_time for dataset in (*DATASETS, "folder")]
    assert asked == [False, True, True, True, False]


def test_full_finetuning_takes_itc_or_sdm():
    assert config_lib.loss_weights(parsed("full_finetune")) == {"itc": 1.0}
    path = str(FOLDER / "full_finetune.py")
    flags = ["--config.losses.itc=0", "--config.losses.sdm=1"]
    config, _, _ = parse_flags(["main", "--config", path, "--workdir", "w", *flags])
    assert config_lib.loss_weights(config) == {"sdm": 1.0}


def test_pretraining_on_people_takes_a_data_set_and_a_method():
    assert parsed("pretrain_people").to_dict() == parsed("pretrain_street").to_dict()
    whole, lora = (parsed("pretrain_people", argument) for argument in ("webperson", "lora,webperson"))
    assert (whole.dataset, whole.method.name, whole.data_dir) == ("webperson", "full_finetune", "")
    assert (lora.dataset, lora.method.name) == ("webperson", "lora")
    assert config_lib.make_method(lora) == methods.lora()
    assert (whole.optimizer.lr, lora.optimizer.lr) == (1e-5, 3e-4)
    assert parsed("pretrain_people", "lora,mini_pedes").optimizer.lr == 3e-3
    assert parsed("pretrain_people", "irra,webperson").optimizer.lr == 1e-5
    for config in (whole, lora):
        assert config_lib.loss_weights(config) == {"itc": 1.0}
        assert (config.batch_size, config.num_epochs, config.mask_text) == (512, 30, False)
        assert (config.optimizer.eps, config.optimizer.clip_norm, config.backbone) == (
            1e-8,
            1.0,
            "openai/clip-vit-base-patch16",
        )


@pytest.mark.parametrize(
    ("name", "flags", "part"),
    [
        ("up_person", ["depth_lora=3", "use=('lora',)"], methods.Lora(("k", "v"), 8, layers=(0, 3))),
        ("lora", ["targets=('fc',)", "scale=0.5", "dora"], methods.Lora(("fc",), 8, 0.5, True)),
        ("lora", ["layers=(1,3)", "scale=learned"], methods.Lora(("q", "v"), 8, layers=(1, 3))),
        ("prefix", ["vanilla", "length=3"], Prefix(3, None)),
        ("mixture", ["both.low_rank.rank=4"], methods.Lora(("k", "v"), 4)),
    ],
)
def test_settings_can_be_set_by_flags(name, flags, part):
    flags = [f"--config.method.{flag}" for flag in flags]
    config, _, _ = parse_flags(["main", "--config", str(FOLDER / f"{name}.py"), "--workdir", "w", *flags])
    assert part in config_lib.make_method(config).text


def test_depths_can_be_set_by_flags():
    for name in ("cskt", "prompts"):
        flags = ["--config", str(FOLDER / f"{name}.py"), "--workdir", "w", "--config.method.depth=2"]
        assert config_lib.make_method(parse_flags(["main", *flags])[0]).prompts.depth == 2


@pytest.mark.parametrize(
    ("name", "argument", "told"),
    [
        ("pretrain_people", "lorra,webperson", "row 'lorra' is unknown: did you mean 'lora'?"),
        ("pretrain_people", "lora,web", "data set 'web' is unknown: did you mean 'webperson'?"),
        ("ablation_dm_adapter", "moe_balanc", "row 'moe_balanc' is unknown: did you mean 'moe_balance'?"),
        ("ablation_dm_adapter", "zzz", "row 'zzz' is unknown: choose from: adapter, moe, moe_balance"),
        ("ablation_dm_adapter", "cuhk_pedes", "row 'cuhk_pedes' is unknown"),
        ("ablation_up_person", "lora,cuhk", "data set 'cuhk' is unknown: did you mean 'cuhk_pedes'?"),
        ("ablation_up_person", "depth_lora_12", "row 'depth_lora_12' is unknown: did you mean 'depth_lora_"),
    ],
)
def test_rejects_an_unknown_row(name, argument, told):
    with pytest.raises(UserError) as error:
        parsed(name, argument)
    assert told in str(error.value) and f"{name}.py:{argument}" in str(error.value)
    assert "\n" not in str(error.value)
