"""What a run amounts to: scores of its states, results.json, and the words at the end."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from tpr_jax.config import defaults as config_lib
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.methods import zero_shot
from tpr_jax.perf import memory
from tpr_jax.train import checkpoint, evaluate, step, writer
from tpr_jax.train.setup import count, make_optimizer, prepare
from tpr_jax.utils.files import remove_leftovers, write_json
from tpr_jax.utils.notices import say_once
from tpr_jax.utils.trees import merge
from tpr_jax.weights.save_adapter import check_save_folder, is_plain_clip, save_adapter


def score_split(parts: dict, config: ConfigDict, encoders, variables, split: str) -> tuple[dict, dict]:
    """(metrics, encoded split)."""
    encoded = evaluate.encode_split(
        encoders,
        variables,
        parts["splits"][split],
        parts["tokenizer"],
        tuple(config.image_size),
        config.eval_batch_size,
        parts["skipped"],
        parts["mesh"],
        parts["clip_config"].eot_id,
    )
    return evaluate.score(encoded), encoded


def score_epoch(parts: dict, config: ConfigDict, variables: dict) -> dict:
    """Metrics of the splits that are scored on the way: val where there is one, test where asked for."""
    wanted, encoders = splits_on_the_way(parts, config), parts["encoders"]
    return {split: score_split(parts, config, encoders, variables, split)[0] for split in wanted}


def splits_on_the_way(parts: dict, config: ConfigDict) -> list[str]:
    """Returns the splits that `score_epoch` scores."""
    wanted = {"val": "val" in parts["splits"], "test": config.eval_test_each_time}
    return [split for split in wanted if wanted[split]]


def best_on_test(history: Sequence[dict]) -> dict | None:
    """What most papers report: of the rows of metrics.jsonl the first with the highest R@1 on test itself.

    None where the run did not score test on the way.
    """
    scored = [row for row in history if "test" in row]
    if not scored:
        return None
    best = max(scored, key=lambda row: row["test"]["t2i"]["R1"])
    note = (
        f"the best of {len(scored)} epochs, chosen on the test split itself as most publications do: "
        "it flatters"
    )
    return {"epoch": best["epoch"], "test": best["test"], "note": note}


def score_zero_shot(parts: dict, config: ConfigDict) -> dict:
    """Metrics of CLIP as it came, on the test split."""
    model = clip.build(parts["clip_config"], zero_shot(), config.dtype)
    params = merge(parts["frozen"], parts["trainable"])["params"]
    return score_split(parts, config, step.jit_encoders(model, parts["mesh"]), {"params": params}, "test")[0]


def restore_best(config: ConfigDict, workdir: Path, parts: dict) -> tuple[dict, dict]:
    """(state, where it is from): the best checkpoint, else the newest, else the state before training."""
    facts = backbone_facts(parts)
    # Only the form of its state is needed, which no rate and no length of an epoch changes.
    _, optimizer = make_optimizer(config, parts["trainable"], per_epoch=1)
    state = sharding.shard_params(parts["mesh"], step.init_state(optimizer, parts["trainable"]))
    for name in ("best", "latest"):
        folder = workdir / "checkpoints" / name
        if not folder.is_dir():
            continue
        try:
            found = checkpoint.restore_newest(checkpoint.open_manager(folder, keep=2), state)
        except UserError as error:
            if name == "latest":
                raise
            print(f"{error}; going on with the newest state instead")
            continue
        if found is not None:
            for unreadable in found[3]:
                print(f"checkpoint {unreadable} in {folder} cannot be read: fell back to step {found[0]}")
            check_backbone(found[2].get("backbone"), facts, workdir)
            return found[1], {"checkpoint": name, "step": found[0]}
    return state, {"checkpoint": None, "step": 0}


def evaluate_run(config: ConfigDict, workdir: Path) -> dict:
    """Scores the best state of a run (the newest where none was kept) on val and test; trains nothing.

    Without checkpoints in `workdir` the model is scored as it starts. Writes and returns eval.json.
    """
    defaults = config_lib.to_plain(config_lib.base())
    writer.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME, defaults)
    if processes.is_first():
        remove_leftovers(workdir, ["eval.json"])
    parts = prepare(config, to_train=False)
    state, scored = restore_best(config, workdir, parts)
    facts = {"backbone": backbone_facts(parts)}
    scored = {"method": config.method.name, "dataset": config.dataset, **facts, **params_of(parts), **scored}
    print(f"scoring {scored['checkpoint'] or 'the initial weights'} (step {scored['step']})")
    for split in ("val", "test"):
        if split in parts["splits"]:
            variables = merge(parts["frozen"], state["trainable"])
            scored[split], _ = score_split(parts, config, parts["encoders"], variables, split)
            print(f"{split}: {format_scores(scored[split])}")
    scored |= data_summary(parts) | memory.peaks({})
    if processes.is_first():
        write_json(workdir / "eval.json", scored)
    print(f"written: {workdir / 'eval.json'}")
    return scored


def final_results(config, parts, state, best, notes, variables, done, spent, history) -> tuple:
    """(results.json, the encoded test split of the last state, the best state on val or else the last)."""
    final = {}
    test, encoded = score_split(parts, config, parts["encoders"], variables(state), "test")
    if last_val := [row["val"] for row in history if "val" in row][-1:]:
        final["val"] = last_val[0]
    final["test"] = test
    best_on_val = None
    try:
        found = checkpoint.restore_newest(best, state)
    except UserError as error:  # not worth losing the results for
        found = None
        print(f"{error}; the results are without it")
    if found is not None:
        scored, _ = score_split(parts, config, parts["encoders"], variables(found[1]), "test")
        best_on_val = {"epoch": found[2]["best_epoch"], "test": scored}
    results = {
        "method": config.method.name,
        "dataset": config.dataset,
        "backbone": notes.get("backbone"),
        **params_of(parts),
        "steps": done,
        "seconds": spent(),
        "zero_shot": {"test": notes["zero_shot"]},
        "final": final,
        "best_on_val": best_on_val,
        "best_on_test": best_on_test(history),
        **data_summary(parts),
        **memory.peaks(notes),
    }
    return results, encoded, found[1] if found else state


def data_summary(parts: dict) -> dict:
    """`data`: what the splits hold; `skipped`: the pictures that could not be read, if those were skipped."""
    skipped = parts["skipped"]
    if skipped is None:
        return {"data": parts["data"]}
    for name, why in sorted(skipped.items()):
        print(f"skipped: {why if why.startswith(name) else f'{name}: {why}'}")
    print(f"{len(skipped)} pictures skipped")
    listed = {"count": len(skipped), "pictures": dict(sorted(skipped.items()))}
    return {"data": parts["data"], "skipped": listed}


def check_model_place(config: ConfigDict, workdir: Path, parts: dict) -> None:
    """Raises a UserError where `write_model` could not write at the end: better now than after training."""
    base = None if config.from_scratch else parts["backbone"]
    plain = is_plain_clip(parts["method"], merge(parts["frozen"], parts["trainable"]), base)
    check_save_folder(workdir / "model", plain, base)


def write_model(config: ConfigDict, workdir: Path, parts: dict, trainable: dict, results: dict) -> None:
    """Writes the trained model to `workdir/model`, where `from_pretrained` reads it."""
    # Weights drawn anew are to be found nowhere else.
    base = None if config.from_scratch else parts["backbone"]
    save_adapter(
        workdir / "model",
        parts["clip_config"],
        parts["method"],
        merge(parts["frozen"], trainable),
        backbone=base,
        tokenizer=parts["tokenizer"],
        results=results,
        training=config_lib.to_plain(config),
    )


def backbone_facts(parts: dict) -> dict:
    """What a run used of its backbone beside the weights, as JSON has it.

    `revision` is the commit of a hub id, None for a folder.
    """
    base, c = parts["backbone"], parts["clip_config"]
    image = {"image_mean": list(c.image_mean), "image_std": list(c.image_std)}
    heads = [c.vision_heads, c.text_heads]
    return {"name": base.name, "revision": base.revision, **image, "act": c.act, "heads": heads}


def check_backbone(before: dict | None, now: dict, workdir: Path) -> None:
    """Compares what a run's checkpoints were trained with (None in old ones) with what is there now.

    Raises:
      UserError: the backbone's folder now says another mean, std, activation or number of heads.
    """
    for key in ("image_mean", "image_std", "act", "heads"):
        if before and before.get(key) != now[key]:
            raise UserError(
                f"--workdir {workdir}: was trained with {key}={before.get(key)} of the backbone, and "
                f"{now['name']} now says {now[key]}: restore its files, or choose another --workdir"
            )
    if before and before.get("revision") != now["revision"]:
        was = before.get("revision") or "another place"
        say_once(
            f"{workdir} was trained on {before['name']} at {was}, now it is "
            f"{now['revision'] or now['name']}; a new run stays with one by config.backbone=NAME@COMMIT"
        )


def params_of(parts: dict) -> dict[str, int]:
    """How many numbers are trained, and how many there are."""
    trainable = count(parts["trainable"])
    return {"trainable_params": trainable, "total_params": trainable + count(parts["frozen"])}


def print_summary(results: dict, workdir: Path) -> None:
    """The test split before and after, where everything is, and what to try next."""
    share = 100 * results["trainable_params"] / results["total_params"]
    print(
        f"\n{results['method']} on {results['dataset']}: {results['steps']} steps in "
        f"{results['seconds']:.0f} s, "
        f"{results['trainable_params']:,} of {results['total_params']:,} parameters trained ({share:.1f} %)"
    )
    print(f"test, text to image, before:       {format_scores(results['zero_shot']['test'])}")
    print(f"test, text to image, last epoch:   {format_scores(results['final']['test'])}")
    for split, what in (("val", ""), ("test", "  (chosen on test, as most papers do)")):
        if best := results[f"best_on_{split}"]:
            label = f"test, best epoch on {split} ({best['epoch']:>3}):"
            print(f"{label:<35}{format_scores(best['test'])}{what}")
    print(
        f"\nwritten to {workdir}: report.html, report.png, results.json, metrics.jsonl, checkpoints/, model/"
    )
    print(f"use:   tpr_jax.from_pretrained('{workdir}/model')")
    print(f"look:  open {workdir}/report.html in a browser")
    print(
        "next:  python -m tpr_jax.main --config configs/parallel_adapter.py --workdir runs/parallel_adapter"
    )


def format_scores(scored: dict) -> str:
    return "  ".join(f"{key} {value:.2f}" for key, value in scored["t2i"].items())
