"""Small runs, so that each key of a config can have its own.

They are runs of the real `train`, which is stopped or stubbed where it would take long.
"""

import contextlib
import dataclasses
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests import conftest
from tests.siglip_folder import write_siglip
from tools.train_tokenizer import train_tokenizer
from tpr_jax.config import defaults as config_lib
from tpr_jax.data import pipeline
from tpr_jax.models import clip
from tpr_jax.models.config import ClipConfig
from tpr_jax.models.methods import zero_shot
from tpr_jax.train import loop as train
from tpr_jax.train import results, setup
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.train.objective import objective
from tpr_jax.train.setup import Run, prepare
from tpr_jax.utils.trees import flatten
from tpr_jax.weights.clip import save_clip

PAIRS, PER_EPOCH = 48, 6  # captions of `conftest`'s training split; batches of 8 an epoch
SCORES = {"t2i": {"R1": 1.0}, "i2t": {"R1": 1.0}}


class Stop(Exception):
    """Ends `train` when everything is set up but nothing is compiled."""


def write_clip(folder: Path, texts: list[str], seed: int, layers: int) -> None:
    """Writes two towers with this many blocks, random weights, and their own vocabulary."""
    folder.mkdir()
    size = train_tokenizer(texts, 560, folder / "tokenizer.json")
    config = ClipConfig(
        image_size=(32, 16),
        patch_size=8,
        vision_width=16,
        vision_layers=layers,
        vision_heads=1,
        vision_mlp=32,
        text_width=16,
        text_layers=layers,
        text_heads=1,
        text_mlp=32,
        context_length=24,
        vocab_size=size,
        embed_dim=8,
        eot_id=size - 1,
    )
    variables = jax.jit(clip.build(config, zero_shot(), "float32")["init"])(jax.random.key(seed))
    save_clip(folder, config, jax.tree.map(np.asarray, variables["params"]))


def write_all(root: Path) -> None:
    """Writes `clip`, `other_clip`, `deep_clip`, `siglip`, `data`, and copies of it that differ.

    `small` has half of the training split, `broken` an image that cannot be read, `leaky` one person in two
    splits.
    """
    conftest._write_data(root / "data")
    entries = json.loads((root / "data" / "reid_raw.json").read_text())
    texts = [caption for entry in entries for caption in entry["captions"]]
    for seed, (name, layers) in enumerate({"clip": 2, "other_clip": 2, "deep_clip": 4}.items()):
        write_clip(root / name, texts, seed + 10, layers)
    write_siglip(root / "siglip")
    train_rows = [entry for entry in entries if entry["split"] == "train"]
    rest = [entry for entry in entries if entry["split"] != "train"]
    leaky = [{**rest[0], "id": train_rows[0]["id"]}, *rest[1:]]
    broken = [{**train_rows[0], "file_path": "broken.jpg"}, *train_rows[1:]]
    copies = {"small": train_rows[:12] + rest, "broken": broken + rest, "leaky": train_rows + leaky}
    for name, copy in copies.items():
        (root / name).mkdir()
        (root / name / "imgs").symlink_to(root / "data" / "imgs")
        (root / name / "reid_raw.json").write_text(json.dumps(copy))
    (root / "data" / "imgs" / "broken.jpg").write_bytes(b"no picture")
    # Annotations of two other benchmarks: one has fewer photos, one trains on a test photo.
    (root / "data" / "ICFG-PEDES.json").write_text(json.dumps(train_rows[:12] + rest))
    tested = next(entry for entry in rest if entry["split"] == "test")
    tested = [{**tested, "split": "train", "img_path": tested["file_path"]}]
    (root / "data" / "data_captions.json").write_text(json.dumps(tested))


class Runs:
    """Runs of variants of one small config."""

    def __init__(self, root: Path):
        self.root = root
        self.kept = {}

    def config(self, changes=()):
        """Returns the small config with changes by flattened key."""
        config = config_lib.base()
        config.method = {"name": "parallel_adapter", "reduction": 8, "scales": (1.0, 1.0)}
        plain = {
            "backbone": str(self.root / "clip"),
            "data_dir": str(self.root / "data"),
            "image_size": (32, 16),
            "pad": 2,
            "batch_size": 8,
            "eval_batch_size": 8,
            "num_epochs": 4,
            "eval_every": 0,
            "checkpoint_every": 100,
            "log_every": 1,
            "dtype": "float32",
            "losses.id": 1.0,
            "optimizer.schedule": "constant",
            "optimizer.warmup_epochs": 0.0,
        }
        config.update_from_flattened_dict(plain)
        for key, value in dict(changes).items():
            *parents, last = key.split(".")
            holder = config
            for parent in parents:
                holder = holder[parent]
            with config.ignore_type():
                holder[last] = value
        config_lib.check(config)
        return config

    def base_run(self, config=None) -> Run:
        """Returns the result of `prepare` for the small config, computed once, with another config in it."""
        if "run" not in self.kept:
            self.kept["run"] = prepare(self.config())
        run = self.kept["run"]
        trainable = jax.tree.map(np.asarray, run.trainable)
        return dataclasses.replace(run, config=config or run.config, trainable=trainable)

    def run(self, config, anew: bool, loop: bool = False, patches=()) -> SimpleNamespace:
        """Runs `train` until the step is compiled; with `loop`, to its end, with a step that only counts.

        With `anew` the run prepares itself; otherwise it reuses the prepared run of the small config.
        `patches` are (object, name, value). Returns the objects of the run, `printed`, and for a complete run
        `rows` (metrics.jsonl), `saved` (the steps of its checkpoints) and `results`.
        """
        seen = SimpleNamespace(saved=[])
        train_input, make_optimizer = pipeline.train_input, setup.make_optimizer
        jit_train_step = train.step.jit_train_step

        def kept_run(config):
            seen.run = prepare(config) if anew else self.base_run(config)
            seen.trainable = jax.tree.map(np.asarray, seen.run.trainable)
            return seen.run

        def kept_input(*arguments, **settings):
            seen.batches = train_input(*arguments, **settings)
            return seen.batches

        def kept_optimizer(*arguments):
            seen.rate, optimizer = make_optimizer(*arguments)
            return seen.rate, optimizer

        def kept_step(model, optimizer, weights, scale, *arguments, **settings):
            seen.model, seen.optimizer, seen.weights, seen.scale = model, optimizer, weights, scale
            return jit_train_step(model, optimizer, weights, scale, *arguments, **settings)

        def compiled_ahead(update, *arguments):
            seen.update, seen.arguments = update, arguments
            if not loop:
                raise Stop
            return count

        def count(state, frozen, batch):
            state = state._replace(step=state.step + 1)
            return state, {"loss": 1.0, "grad_norm": 1.0, "bad_step": -1}

        def kept_save(manager, step, state, notes):
            seen.saved.append((manager.directory.name, step))

        def score_split(evaluator, variables, split, encoders=None):
            return SCORES, {}

        with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
            patch.setattr(train, "prepare", kept_run)
            patch.setattr(pipeline, "train_input", kept_input)
            patch.setattr(setup, "make_optimizer", kept_optimizer)
            patch.setattr(train.step, "jit_train_step", kept_step)
            patch.setattr(train.step, "compile_in_background", compiled_ahead)
            patch.setattr(train.checkpoint, "save", kept_save)
            if loop:
                patch.setattr(Evaluator, "score_split", score_split)
                patch.setattr(train.evaluate, "examples", lambda *_, **__: [])
                patch.setattr(train.report, "write_report", lambda *_, **__: None)
                patch.setattr(results, "write_model", lambda *_: None)
            for holder, name, value in patches:
                patch.setattr(holder, name, value)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.suppress(Stop):
                seen.results = train.train(config, Path(folder) / "run")
            seen.printed = printed.getvalue()
            logged = Path(folder) / "run" / "metrics.jsonl"
            seen.rows = [json.loads(line) for line in logged.read_text().splitlines()] if loop else []
        return seen

    def first_batch(self, config, anew=False) -> dict:
        """Returns the first batch of the run."""
        return next(self.run(config, anew).batches(0))

    def metrics(self, config, anew=False) -> dict:
        """Computes the loss and its terms on the run's first batch, with the run's own arguments."""
        seen = self.run(config, anew)
        # What the model is built from: runs of equal models share a program, in whatever order tests run.
        model = "forward", repr((seen.run.clip_config, seen.run.method, seen.run.heads, config.dtype))
        if model not in self.kept:

            def forward(weights, scale, *arguments):
                return objective(seen.model, weights, scale, *arguments)[1]

            self.kept[model] = jax.jit(forward)
        state, frozen, batch = seen.arguments
        return jax.device_get(self.kept[model](seen.weights, seen.scale, state.trainable, frozen, batch))


def paths(tree) -> dict[str, np.ndarray]:
    """Returns each leaf by its path."""
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}
