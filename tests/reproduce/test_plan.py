"""The plan of the runs, and which settings make a result incomparable."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tpr_jax.errors import UserError
from tpr_jax.reproduce import plan

DATA = {"cuhk_pedes": "/c", "rstp_reid": "/r"}


def test_plans_all_methods_on_each_benchmark(tmp_path):
    recipes = plan.plan(["zero_shot", "up_person"], DATA, 2, tmp_path, ["--config.log_every=7"])
    assert [(recipe.method, recipe.dataset, len(recipe.runs)) for recipe in recipes] == [
        ("zero_shot", "cuhk_pedes", 1),  # nothing in it is random
        ("up_person", "cuhk_pedes", 2),
        ("zero_shot", "rstp_reid", 1),
        ("up_person", "rstp_reid", 2),
    ]
    zero, tuned = recipes[2].runs[0], recipes[3].runs[1]
    assert (zero.mode, tuned.mode, tuned.seed) == ("eval", "train", 1)
    assert tuned.folder == tmp_path / "up_person-rstp_reid" / "seed_1"
    # The paper's recipe for RSTPReid.
    assert (tuned.config["optimizer"]["lr"], tuned.config["method"]["rank"]) == (1e-4, 16)
    assert (tuned.config["data_dir"], tuned.config["log_every"], tuned.config["num_epochs"]) == ("/r", 7, 60)
    assert [(run.name, run.seed) for run in plan.in_order(recipes)] == [
        ("zero_shot:cuhk_pedes", 0),
        ("up_person:cuhk_pedes", 0),
        ("zero_shot:rstp_reid", 0),
        ("up_person:rstp_reid", 0),
        ("up_person:cuhk_pedes", 1),
        ("up_person:rstp_reid", 1),
    ]


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("--config.batch_size=64", ("batch_size",)),
        ("--config.optimizer.lr=0.1", ("optimizer.lr",)),
        ("--config.num_epochs=60", ()),  # as in the recipe
        ("--config.total_steps=5", ("total_steps",)),
        ("--config.eval_every=2", ("eval_every",)),  # the best of fewer epochs is lower
        ("--config.on_bad_image=skip", ("on_bad_image",)),
        ("--noconfig.mask_text", ("mask_text",)),
        ("--config.remat=dots", ()),
        ("--config.accumulate=2", ()),
        ("--config.backbone=/elsewhere", ()),
        ("--config.dtype=float32", ()),
        ("--config.eval_batch_size=8", ()),
    ],
)
def test_notices_settings_that_affect_a_result(setting, changed, tmp_path):
    (plain,) = plan.plan(["dm_adapter"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])
    (recipe,) = plan.plan(["dm_adapter"], {"cuhk_pedes": "/elsewhere"}, 1, tmp_path, [setting])
    assert recipe.changed == changed
    assert (recipe.sha256 == plain.sha256) == (changed == ())


def test_seeds_share_the_hash_of_a_recipe(tmp_path):
    one, three = (plan.plan(["cskt"], DATA, seeds, tmp_path, []) for seeds in (1, 3))
    assert one[0].sha256 == three[0].sha256 != one[1].sha256


def test_a_setting_that_a_method_lacks_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config\.method\.top_k is unknown"):
        plan.plan(["cskt"], DATA, 1, tmp_path, ["--config.method.top_k=1"])


def test_planning_leaves_the_devices_to_the_runs(tmp_path):
    """JAX would fail to initialize on a platform that does not exist."""
    code = (
        "import sys, pathlib; from tpr_jax.reproduce import __main__, plan;"
        "print(len(plan.plan(['cskt'], {'cuhk_pedes': 'c'}, 3, pathlib.Path(sys.argv[1]), [])[0].runs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "JAX_PLATFORMS": "none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
