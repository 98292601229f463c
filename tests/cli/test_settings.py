"""Words of a command line that set a key of all configs."""

import pytest

from tpr_jax.cli import settings
from tpr_jax.errors import UserError


def test_splits_settings_from_other_words():
    words = ["--config.lr=1", "a.py", "-config.seed=2", "--noconfig.augment", "--configs", "--seeds", "3"]
    found = settings.split_settings(["program", *words])
    assert found == (
        ["--config.lr=1", "-config.seed=2", "--noconfig.augment"],
        ["a.py", "--configs", "--seeds", "3"],
    )


def test_names_the_key_of_a_setting():
    words = ["--config.method.top_k=2", "-config.seed=1", "--noconfig.augment", "--config.x=config.y=z"]
    assert [settings.key_of(word) for word in words] == ["method.top_k", "seed", "augment", "x"]
    with pytest.raises(UserError, match=r"--config\.lr: settings are written --config\.KEY=VALUE"):
        settings.key_of("--config.lr")
