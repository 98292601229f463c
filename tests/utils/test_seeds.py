"""Seeds have 32 bits: distinct ones give distinct streams, and invalid ones are rejected."""

import jax
import numpy as np
import pytest

from tpr_jax.data import mixture, pipeline, protocols, sampler
from tpr_jax.data.mini_pedes import __main__ as mini_pedes
from tpr_jax.data.mini_pedes import generate
from tpr_jax.data.records import Records
from tpr_jax.data.tokenizer import clip_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.utils.seeds import LARGEST_SEED, check_seed

BAD = [-1, 2**32, 2**32 + 1, 2**63, 2**64, 10**30, 1.0, True, "0", None]
RECORDS = Records(
    "own", [f"{i}.jpg" for i in range(40)], [[f"a {i}"] for i in range(40)], np.arange(40), None, None, None
)


@pytest.mark.parametrize("seed", BAD)
def test_rejects_invalid_seeds(seed):
    with pytest.raises(UserError, match=r"few_shot_seed .* must be a whole number from 0 to 4294967295"):
        check_seed(seed, "few_shot_seed")


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, np.int64(7)])
def test_seeds(seed):
    assert check_seed(seed) == seed


def test_the_largest_seed_has_its_own_key():
    seeds = (0, 1, 2**31 - 1, 2**31, LARGEST_SEED - 1, LARGEST_SEED)
    keys = {jax.random.key_data(jax.random.key(seed)).tobytes() for seed in seeds}
    assert len(keys) == len(seeds)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: protocols.few_shot(RECORDS, 0.5, seed).pids,
        lambda seed: protocols.noisy(RECORDS, 0.5, seed).captions,
        lambda seed: mixture.epoch_order(RECORDS, seed, 0),
        lambda seed: sampler.identity_order(RECORDS.pids, 4, 2, seed, 0),
    ],
    ids=["few_shot", "noisy", "epoch_order", "identity_order"],
)
def test_streams_of_distinct_seeds_differ_and_others_are_refused(draw):
    drawn = {str(draw(seed)) for seed in (0, 1, 2**31, LARGEST_SEED)}
    assert len(drawn) == 4
    for seed in (-1, 2**32, 2**63):
        with pytest.raises(UserError, match=f"seed {seed} must be"):
            draw(seed)


def test_input_and_mini_pedes_reject_invalid_seeds_first(tmp_path, capsys):
    with pytest.raises(UserError, match="seed 4294967296 must be"):
        pipeline.train_input(RECORDS, clip_tokenizer(), image_size=(8, 8), batch_size=2, seed=2**32)
    with pytest.raises(UserError, match="seed 4294967296 must be"):
        generate.generate(str(tmp_path / "new"), seed=2**32)
    assert mini_pedes.main(["--out", str(tmp_path / "new"), "--seed", str(2**32)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --seed 4294967296 must be a whole number from 0 to 4294967295"
    assert not (tmp_path / "new").exists()
