"""The model card: its contents, and that its code runs."""

import re

import numpy as np
from PIL import Image

from tpr_jax.models import methods
from tpr_jax.models.petl_config import Lora, Prompts
from tpr_jax.weights.model_card import MARK, is_generated, model_card, read_title

FACTS = {"where": "runs/demo/model", "params": {"trainable": 250, "total": 10_000}, "image_size": (384, 128)}


def scores(first):
    return {
        query: {name: first + i for i, name in enumerate(("R1", "R5", "R10", "mAP", "mINP"))}
        for query in ("t2i", "i2t")
    }


RESULTS = {
    "dataset": "mini_pedes",
    "trainable_params": 300,
    "total_params": 10_050,
    "zero_shot": {"test": scores(1)},
    "final": {"test": scores(20)},
    "best_on_val": {"epoch": 7, "test": scores(31.256)},
}
TRAINING = {
    "dataset": "mini_pedes",
    "backbone": "clip-mini",
    "image_size": [192, 64],
    "batch_size": 64,
    "num_epochs": 10,
    "losses": {"sdm": 1.0, "itc": 0.0, "balance": 0.5},
    "optimizer": {"lr": 3e-4, "schedule": "cosine", "weight_decay": 4e-5},
}


def header(card):
    """Returns the lines of the YAML header."""
    begin, yaml, _ = card.split("---\n", 2)
    assert begin == ""
    return yaml.splitlines()


def test_yaml_header():
    card = model_card(methods.up_person(), **FACTS, backbone="openai/clip-vit-base-patch16", hub_id=True)
    assert "library_name: tpr_jax" in header(card)
    assert 'base_model: "openai/clip-vit-base-patch16"' in header(card)
    assert '- "up_person"' in header(card)
    plain = model_card(methods.up_person(), **FACTS, backbone="/data/clip")
    assert not any("base_model" in line for line in header(plain))
    assert "`/data/clip`" in plain and MARK in plain


def test_recognizes_its_cards_and_those_of_earlier_versions():
    card = model_card(methods.up_person(), **FACTS)
    older = "Written by tpr_jax, and anew by each save into this folder; delete this line to keep your own."
    assert is_generated(card) and is_generated(card.replace(MARK, f"<!-- {older} -->"))
    assert not is_generated(card.replace(MARK, "")) and not is_generated("# My own card")


def test_reads_its_title(tmp_path):
    card, readme = model_card(methods.up_person(), **FACTS, results=RESULTS), tmp_path / "README.md"
    assert read_title(tmp_path) is None
    readme.write_text(card)
    assert read_title(tmp_path) == "up_person on MiniPEDES, rendered"
    readme.write_text(card.replace(MARK, ""))  # the user's own
    assert read_title(tmp_path) is None
    readme.write_text(model_card(methods.zero_shot(), **FACTS))  # which names no data set
    assert read_title(tmp_path) is None


def test_table_of_modules():
    card = model_card(methods.up_person(depth_lora=3), **FACTS)
    row = "lora | lora_k, lora_v | rank 32, scale learned, dora False, blocks 0 to 2 |"
    assert f"| vision | {row}" in card and f"| text | {row}" in card
    assert "| text | prefix | prefix | length 10, gate 10.0, scaled True |" in card
    method = methods.Method("x", vision=(Lora(layers=(2, None)),), prompts=Prompts(), tuned=("a|b",))
    card = model_card(method, **FACTS)
    assert "blocks 2 to the last" in card and "| both | prompts | sequence | length 4" in card
    assert "| CLIP | own weights | `a\\|b` | trained |" in card
    assert "250 of 10,000 parameters were trained (2.50 %)" in card
    assert "without adapters" in model_card(methods.zero_shot(), **FACTS)


def test_no_metrics_without_results():
    card = model_card(methods.up_person(), **FACTS)
    assert "R1" not in card and "## Results" not in card and "## Training" not in card and "Pedes" not in card


def test_metrics_table():
    card = model_card(methods.dm_adapter(), **FACTS, results=RESULTS)
    assert "# dm_adapter on MiniPEDES, rendered" in card
    assert "MiniPEDES, rendered, test split, percent." in card
    assert "| CLIP, zero-shot | text | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 |" in card
    assert "| last epoch | image | 20.00 | 21.00 | 22.00 | 23.00 | 24.00 |" in card
    best = "| **best epoch on val (7): this model** | text | 31.26 | 32.26 | 33.26 | 34.26 | 35.26 |"
    assert best in card
    assert "300 of 10,050 parameters were trained (2.99 %)" in card
    card = model_card(methods.dm_adapter(), **FACTS, results=RESULTS | {"best_on_val": None})
    assert "| **last epoch: this model** | text | 20.00 |" in card
    on_test = {"best_on_val": None, "best_on_test": {"epoch": 4, "test": scores(40), "note": "it flatters"}}
    card = model_card(methods.dm_adapter(), **FACTS, results=RESULTS | on_test)
    assert "| **last epoch: this model** | text | 20.00 |" in card
    assert "| best epoch on the test split itself (4) | text | 40.00 |" in card


def test_numbers_say_what_they_depend_on():
    drawn = {"identities": 5, "of_identities": 500, "images": 20, "captions": 40}
    facts = {"backbone": {"name": "a|b"}, "data": {"few_shot": drawn}}
    card = model_card(methods.up_person(), **FACTS, results=RESULTS | facts)
    numbers = card[card.index("## Numbers") :]
    assert numbers.rstrip().endswith(
        "|\n\n- Backbone: a\\|b.\n- Few-shot: trained on 5 of 500 identities, 20 images and 40 captions."
    )


def test_training_section():
    card = model_card(methods.dm_adapter(), **FACTS, training=TRAINING)
    for line in (
        "| data | MiniPEDES, rendered |",
        "| losses | 1 sdm, 0.5 balance |",
        "| learning rate | 0.0003 |",
        "| image_size | 192 x 64 |",
        "| backbone | clip-mini |",
    ):
        assert line in card
    assert "## Results" not in card and "None" not in card


def test_code_of_the_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(name)
    card = model_card(methods.zero_shot(), **FACTS | {"where": "clip-mini"})
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    assert len(code.strip().splitlines()) == 3
    names: dict = {}
    exec(code, names)
    assert names["scores"].shape == (1, 2)


def test_section_of_an_adaptation():
    record = {
        "settings": {"model": "clip|street", "texts": None, "lr": 0.002},
        "photos": 3400,
        "descriptions": 256,
        "made_up": True,
    }
    card = model_card(methods.layer_norm(), **FACTS, adapted=record)
    assert "Adapted to 3,400 photos and 256 descriptions, which were made up, without labels." in card
    assert "| model | clip\\|street |" in card and "| lr | 0.002 |" in card and "| texts |" not in card
    drawn = {**record, "made_up": False, "photos_found": 12_000}
    told = model_card(methods.layer_norm(), **FACTS, adapted=drawn)
    assert "Adapted to 3,400 of 12,000 photos and 256 descriptions, without labels." in told
    all_of_them = model_card(methods.layer_norm(), **FACTS, adapted={**record, "photos_found": 3_400})
    assert "Adapted to 3,400 photos and" in all_of_them
    assert "Adaptation" not in model_card(methods.layer_norm(), **FACTS)
