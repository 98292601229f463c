"""Every key of the config changes a run as its row states; none is ignored.

A row has the key, two values, a function that observes a run with each value, and the expected observations.
A key without a row fails, so that each new key gets a row.
"""

import dataclasses
import io
import json
import math
import re
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from tests import conftest
from tests.key_runs import PAIRS, PER_EPOCH, SCORES, Runs, paths, write_all
from tpr_jax import main
from tpr_jax.config import defaults as config_lib
from tpr_jax.data.images.read import read_resized
from tpr_jax.data.records import caption_pairs
from tpr_jax.distributed import sharding
from tpr_jax.errors import UserError
from tpr_jax.losses import NAMES as LOSSES
from tpr_jax.model import from_pretrained
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD
from tpr_jax.perf import chips, flops
from tpr_jax.train import eval_run, evaluate, loop, results
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.train.objective import compute_losses
from tpr_jax.train.state import TrainState
from tpr_jax.weights.clip import load_clip


@dataclass(frozen=True)
class Row:
    """One effect of one key: for the two `values`, `look(runs, config)` returns the two of `expected`.

    `expected` may be a function of (runs, config, value) instead. `given` are further changes of the config.
    """

    key: str
    values: tuple
    look: object
    expected: object
    given: dict = field(default_factory=dict)


# Observations of a run


def order(runs, config):
    return runs.first_batch(config)["index"].tolist()


def drawn(runs, config):
    """Returns whether the parts start as those of seed 0."""
    ours, base = (paths(run.trainable) for run in (loop.prepare(config), runs.base_run()))
    return all(np.array_equal(ours[path], base[path]) for path in base)


def rates(*steps):
    return lambda runs, config: [float(runs.run(config, anew=False).rate(step)) for step in steps]


def updates(runs, config):
    """Returns the second update of each leaf, for random gradients."""
    seen = runs.run(config, anew=False)
    weights, state = seen.trainable, seen.optimizer.init(seen.trainable)
    for gradient in gradients(weights):
        update, state = seen.optimizer.update(gradient, state, weights)
    return paths(update)


def gradients(weights) -> list:
    rng = np.random.default_rng(0)
    draw = lambda leaf: (1e-3 * rng.normal(size=np.shape(leaf))).astype(np.float32)  # noqa: E731
    return [jax.tree.map(draw, weights) for _ in range(2)]


def averaged(runs, config):
    """Returns the weights that are scored after two updates."""
    seen = runs.run(config, anew=False)
    weights, state = seen.trainable, seen.optimizer.init(seen.trainable)
    for gradient in gradients(weights):
        update, state = seen.optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, update)
    return paths(TrainState(weights, state, jnp.int32(2), jnp.int32(-1)).averaged)


def average_by_hand(runs, config, value) -> dict:
    """Computes the same: the first update keeps a tenth of the first weights, the second `value`."""
    seen = runs.run(config, anew=False)
    weights, state = seen.trainable, seen.optimizer.init(seen.trainable)
    states = [paths(weights)]
    for gradient in gradients(weights):
        update, state = seen.optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, update)
        states.append(paths(weights))
    if not value:
        return states[2]
    return {
        path: value * (0.1 * states[0][path] + 0.9 * states[1][path]) + (1 - value) * states[2][path]
        for path in states[0]
    }


def adam_by_hand(runs, config, value) -> dict:
    """Computes the same in NumPy: PyTorch's Adam with L2 decay and the recipe's groups, constant rate."""
    c, weights = config.optimizer, runs.base_run().trainable
    both = [paths(gradient) for gradient in gradients(weights)]
    found = {}
    for path, weight in paths(weights).items():
        bias = path.endswith("/bias")
        decay = 0.0 if bias else c.weight_decay
        factor = c.head_lr_factor if path.startswith("head/") else c.bias_lr_factor if bias else 1.0
        factor *= c.block_lr_decay if "/block_0/" in path else 1.0  # each tower has two blocks
        mean = square = np.zeros(weight.shape)
        for gradient in both:
            norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradient.values()))
            clipped = gradient[path] * (min(1.0, c.clip_norm / norm) if c.clip_norm else 1.0)
            g = clipped + decay * weight.astype(np.float64)
            mean, square = c.b1 * mean + (1 - c.b1) * g, c.b2 * square + (1 - c.b2) * g * g
        mean, square = mean / (1 - c.b1**2), square / (1 - c.b2**2)
        found[path] = -c.lr * factor * mean / (np.sqrt(square) + c.eps)
    return found


def logged(runs, config):
    return [row["step"] for row in runs.run(config, False, loop=True).rows if "loss" in row]


def last_logged(runs, config):
    return logged(runs, config)[-1]


def logged_rates(runs, config):
    return [row["lr"] for row in runs.run(config, False, loop=True).rows if "loss" in row][:3]


def scored(runs, config):
    """Returns the steps at which splits were scored, and which splits."""
    rows = [row for row in runs.run(config, False, loop=True).rows if "loss" not in row]
    return [(row["step"], sorted(row.keys() & {"val", "test"})) for row in rows]


def saved(runs, config):
    return [step for folder, step in runs.run(config, False, loop=True).saved if folder == "latest"]


def examples_a_step(runs, config):
    row = runs.run(config, False, loop=True).rows[0]
    return row["examples_per_second"] * row["step_seconds"]


def products_a_step(runs, config):
    row = runs.run(config, False, loop=True).rows[0]
    return row["model_flops_per_second"] * row["step_seconds"]


def counted_products(runs, config, value):
    """Returns the count of `flops` for a step with this many examples."""
    run = runs.base_run()
    sizes = run.clip_config, run.method, value, {"sdm": 1.0, "id": 1.0}, run.heads
    return float(flops.total(flops.train_step(*sizes))["total"])


def profiled(runs, config):
    """Returns the calls of JAX's profiler."""
    calls = []
    patches = [
        (jax.profiler, "start_trace", lambda folder: calls.append(Path(folder).name)),
        (jax.profiler, "stop_trace", lambda: calls.append("stopped")),
    ]
    runs.run(config, False, loop=True, patches=patches)
    return calls


def notes_milestones(runs, config):
    return "config.optimizer.milestones=" in runs.run(config, anew=False).printed


def peaks_asked(runs, config):
    """Returns the types whose peak the log's `peak_share` refers to."""
    asked = []
    runs.run(config, False, loop=True, patches=[(chips, "peak", lambda kind, dtype: asked.append(dtype))])
    return set(asked)


def programs(runs, config) -> str:
    """Returns the train step of the run as traced by JAX."""
    seen = runs.run(config, anew=True)
    return str(seen.update.trace(*seen.arguments).jaxpr)


def loops(runs, config):
    """Returns the lengths of the step's loops."""
    return sorted(set(map(int, re.findall(r"\blength=(\d+)", programs(runs, config)))))


def remade(runs, config):
    """Returns what the blocks save; None if they save everything."""
    found = re.search(r"policy=(?:<function )?([\w.]+)", programs(runs, config))
    return found and ("save_only_these_names" in found[0] or "nothing_saveable" not in found[0])


def has_bfloat16(runs, config):
    """Returns (whether the towers compute in bfloat16, whether frozen weights have that type)."""
    run = loop.prepare(config)
    text = jax.make_jaxpr(run.model["encode_text"])(
        runs.base_run().frozen | run.trainable, jnp.zeros((1, 24), jnp.int32)
    )
    return "bf16" in str(text), run.frozen["params"]["text"]["proj"].dtype == jnp.bfloat16


def zero_shot_in_bfloat16(runs, config):
    """Returns the same for the encoders that score zero-shot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.step, "jit_encoders", lambda model, mesh, dtype: model["encode_text"])
        patch.setattr(Evaluator, "score_split", lambda self, variables, split, encode: [{"encode": encode}])
        run = runs.base_run(config)
        encode = Evaluator(run).score_zero_shot()["encode"]
    return "bf16" in str(jax.make_jaxpr(encode)(run.frozen, jnp.zeros((1, 24), jnp.int32)))


def prepared(look):
    """Returns the observation of `look` on the prepared run."""
    return lambda runs, config: look(loop.prepare(config))


def printed(runs, config):
    out = io.StringIO()
    with redirect_stdout(out):
        loop.prepare(config)
    return out.getvalue()


def error_of(call) -> str:
    """Returns the key that an error names; None without an error."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def refused(*words):
    """Returns which of the words are in the error of a run that does not start."""

    def look(runs, config):
        error = error_of(lambda: runs.run(config, anew=True))
        return [word for word in words if word in error]

    return look


def tokens(runs, config):
    return runs.first_batch(config, anew=True)["ids"].shape


def context_or_error(runs, config):
    """Returns the context length of the text tower, or the first words of the error."""
    found = []
    error = error_of(lambda: found.append(loop.prepare(config).clip_config.context_length))
    return found[0] if found else error.partition(" tokens")[0]


def pictures(runs, config):
    return runs.first_batch(config)["image"].shape


def rows_shared_out(runs, config):
    """Returns how many rows of a batch are divided among the processes."""
    asked, process_shard = [], sharding.process_shard

    def kept_shard(mesh, rows):
        asked.append(rows)
        return process_shard(mesh, rows)

    runs.run(config, anew=False, patches=[(sharding, "process_shard", kept_shard)])
    return asked


def encoded(runs, config):
    """Returns the shapes of the images that an evaluation encodes."""
    run, shapes = runs.base_run(config), set()

    def encoder(variables, rows):
        shapes.add(rows.shape)
        return np.ones((len(rows), 2), np.float32)

    encoders = encoder, lambda variables, ids: encoder(variables, ids[:, :0])
    Evaluator(run).score_split({}, "test", encoders)
    return {shape for shape in shapes if len(shape) == 4}


def has_black_border(runs, config):
    """Returns whether an image of the first batches has an edge of zeros, which no image of the data has."""
    seen, found = runs.run(config, anew=False), False
    for _, batch in zip(range(3), seen.batches(0), strict=False):
        edges = (
            batch["image"][:, 0],
            batch["image"][:, -1],
            batch["image"][:, :, 0],
            batch["image"][:, :, -1],
        )
        found |= any((edge == 0).all((1, 2)).any() for edge in edges)
    return bool(found)


def are_as_they_are(runs, config):
    """Returns whether the images of the first batch are those of the folder, resized."""
    batch, records = runs.first_batch(config), runs.base_run().splits["train"]
    files = [records.image_paths[i] for i in caption_pairs(records)[0][batch["index"]]]
    return bool((np.stack([read_resized(file, (32, 16)) for file in files]) == batch["image"]).all())


def has_masks(runs, config):
    return bool((runs.first_batch(config)["ids"] == runs.base_run().tokenizer.mask_id).any())


def masked_words(runs, config):
    """Returns how many words of each caption are masked, of how many."""
    batch, mask_id = runs.first_batch(config, anew=True), runs.base_run().tokenizer.mask_id
    words = (batch["ids"] > 0) & (batch["ids"] < mask_id)
    return (batch["mlm_labels"] != 0).sum(1).tolist(), words.sum(1).tolist()


def masked_by_hand(runs, config, value):
    """Returns the same at probability 0, where one word is masked all the same, and 1."""
    words = masked_words(runs, config)[1]
    return (words if value == 1 else [1] * len(words)), words


def people_in_batch(runs, config):
    return sorted(np.unique(runs.first_batch(config)["pid"], return_counts=True)[1].tolist())


def captions_of_train(runs, config):
    return caption_pairs(loop.prepare(config).splits["train"])[1]


def told(what, *facts):
    """Returns the entry of results.json on reduced training data."""
    return lambda runs, config: [loop.prepare(config).data[what][fact] for fact in facts]


def names_of(results_of):
    """Returns the method and data set in a run's results."""
    return lambda runs, config: results_of(runs.run(config, anew=True, loop=True).results)


def evaluated(runs, config):
    """Returns the method and the data set in the eval.json of a folder without a run."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(eval_run, "prepare", lambda config, to_train: runs.base_run(config))
        patch.setattr(Evaluator, "score_split", lambda *_: (SCORES, {}))
        eval_run.evaluate_run(config, Path(folder), initial=True)
        found = json.loads((Path(folder) / "eval.json").read_text())
    return found["method"], found["dataset"]


def scaled_itc(runs, config):
    return float(runs.metrics(config)["itc"])


def distilled(runs, config):
    """Returns the weighted losses that compare with the teacher."""
    metrics = runs.metrics(config, anew=True)
    return {name: float(value) for name, value in metrics.items() if name.startswith("distill_")}


def written_backbone(runs, config):
    """Returns the backbone's name in the config.json of the run's model."""
    run, seen = dataclasses.replace(runs.base_run(config), backbone=loop.prepare(config).backbone), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "save_adapter", lambda *_, backbone, **__: seen.update(found=backbone))
        results.write_model(run, Path("unused"), {}, {})
    return seen["found"] and Path(seen["found"].name).name


def debugged(runs, config):
    """Returns the number of steps of the command line's run, and its first line."""
    file = runs.root / "plain.py"
    file.write_text("from tpr_jax.config import base\n\ndef get_config():\n    return base()\n")
    argv = ["main", "--config", str(file), "--workdir", "unused", f"--config.debug={config.debug}"]
    seen, out = [], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(loop, "train", lambda config, workdir: seen.append(config.total_steps))
        main.run(argv)
    return seen, "debug: " in out.getvalue()


# Expected observations


def permuted(runs, config, value):
    """Returns the order of epoch 0 for a seed."""
    return np.random.default_rng([config.seed, 0]).permutation(PAIRS)[:8].tolist()


def few(runs, config, value):
    """Returns the identities (1..12 of the data) that the seed draws, by the rule of `subsets`."""
    order = np.random.default_rng([value, 0, 6]).permutation(np.arange(1, 13))
    return sorted(order[:6].tolist())


def noised(runs, config, value):
    """Returns the captions with half of them shuffled among themselves."""
    before = caption_pairs(runs.base_run().splits["train"])[1]
    rng = np.random.default_rng([config.noise_seed, 0, 7])
    places = rng.permutation(PAIRS)[: round(config.noisy_fraction * PAIRS)]
    after = list(before)
    for place, source in zip(places, rng.permutation(places), strict=True):
        after[place] = before[source]
    return after


def distilled_by_hand(runs, config, value):
    """Computes the same from the features that `from_pretrained` gives for the first batch."""
    batch, feats = runs.first_batch(config, anew=True), {}
    for who, name in (("ours", config.backbone), ("theirs", config.distill.teacher)):
        model = from_pretrained(name)
        texts = np.asarray(model.encoders[1](model.inference_variables, batch["ids"]), np.float64)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        feats[who] = model.encode_images(list(batch["image"])), texts
    (images, texts), (teacher_images, teacher_texts) = feats["ours"], feats["theirs"]
    distance = sum(1 - (a * b).sum(1).mean() for a, b in zip(feats["ours"], feats["theirs"], strict=True))
    found = {"distill_feats": config.distill.feats * distance}
    scores = [50 * x @ y.T for x, y in ((texts, images), (teacher_texts, teacher_images))]
    divergence = 0.0
    for ours, theirs in (scores, (scores[0].T, scores[1].T)):
        log_p, log_q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (ours, theirs))
        divergence += (np.exp(log_q) * (log_q - log_p)).sum(1).mean()
    found["distill_scores"] = config.distill.scores * divergence
    return {name: float(value) for name, value in found.items() if config.distill[name[8:]]}


def itc_of_sizes(runs, config, value):
    """Returns the mean of CLIP's loss of the features and of the first numbers of them."""
    return float(np.mean([itc_by_hand(runs, config, config.temperature, size) for size in (*value, None)]))


def itc_by_hand(runs, config, value, size=None):
    """Computes CLIP's loss of the first batch at the temperature from the features of the towers."""
    seen = runs.run(config, anew=False)
    variables, batch = seen.run.frozen | seen.trainable, seen.arguments[2]
    model = seen.run.model
    image, text = (
        np.asarray(jax.jit(model[f"encode_{what}"])(variables, batch[key])[0], np.float64)
        for what, key in (("image", "image"), ("text", "ids"))
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image[:, :size], text[:, :size])]
    logits = unit[0] @ unit[1].T / value
    terms = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (logits, logits.T)]
    return float(np.mean(terms)) * config.losses.itc


def sigmoid_of_run(runs, config):
    """Returns both features of the first batch, its pids and the loss 'sigmoid' with the run's settings."""
    seen = runs.run(config, anew=True)
    variables, batch = seen.run.frozen | seen.trainable, seen.arguments[2]
    feats = {
        what: jax.jit(seen.model[f"encode_{what}"])(variables, batch[key])[0]
        for what, key in (("image", "image"), ("text", "ids"))
    }
    features = {**feats, "routing": {"visual": [], "text": []}}
    metrics = compute_losses({"sigmoid": 1.0}, seen.scale, {}, features, batch)[1]
    return feats["image"], feats["text"], batch["pid"], metrics["sigmoid"]


def sigmoid_loss(runs, config):
    return float(sigmoid_of_run(runs, config)[-1])


def sigmoid_by_hand(runs, config, value):
    """Computes the loss with the slope and offset of the paper, or of the golden SigLIP's own weights."""
    image, text, pids, _ = sigmoid_of_run(runs, config)
    slope, offset = {"paper": (10, -10), "backbone": (np.exp(2.30078125), -6.5)}[value]
    unit = [np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    logits = slope * unit[0] @ unit[1].T + offset
    sign = np.where(np.asarray(pids)[:, None] == np.asarray(pids), 1, -1)
    return float(np.log1p(np.exp(-sign * logits)).sum() / len(pids))


def proj_of_backbone(runs, config, value):
    return load_clip(value)[1]["text"]["proj"]


FOLDER = "{root}/"  # of what `write_all` wrote; filled in for each run
LINEAR = {"optimizer.schedule": "linear"}
LR = 3e-4
OTHER = {"distill.teacher": FOLDER + "other_clip"}
MASKED = {"losses.mlm": 1.0, "mask_text": False}
SHORT = {"num_epochs": 1}

TABLE = (
    Row("seed", (0, 5), order, permuted),
    Row("seed", (0, 5), drawn, (True, False)),
    Row("debug", (False, True), debugged, (([0], False), ([4], True))),
    Row(
        "method.name",
        ("bitfit", "prefix"),
        prepared(lambda run: sorted(run.trainable)),
        (["head", "params"], ["head", "prefix"]),
    ),
    Row(
        "method.name",
        ("bitfit", "prefix"),
        names_of(lambda found: found["method"]),
        ("bitfit", "prefix"),
        {"num_epochs": 1},
    ),
    Row(
        "method.name",
        ("bitfit", "prefix"),
        evaluated,
        (("bitfit", "cuhk_pedes"), ("prefix", "cuhk_pedes")),
    ),
    Row(
        "dataset",
        ("cuhk_pedes", "icfg_pedes"),
        evaluated,
        (("parallel_adapter", "cuhk_pedes"), ("parallel_adapter", "icfg_pedes")),
    ),
    Row(
        "backbone",
        (FOLDER + "clip", FOLDER + "other_clip"),
        prepared(lambda run: np.asarray(run.frozen["params"]["text"]["proj"])),
        proj_of_backbone,
    ),
    Row("backbone", (FOLDER + "clip", FOLDER + "other_clip"), written_backbone, ("clip", "other_clip")),
    Row(
        "backbone_act",
        ("quick_gelu", "gelu"),
        prepared(lambda run: run.clip_config.act),
        ("quick_gelu", "gelu"),
    ),
    Row(
        "backbone_heads",
        ((1, 2), (2, 1)),
        prepared(lambda run: (run.clip_config.vision_heads, run.clip_config.text_heads)),
        ((1, 2), (2, 1)),
    ),
    Row(
        "backbone_mean",
        ((), (0.1, 0.2, 0.3)),
        prepared(lambda run: run.clip_config.image_mean),
        (IMAGE_MEAN, (0.1, 0.2, 0.3)),
    ),
    Row(
        "backbone_std",
        ((), (0.4, 0.5, 0.6)),
        prepared(lambda run: run.clip_config.image_std),
        (IMAGE_STD, (0.4, 0.5, 0.6)),
    ),
    Row("from_scratch", (False, True), written_backbone, ("clip", None)),
    Row(
        "from_scratch",
        (False, True),
        lambda runs, config: bool(
            np.array_equal(
                loop.prepare(config).frozen["params"]["text"]["proj"],
                load_clip(config.backbone)[1]["text"]["proj"],
            )
        ),
        (True, False),
    ),
    Row(
        "dataset",
        ("cuhk_pedes", "icfg_pedes"),
        prepared(lambda run: len(run.splits["train"].pids)),
        (24, 12),
    ),
    Row(
        "dataset",
        ("cuhk_pedes", "icfg_pedes"),
        names_of(lambda found: (found["dataset"], found["data"]["subset"][0].split()[0])),
        lambda runs, config, value: (value, "train"),
        SHORT | {"method": {"name": "linear_probe"}},
    ),
    Row(
        "data_dir",
        (FOLDER + "data", FOLDER + "small"),
        prepared(lambda run: len(run.splits["train"].pids)),
        (24, 12),
    ),
    Row(
        "data_dir",
        (FOLDER + "data", FOLDER + "leaky"),
        refused("/leaky: 1 identity"),
        ([], ["/leaky: 1 identity"]),
    ),
    Row(
        "dataset",
        ("cuhk_pedes", "icfg_pedes"),
        prepared(lambda run: re.findall(r"officially ([\d,]+) identities", run.data["subset"][0])),
        (["11,003"], ["3,102"]),  # of the papers' tables
    ),
    Row("source", ("files", "tfds_sized"), refused("prepared records"), ([], ["prepared records"])),
    Row(
        "mix",
        ((), (("cuhk_pedes", FOLDER + "small", 1.0),)),
        prepared(lambda run: (len(run.splits["train"].pids), run.heads.num_classes)),
        ((24, 12), (36, 18)),
    ),
    Row(
        "mix",
        ((), (("rstp_reid", FOLDER + "data", 1.0),)),
        refused("1 photo is in two splits"),
        ([], ["1 photo is in two splits"]),
    ),
    Row(
        "sampler",
        ("random", "identity"),
        people_in_batch,
        lambda runs, config, value: {
            "identity": [4, 4],
            "random": sorted(
                np.unique(np.array(permuted(runs, config, 0)) // 4, return_counts=True)[1].tolist()
            ),
        }[value],
    ),
    Row("instances_per_identity", (4, 2), people_in_batch, ([4, 4], [2, 2, 2, 2]), {"sampler": "identity"}),
    Row(
        "captions_per_image",
        (1, 2),
        lambda runs, config: list(runs.first_batch(config)["ids"].shape[1:-1]),
        ([], [2]),
    ),
    Row(
        "patch_dropout",
        (0.0, 0.25),
        lambda runs, config: [
            array.shape for key, array in runs.first_batch(config).items() if key == "patches"
        ],
        ([], [(8, 6)]),  # of the eight patches of 16 x 32 pixels
    ),
    Row("few_shot", (0.0, 0.5), prepared(lambda run: len(set(run.splits["train"].pids))), (12, 6)),
    Row(
        "few_shot_seed",
        (0, 1),
        prepared(lambda run: sorted(set(run.splits["train"].pids.tolist()))),
        few,
        {"few_shot": 0.5},
    ),
    Row("few_shot", (0.25, 0.5), told("few_shot", "fraction", "identities"), ([0.25, 3], [0.5, 6])),
    Row("few_shot_seed", (0, 1), told("few_shot", "seed"), ([0], [1]), {"few_shot": 0.5}),
    Row("noisy_fraction", (0.25, 0.5), told("noisy", "fraction", "captions"), ([0.25, 12], [0.5, 24])),
    Row("noise_seed", (0, 1), told("noisy", "seed"), ([0], [1]), {"noisy_fraction": 0.5}),
    Row("noisy_fraction", (0.0, 0.5), captions_of_train, noised),
    Row("noise_seed", (0, 1), captions_of_train, noised, {"noisy_fraction": 0.5}),
    Row(
        "on_bad_image",
        ("error", "skip"),
        refused("broken.jpg"),
        (["broken.jpg"], []),
        {"data_dir": FOLDER + "broken"},
    ),
    Row(
        "on_leak",
        ("error", "warn"),
        refused("in two splits", "on_leak=warn"),
        (["in two splits", "on_leak=warn"], []),
        {"data_dir": FOLDER + "leaky"},
    ),
    Row("image_size", ((32, 16), (48, 24)), pictures, ((8, 32, 16, 3), (8, 48, 24, 3))),
    Row(
        "image_size",
        ((32, 16), (48, 24)),
        prepared(lambda run: np.shape(run.frozen["params"]["visual"]["positional_embedding"])),
        ((1 + 4 * 2, 16), (1 + 6 * 3, 16)),
    ),
    Row("image_size", ((32, 16), (48, 24)), encoded, ({(8, 32, 16, 3)}, {(8, 48, 24, 3)})),
    Row("text_length", (0, 12), tokens, ((8, 24), (8, 12))),
    Row(
        "stretch_text",
        (False, True),
        context_or_error,
        ("config.text_length=40 is above the 24", 40),
        {"text_length": 40},
    ),
    Row("augment", (False, True), are_as_they_are, (True, False)),
    Row("pad", (0, 8), has_black_border, (False, True)),
    Row("mask_text", (False, True), has_masks, (False, True)),
    Row("mask_probability", (0.0, 1.0), masked_words, masked_by_hand, MASKED),
    Row("batch_size", (8, 4), pictures, ((8, 32, 16, 3), (4, 32, 16, 3))),
    Row("batch_size", (8, 4), last_logged, (PER_EPOCH, 2 * PER_EPOCH), SHORT),
    Row("batch_size", (8, 4), examples_a_step, (8.0, 4.0), SHORT),
    Row("batch_size", (8, 4), products_a_step, counted_products, SHORT),
    Row("batch_size", (8, 4), rows_shared_out, ([8], [4])),
    Row(
        "batch_size",
        (8, 9),
        refused("config.batch_size=9", "config.accumulate"),
        ([], ["config.batch_size=9", "config.accumulate"]),
        {"accumulate": 2},
    ),
    Row("num_epochs", (4, 30), notes_milestones, (True, False), {"optimizer.schedule": "step"}),
    Row("optimizer.schedule", ("constant", "step"), notes_milestones, (False, True)),
    Row("eval_batch_size", (8, 5), encoded, ({(8, 32, 16, 3)}, {(5, 32, 16, 3)})),
    Row("num_epochs", (1, 2), last_logged, (PER_EPOCH, 2 * PER_EPOCH)),
    Row("num_epochs", (4, 8), rates(2 * PER_EPOCH), ([LR / 2], [LR * 3 / 4]), LINEAR),
    Row("total_steps", (0, 4), last_logged, (PER_EPOCH, 4), SHORT),
    Row(
        "eval_every",
        (1, 2),
        scored,
        ([(6, ["val"]), (12, ["val"]), (18, ["val"])], [(12, ["val"]), (18, ["val"])]),
        {"num_epochs": 3},
    ),
    Row("eval_test_each_time", (False, True), scored, ([(6, ["val"])], [(6, ["test", "val"])]), SHORT),
    Row("checkpoint_every", (2, 4), saved, ([2, 4, 6], [4, 6]), SHORT),
    Row("log_every", (1, 4), logged, ([1, 2, 3, 4, 5, 6], [4, 6]), SHORT),
    Row("profile", (False, True), profiled, ([], ["profile", "stopped"]), {"num_epochs": 3}),
    Row("dtype", ("float32", "bfloat16"), has_bfloat16, ((False, False), (True, True))),
    Row("dtype", ("float32", "bfloat16"), zero_shot_in_bfloat16, (False, True)),
    Row("dtype", ("float32", "bfloat16"), peaks_asked, ({"float32"}, {"bfloat16"}), SHORT),
    Row("mesh.data", (-1, 1024), refused("mesh.data=1024"), ([], ["mesh.data=1024"])),
    Row("mesh.model", (1, 1024), refused("mesh.model=1024"), ([], ["mesh.model=1024"])),
    Row("accumulate", (1, 4), loops, ([], [4])),
    Row("accumulate", (1, 3), refused("3 microbatches"), ([], ["3 microbatches"])),
    Row("remat", ("none", "dots"), remade, (None, True)),
    Row("remat", ("none", "block"), remade, (None, False)),
    # The two middle blocks of four are equal.
    Row("scan_layers", (False, True), loops, ([], [2]), {"backbone": FOLDER + "deep_clip"}),
    Row(
        "sigmoid_from",
        ("paper", "backbone"),
        sigmoid_loss,
        sigmoid_by_hand,
        {"losses.sigmoid": 1.0, "backbone": FOLDER + "siglip"},
    ),
    Row("temperature", (0.02, 0.5), scaled_itc, itc_by_hand, {"losses.itc": 1.0}),
    Row(
        "learn_temperature",
        (False, True),
        prepared(lambda run: [float(leaf) for leaf in run.trainable["head"].get("temperature", {}).values()]),
        ([], [math.log(1 / 0.25)]),
        {"temperature": 0.25},
    ),
    Row(
        "distill.teacher",
        (FOLDER + "other_clip", FOLDER + "deep_clip"),
        distilled,
        distilled_by_hand,
        {"distill.feats": 1.0, "distill.scores": 1.0},
    ),
    *(
        Row(f"distill.{name}", (1.0, 3.0), distilled, distilled_by_hand, OTHER)
        for name in ("feats", "scores")
    ),
    Row("matryoshka", ((), (2, 4)), scaled_itc, itc_of_sizes, {"losses.itc": 1.0}),
    Row(
        "mlm_depth",
        (1, 3),
        prepared(
            lambda run: sum(name.startswith("cross_block") for name in run.trainable["head"]["masked_words"])
        ),
        (1, 3),
        {"losses.mlm": 1.0},
    ),
    Row("losses.id", (0.0, 1.0), prepared(lambda run: run.heads.num_classes), (0, 12), {}),
    Row(
        "losses.mlm",
        (0.0, 1.0),
        lambda runs, config: sorted(runs.first_batch(config, anew=True)),
        (["ids", "image", "index", "pid"], ["ids", "image", "index", "mlm_ids", "mlm_labels", "pid"]),
    ),
    Row("optimizer.lr", (1e-3, 4e-3), rates(0), ([1e-3], [4e-3])),
    Row("optimizer.lr", (1e-3, 4e-3), logged_rates, ([1e-3] * 3, [4e-3] * 3), SHORT),
    *(
        Row(f"optimizer.{key}", values, updates, adam_by_hand)
        for key, values in {
            "lr": (3e-4, 1e-3),
            "b1": (0.9, 0.5),
            "b2": (0.999, 0.9),
            "eps": (1e-3, 1e-4),
            "weight_decay": (4e-5, 1e-2),
            "bias_lr_factor": (2.0, 3.0),
            "head_lr_factor": (5.0, 7.0),
            "clip_norm": (0.0, 1e-3),
            "block_lr_decay": (1.0, 0.5),
        }.items()
    ),
    Row("optimizer.ema_decay", (0.0, 0.125), averaged, average_by_hand),
    Row("optimizer.schedule", ("constant", "linear"), rates(2 * PER_EPOCH), ([LR], [LR / 2])),
    Row("optimizer.warmup_epochs", (0.0, 2.0), rates(PER_EPOCH), ([LR], [0.55 * LR])),
    Row(
        "optimizer.warmup_factor",
        (0.1, 0.5),
        rates(0, PER_EPOCH),
        ([0.1 * LR, 0.55 * LR], [0.5 * LR, 0.75 * LR]),
        {"optimizer.warmup_epochs": 2.0},
    ),
    Row(
        "optimizer.milestones",
        ((1,), (1, 3)),
        rates(0, PER_EPOCH, 3 * PER_EPOCH),
        ([LR, 0.1 * LR, 0.1 * LR], [LR, 0.1 * LR, 0.01 * LR]),
        {"optimizer.schedule": "step"},
    ),
    Row(
        "optimizer.milestones", ((1,), (9,)), notes_milestones, (False, True), {"optimizer.schedule": "step"}
    ),
    Row(
        "optimizer.gamma",
        (0.1, 0.5),
        rates(PER_EPOCH),
        ([0.1 * LR], [0.5 * LR]),
        {"optimizer.schedule": "step", "optimizer.milestones": (1,)},
    ),
    Row("optimizer.power", (0.81, 0.25), rates(12), ([0.9 * LR], [0.5 * LR]), {"optimizer.schedule": "poly"}),
    Row("optimizer.power", (0.81, 0.25), rates(12), ([0.9 * LR], [0.5 * LR]), {"optimizer.schedule": "exp"}),
    Row("optimizer.per_step", (False, True), rates(9), ([0.75 * LR], [0.625 * LR]), LINEAR),
)

# Each loss with the factor on its weight that must come back in its term of the loss.
FACTORS = dict(zip(LOSSES, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0), strict=True))


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(conftest.made_once(tmp_path_factory, "key_runs", write_all))


def leaves(config, prefix=""):
    for key, value in config.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [prefix + key]


def test_every_key_has_its_row():
    assert {row.key for row in TABLE} | {f"losses.{name}" for name in FACTORS} == set(
        leaves(config_lib.base())
    )
    assert set(FACTORS) == set(LOSSES)


def filled(runs, value):
    """Returns a value with the folders of the runs filled in."""
    if isinstance(value, tuple):
        return tuple(filled(runs, item) for item in value)
    return value.format(root=runs.root) if isinstance(value, str) else value


def same(found, expected) -> bool:
    """Returns whether two observations agree: numbers up to rounding, everything else exactly."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, np.ndarray | float) or (
        isinstance(expected, list) and expected and isinstance(expected[0], float)
    ):
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        return found.shape == expected.shape and np.allclose(found, expected, rtol=2e-4, atol=1e-9)
    return found == expected


def label(row: Row) -> str:
    same_key = [other for other in TABLE if other.key == row.key]
    return f"{row.key}-{same_key.index(row)}" if len(same_key) > 1 else row.key


@pytest.mark.parametrize("row", TABLE, ids=label)
def test_the_key_does_what_its_row_says(row, runs):
    expected = []
    for i, value in enumerate(filled(runs, value) for value in row.values):
        given = {key: filled(runs, other) for key, other in row.given.items()}
        method = {"method": {"name": value}} if row.key == "method.name" else {row.key: value}
        config = runs.config(given | method)
        expected.append(row.expected(runs, config, value) if callable(row.expected) else row.expected[i])
        found = row.look(runs, config)
        assert same(found, expected[i]), f"config.{row.key}={value!r}: {found} instead of {expected[i]}"
    assert not same(*expected)  # else the row would show nothing


def test_every_loss_has_its_weight(runs):
    """With all losses, each term is proportional to its weight, and the loss is their sum."""
    method = {"name": "dm_adapter", "num_experts": 2, "top_k": 1, "reduction": 8}
    found = []
    for grown in (False, True):
        weights = {f"losses.{name}": factor if grown else 1.0 for name, factor in FACTORS.items()}
        config = runs.config({"method": method, "mlm_depth": 1, **weights})
        found.append(runs.metrics(config, anew=True))
        assert found[-1]["loss"] == pytest.approx(sum(float(found[-1][name]) for name in FACTORS), rel=1e-5)
    before, after = found
    for name, factor in FACTORS.items():
        assert before[name] != 0, name
        assert float(after[name]) == pytest.approx(factor * float(before[name]), rel=1e-4), name


def test_a_loss_without_weight_is_not_in_the_step(runs):
    weights = runs.run(runs.config(), anew=False)
    metrics = weights.update.trace(*weights.arguments).out_info[1]
    assert {name for name in LOSSES if name in metrics} == {"sdm", "id"}


def test_settings_of_the_method_reach_what_is_trained(runs):
    config = runs.config({"method": {"name": "parallel_adapter", "reduction": 4, "scales": (1.0, 1.0)}})
    down = loop.prepare(config).trainable["adapter"]["text"]["block_1"]["beside_mlp"]["down"]["kernel"]
    assert down.shape == (16, 4)


def test_reports_a_leak(runs):
    config = runs.config({"data_dir": str(runs.root / "leaky"), "on_leak": "warn"})
    assert "warning: " in printed(runs, config)


def test_lists_a_bad_image(runs):
    config = runs.config({"data_dir": str(runs.root / "broken"), "on_bad_image": "skip"})
    assert [Path(name).name for name in runs.run(config, anew=True).run.skipped] == ["broken.jpg"]
