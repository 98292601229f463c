"""The four published methods on the three benchmarks, key by key, also in `configs/README.md`."""

import ast
import re

import pytest

from tests.config_files import DATASETS, FOLDER, parsed
from tpr_jax.config import defaults as config_lib
from tpr_jax.losses import NAMES as LOSSES

METHODS = ("dm_adapter", "up_person", "cskt", "irra")
BENCHMARKS = DATASETS[1:]

# Where a run executes and what it writes; not part of a recipe.
OPERATION = (
    "seed",
    "debug",
    "backbone",
    "from_scratch",
    "dataset",
    "data_dir",
    "source",
    "mix",
    "on_bad_image",
    "on_leak",
)
# Empty in all: the folder says them.
OPERATION += ("backbone_act", "backbone_heads", "backbone_mean", "backbone_std")
# Of losses that no published method has.
OPERATION += ("sigmoid_from", "distill.teacher", "distill.feats", "distill.scores", "matryoshka")
OPERATION += ("total_steps", "eval_every", "checkpoint_every", "log_every", "mesh.data", "mesh.model")
OPERATION += (
    "text_length",
    "stretch_text",
    "few_shot",
    "few_shot_seed",
    "noisy_fraction",
    "noise_seed",
    "accumulate",
)
OPERATION += ("remat", "scan_layers", "profile", "instances_per_identity", "dtype", "eval_batch_size")
OPERATION += ("captions_per_image", "patch_dropout")

SHARED = {
    "batch_size": 128,
    "num_epochs": 60,
    "sampler": "random",
    "image_size": [384, 128],
    "augment": True,
    "pad": 10,
    "mask_text": True,
    "mask_probability": 0.15,
    "temperature": 0.02,
    "learn_temperature": False,
    "mlm_depth": 4,
    "eval_test_each_time": True,
    **{f"losses.{name}": 0.0 for name in LOSSES},
    "losses.sdm": 1.0,
    "optimizer.lr": 3e-4,
    "optimizer.b1": 0.9,
    "optimizer.b2": 0.999,
    "optimizer.eps": 1e-3,
    "optimizer.weight_decay": 4e-5,
    "optimizer.bias_lr_factor": 2.0,
    "optimizer.head_lr_factor": 5.0,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 5.0,
    "optimizer.warmup_factor": 0.1,
    "optimizer.milestones": [20, 50],
    "optimizer.gamma": 0.1,
    "optimizer.power": 0.9,
    "optimizer.per_step": False,
    "optimizer.clip_norm": 0.0,
    "optimizer.block_lr_decay": 1.0,
    "optimizer.ema_decay": 0.0,
}


def published(method: str, dataset: str) -> dict:
    """Returns the values of the papers and their code, written by hand."""
    of_method = {
        "dm_adapter": {
            "losses.balance": 0.5,
            "method.num_experts": 6,
            "method.top_k": 2,
            "method.reduction": 8,
            "method.router": "blend",
            "method.scales": [0.1, 4.0],
        },
        "up_person": {
            "optimizer.lr": {"rstp_reid": 1e-4}.get(dataset, 1e-3),
            "optimizer.bias_lr_factor": 1.0,
            "method.rank": {"rstp_reid": 16}.get(dataset, 32),
            "method.prefix": {"cuhk_pedes": 10, "icfg_pedes": 14, "rstp_reid": 2}[dataset],
            "method.reduction": 8,
            "method.version": "paper",
            "method.use": ["prefix", "lora", "adapter"],
            "method.vanilla": False,
            "method.depth_lora": None,
            "method.depth_prefix": None,
            "method.depth_adapter": 0,
        },
        "cskt": {
            "method.prompts": 4,
            "method.depth": None,
            "method.reduction": 8,
            "method.direction": "both",
            "method.scales": [0.1, 4.0],
        },
        "irra": {
            "batch_size": 64,
            "optimizer.lr": 1e-5,
            "mask_text": False,
            "losses.mlm": 1.0,
            "losses.id": 1.0,
        },
    }
    return {**SHARED, "method.name": method, **of_method[method]}


def flat(config, prefix="") -> dict:
    found = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def settings(method: str, dataset: str) -> dict:
    return flat(config_lib.to_plain(parsed(method, dataset)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_every_key_of_the_recipe_is_the_published_one(method, dataset):
    found = settings(method, dataset)
    assert found["backbone"] == "openai/clip-vit-base-patch16" and found["dataset"] == dataset
    assert not any(found[key] for key in OPERATION if key.startswith("backbone_"))
    assert found["text_length"] == 0 and not found["total_steps"] and not found["debug"]
    assert {key: value for key, value in found.items() if key not in OPERATION} == published(method, dataset)


def value_of(cell: str):
    try:
        value = ast.literal_eval(cell)
    except (SyntaxError, ValueError):
        return cell
    return list(value) if isinstance(value, tuple) else value


def table() -> dict[str, dict[str, list]]:
    """Parses the README's table: key -> method -> its values on the three benchmarks."""
    text = (FOLDER / "README.md").read_text()
    (heading,) = re.findall(r"^\| key \| (.*) \| from \|$", text, re.MULTILINE)
    methods = [cell.strip("` ") for cell in heading.split("|")]
    rows = {}
    for key, cells in re.findall(r"^\| `([a-z_0-9.]+)` \| (.*) \| [^|]+ \|$", text, re.MULTILINE):
        if key in METHODS or cells.count("|") != len(methods) - 1:
            continue
        values = [[value_of(v.strip()) for v in cell.split(" / ")] for cell in cells.split("|")]
        rows[key] = {m: v * 3 if len(v) == 1 else v for m, v in zip(methods, values, strict=True)}
    return rows


def test_the_readme_has_every_setting_of_every_recipe():
    rows = table()
    assert len(rows) > 30
    found = {m: [settings(m, dataset) for dataset in BENCHMARKS] for m in METHODS}
    for key, told in rows.items():
        assert list(told) == list(METHODS)
        for method, values in told.items():
            assert values == [f.get(key, "-") for f in found[method]], (key, method)
    # Keys missing from the table are the same for all methods, or are operational.
    unsaid = {f"losses.{name}" for name in LOSSES} | {"method.name", "method.use", "method.vanilla"}
    unsaid |= {"method.depth", "method.depth_lora", "method.depth_prefix", "method.depth_adapter"}
    for method in METHODS:
        assert set(found[method][0]) - set(rows) - unsaid <= set(OPERATION)
        assert not any(found[method][0][f"losses.{n}"] for n in LOSSES if f"losses.{n}" not in rows)
