"""Rows and documents that are made by hand."""

from tpr_jax.compare.spread import Spread, spread
from tpr_jax.metrics.retrieval import METRIC_KEYS
from tpr_jax.reproduce.copies import Copy
from tpr_jax.reproduce.document import Document
from tpr_jax.reproduce.rows import Row
from tpr_jax.reproduce.transfer import Transfer

COPY = Copy("reid_raw.json", "1" * 64, 40_206, 1_234_567_890, "2" * 64, "")
MACHINE = {
    "platform": "gpu",
    "device": "NVIDIA H200",
    "devices": 2,
    "versions": {"jax": "1.2", "numpy": "2.3"},
}


def spreads(*r1: float) -> dict[str, Spread]:
    """Returns spreads of all metrics; those of R@1 are given, and the others are all 50."""
    return {key: spread(r1) if key == "R1" else Spread(50.0, None, (50.0,)) for key in METRIC_KEYS}


def row(**changes) -> Row:
    """Returns the row of DM-Adapter on CUHK-PEDES with three seeds: R@1 71, 72 and 73; 72.17 is published."""
    values = {
        "method": "dm_adapter",
        "dataset": "cuhk_pedes",
        "published": {"R1": 72.17, "R5": 88.74},
        "source": "a paper, table 3",
        "protocol": "best_on_test",
        "seeds": 3,
        "done": 3,
        "failed": 0,
        "ours": {
            "best_on_test": spreads(71.0, 72.0, 73.0),
            "best_on_val": spreads(70.0, 71.0, 72.0),
            "final": spreads(69.0, 70.0, 71.0),
        },
        "difference": {"R1": -0.17, "R5": -38.74},
        "verdict": "within 1 point",
        "reason": "",
        "hours": 12.3,
        "environments": [MACHINE],
        "weights_sha256": ["3" * 64],
        "recipe_sha256": "4" * 64,
        "commands": ["python -m tpr_jax.main --config configs/dm_adapter.py:cuhk_pedes"],
    }
    return Row(**(values | changes))


def not_run(**changes) -> Row:
    """Returns the row of a method without any complete run."""
    none = {"done": 0, "ours": {}, "difference": {}, "verdict": "not yet run", "hours": None}
    return row(**none, environments=[], weights_sha256=[], **changes)


def document(*rows: Row, **changes) -> Document:
    """Returns a document with these rows."""
    values = {
        "command": "python -m tpr_jax.reproduce --data cuhk_pedes=DIR",
        "quick": False,
        "data": {"cuhk_pedes": COPY},
        "weights": {"name": "openai/clip", "revision": "abc", "sha256": "3" * 64},
        "rows": list(rows),
        "transfer": [Transfer("dm_adapter", "cuhk_pedes", "rstp_reid", spreads(40.0, 42.0))],
    }
    return Document(**(values | changes))
