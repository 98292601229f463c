"""The number of parameters that each method trains on each backbone."""

import re

import pytest

from tests.conftest import ROOT
from tpr_jax.aot import backbones
from tpr_jax.models.methods import lora, zero_shot


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def count(backbone, method):
    return backbones.trained_parameters(backbones.BACKBONES[backbone], method)


def test_counts_of_vit_b16_are_those_of_the_configs():
    """configs/README.md has the counts of the papers."""
    page = (ROOT / "configs/README.md").read_text()
    for name in ("up_person", "lora"):
        published = re.search(rf"\| `{name}` \|.*\| ([\d,]+) \|", page)[1]
        assert count("ViT-B/16", backbones.recipe_method(name)) == int(published.replace(",", ""))


@pytest.mark.parametrize(
    ("backbone", "by_hand"),
    [
        # Query and value of each block: two matrices of rank 4, from and to the tower's width.
        ("ViT-H/14", 2 * 2 * 4 * (32 * 1280 + 24 * 1024)),
        ("SigLIP-base/16", 2 * 2 * 4 * (12 * 768 + 12 * 768)),
    ],
)
def test_counts_by_hand(backbone, by_hand):
    assert count(backbone, lora(("q", "v"), 4)) == by_hand


def test_a_siglip_is_counted_with_its_pooling_head():
    """BitFit trains every bias; the head has those of a norm, of q, k, v, out, and of an MLP of 4 x 768."""
    # By hand, of each block: q, k, v, out (4 d), norms (2 d), MLP (4 d + d); then the final norms, the patch
    # embedding, the projection of the text and the head.
    blocks = 2 * 12 * 11 * 768
    assert (
        count("SigLIP-base/16", backbones.recipe_method("bitfit")) == blocks + 2 * 768 + 768 + 768 + 10 * 768
    )
    assert count("ViT-B/32", zero_shot()) == 0


def test_the_page_shows_the_table():
    page = (ROOT / backbones.PAGE).read_text()
    shown = page.partition(f"<!-- {backbones.MARKER} -->")[2].partition("<!-- /")[0]
    assert re.findall(r"\| `(\w+)` \|", shown) == list(backbones.METHODS)
    assert shown.split("\n")[1] == f"| method | {' | '.join(backbones.BACKBONES)} |"
    row = next(line for line in shown.splitlines() if line.startswith("| `prefix` |")).split(" | ")
    assert row[1] == f"{count('ViT-B/32', backbones.recipe_method('prefix')):,}"
