"""One run from top to bottom: mesh, data, model, weights, optimiser, loop, evaluation, saving."""

import contextlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from tpr_jax import checkpoint, evaluate, interrupt, optim, report, runlog, sharding, step
from tpr_jax import config as config_lib
from tpr_jax.data import pipeline, sources
from tpr_jax.errors import UserError
from tpr_jax.models import clip
from tpr_jax.models.methods import METHODS, zero_shot
from tpr_jax.weights import backbone


def prepare(config: ConfigDict) -> dict:
    """Everything that training and evaluation share: mesh, data, model, weights, encoders."""
    mesh = sharding.make_mesh(**config.mesh)
    for key in ("batch_size", "eval_batch_size"):
        if config[key] % mesh.shape["data"]:
            raise UserError(
                f"config.{key}={config[key]} must be a multiple of the {mesh.shape['data']} devices of the "
                "data axis"
            )
    splits = sources.load_splits(config.dataset, config.data_dir)
    clip_config, params, tokenizer = backbone.load(
        config.backbone,
        tuple(config.image_size),
        text_length=config.text_length,
        with_weights=not config.from_scratch,
    )
    method = METHODS[config.method.name](**config_lib.method_settings(config))
    model = clip.build(clip_config, method, config.dtype)
    # jitted, so that the leaves come out as they are and nothing is computed twice
    variables = jax.jit(model["init"])(jax.random.key(config.seed))
    if params is not None:
        variables = {**variables, "params": jax.tree.map(jnp.asarray, params)}
    trainable, frozen = optim.split_collections(variables, method.trainable)
    if "params" in frozen:
        frozen["params"] = clip.hold_frozen(frozen["params"], config.dtype)
    return {
        "mesh": mesh,
        "splits": splits,
        "tokenizer": tokenizer,
        "clip_config": clip_config,
        "method": method,
        "model": model,
        "trainable": sharding.everywhere(mesh, trainable),
        "frozen": sharding.everywhere(mesh, frozen),
        "encoders": step.jit_encoders(model, mesh),
    }


def count(tree) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def score_split(parts: dict, config: ConfigDict, encoders, variables, split: str) -> tuple[dict, dict]:
    """(metrics, encoded split)."""
    encoded = evaluate.encode_split(
        encoders,
        variables,
        parts["splits"][split],
        parts["tokenizer"],
        tuple(config.image_size),
        config.eval_batch_size,
    )
    return evaluate.score(encoded), encoded


def score_zero_shot(parts: dict, config: ConfigDict) -> dict:
    """Metrics of CLIP as it came, on the test split."""
    model = clip.build(parts["clip_config"], zero_shot(), config.dtype)
    params = {**parts["frozen"], **parts["trainable"]}["params"]
    return score_split(parts, config, step.jit_encoders(model, parts["mesh"]), {"params": params}, "test")[0]


def make_optimiser(config: ConfigDict, trainable: dict, per_epoch: int) -> tuple:
    """(step -> learning rate, the optimiser of the trainable collections)."""
    settings = config.optimizer
    rate = optim.schedule(
        settings.lr,
        kind=settings.schedule,
        warmup_epochs=settings.warmup_epochs,
        num_epochs=config.num_epochs,
        steps_per_epoch=per_epoch,
        per_step=settings.per_step,
        warmup_factor=settings.warmup_factor,
    )
    groups = ((r".*/bias", settings.bias_lr_factor, 0.0), (r".*", 1.0, settings.weight_decay))
    moments = {"b1": settings.b1, "b2": settings.b2, "eps": settings.eps}
    return rate, optim.adam(rate, trainable, groups, clip_norm=settings.clip_norm, **moments)


def train(config: ConfigDict, workdir: Path) -> dict:
    """Trains, evaluates and reports; resumes where `workdir` holds a checkpoint. Returns the results."""
    began = time.time()
    runlog.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME)
    parts = prepare(config)
    if not parts["trainable"]:
        raise UserError(f"method '{config.method.name}' has nothing to train: use --mode eval")
    mesh, splits = parts["mesh"], parts["splits"]

    per_epoch = pipeline.steps_per_epoch(splits["train"], config.batch_size)
    last_step = per_epoch * config.num_epochs
    if config.total_steps:
        last_step = min(last_step, config.total_steps)
    rate, optimiser = make_optimiser(config, parts["trainable"], per_epoch)
    weights, scale = config_lib.loss_weights(config), 1 / config.temperature
    update = step.jit_train_step(parts["model"], optimiser, weights, scale, mesh)
    batches = pipeline.train_input(
        splits["train"],
        parts["tokenizer"],
        image_size=tuple(config.image_size),
        batch_size=config.batch_size,
        seed=config.seed,
        augment=config.augment,
        mask_text=config.mask_text,
        pad=config.pad,
    )

    # Only now: a config that could not even begin does not claim the folder.
    runlog.write_json(workdir / "config.json", config_lib.to_plain(config))
    latest = checkpoint.open_manager(workdir / "checkpoints" / "latest", keep=2)
    best = checkpoint.open_manager(workdir / "checkpoints" / "best", keep=1)
    state = sharding.everywhere(mesh, step.init_state(optimiser, parts["trainable"]))
    notes = {"seconds": 0.0, "zero_shot": None, "best_r1": -1.0, "best_epoch": 0}
    if (found := checkpoint.restore_newest(latest, state)) is not None:
        done, state, notes, broken = found
        for unreadable in broken:
            tqdm.write(f"checkpoint {unreadable} cannot be read: fell back to step {done}")
            latest.delete(unreadable)
        tqdm.write(f"resumed at step {done} of {last_step} from {workdir / 'checkpoints' / 'latest'}")
    done = int(state["step"])

    def due(at_step):
        """Whether an epoch whose evaluation is wanted ends at this step, or the run does."""
        epoch, rest = divmod(at_step, per_epoch)
        wanted = rest == 0 and config.eval_every and epoch % config.eval_every == 0
        return at_step > 0 and (wanted or at_step == last_step)

    # A checkpoint is from before its step's evaluation and knows nothing of it: that is made again.
    history = runlog.read_history(workdir, done, evaluate_again=due(done))
    log, close_log = runlog.open_log(workdir, history)

    variables = lambda state: {**parts["frozen"], **state["trainable"]}  # noqa: E731
    spent = lambda: notes["seconds"] + time.time() - began  # noqa: E731
    if notes["zero_shot"] is None:
        notes["zero_shot"] = score_zero_shot(parts, config)
        tqdm.write(f"zero-shot, test: {_short(notes['zero_shot'])}")

    def save(state):
        checkpoint.save(latest, int(state["step"]), state, {**notes, "seconds": spent()})

    def validate(state, at_step):
        """Scores the validation split and keeps the state if it is the best so far."""
        if "val" not in splits:
            return
        epoch = at_step // per_epoch
        scored, _ = score_split(parts, config, parts["encoders"], variables(state), "val")
        log({"step": at_step, "epoch": epoch, "val": scored})
        tqdm.write(f"epoch {epoch}, val: {_short(scored)}")
        if scored["t2i"]["R1"] > notes["best_r1"]:
            notes.update(best_r1=scored["t2i"]["R1"], best_epoch=epoch)
            if at_step not in best.all_steps():
                checkpoint.save(best, at_step, state, notes)

    if due(done):
        validate(state, done)

    bar = tqdm(total=last_step, initial=done, desc="train", unit="step", dynamic_ncols=True, disable=None)
    waited, since, since_step = 0.0, time.time(), done
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.finish, best)
        stack.callback(checkpoint.finish, latest)
        stack.callback(bar.close)
        asked_to_stop = stack.enter_context(interrupt.noticed())
        for epoch in range(done // per_epoch, -(-last_step // per_epoch)):
            if done >= last_step:
                break
            feed = iter(batches(epoch, done - epoch * per_epoch))
            while done < min((epoch + 1) * per_epoch, last_step):
                asked = time.time()
                batch = next(feed)
                waited += time.time() - asked
                batch = {key: batch[key] for key in ("image", "ids", "pid")}
                state, metrics = update(state, parts["frozen"], sharding.by_row(mesh, batch))
                done += 1
                bar.update()
                if done % config.log_every == 0 or done == last_step:
                    metrics = jax.tree.map(lambda x: np.asarray(x).tolist(), jax.device_get(metrics))
                    _stop_if_bad(metrics, state, latest, notes)
                    now = time.time()
                    log(
                        {
                            "step": done,
                            "epoch": epoch,
                            **{key: value for key, value in metrics.items() if key != "bad_step"},
                            "lr": float(rate(done - 1)),
                            "examples_per_second": (done - since_step) * config.batch_size / (now - since),
                            "input_wait": waited / (now - since),
                            "seconds": spent(),
                        }
                    )
                    bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                    waited, since, since_step = 0.0, now, done
                if done % config.checkpoint_every == 0 or done == last_step:
                    _stop_if_bad({"bad_step": int(state["bad_step"])}, state, latest, notes)
                    save(state)
                if due(done):
                    validate(state, done)
                    since, since_step, waited = time.time(), done, 0.0
                if asked_to_stop() and done < last_step:
                    _stop_if_bad({"bad_step": int(state["bad_step"])}, state, latest, notes)
                    checkpoint.finish(latest)
                    if done not in latest.all_steps():
                        save(state)
                    checkpoint.finish(latest)
                    raise UserError(f"stopped at step {done}, which is saved: the same command goes on")

    results, encoded = _final_results(config, parts, state, best, notes, variables, done, spent)
    close_log()
    runlog.write_json(workdir / "results.json", results)
    retrievals = evaluate.examples(encoded, count=12, top_k=10)
    report.write_report(workdir, history=history, results=results, retrievals=retrievals)
    _say_what_came_out(results, workdir)
    return results


def restore_best(config: ConfigDict, workdir: Path, parts: dict) -> tuple[dict, dict]:
    """(state, where it is from): the best checkpoint, else the newest, else the state before training."""
    per_epoch = pipeline.steps_per_epoch(parts["splits"]["train"], config.batch_size)
    _, optimiser = make_optimiser(config, parts["trainable"], per_epoch)
    state = sharding.everywhere(parts["mesh"], step.init_state(optimiser, parts["trainable"]))
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
            return found[1], {"checkpoint": name, "step": found[0]}
    return state, {"checkpoint": None, "step": 0}


def evaluate_run(config: ConfigDict, workdir: Path) -> dict:
    """Scores the best state of a run (the newest where none was kept) on val and test; trains nothing.

    Without checkpoints in `workdir` the model is scored as it starts. Writes and returns eval.json.
    """
    runlog.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME)
    parts = prepare(config)
    state, scored = restore_best(config, workdir, parts)
    scored = {"method": config.method.name, "dataset": config.dataset, **scored}
    print(f"scoring {scored['checkpoint'] or 'the initial weights'} (step {scored['step']})")
    for split in ("val", "test"):
        if split in parts["splits"]:
            variables = {**parts["frozen"], **state["trainable"]}
            scored[split], _ = score_split(parts, config, parts["encoders"], variables, split)
            print(f"{split}: {_short(scored[split])}")
    runlog.write_json(workdir / "eval.json", scored)
    print(f"written: {workdir / 'eval.json'}")
    return scored


def _final_results(config, parts, state, best, notes, variables, done, spent) -> tuple[dict, dict]:
    """(results.json, the encoded test split of the last state)."""
    final = {}
    test, encoded = score_split(parts, config, parts["encoders"], variables(state), "test")
    if "val" in parts["splits"]:
        final["val"], _ = score_split(parts, config, parts["encoders"], variables(state), "val")
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
    total = count(parts["frozen"]) + count(parts["trainable"])
    results = {
        "method": config.method.name,
        "dataset": config.dataset,
        "trainable_params": count(parts["trainable"]),
        "total_params": total,
        "steps": done,
        "seconds": spent(),
        "zero_shot": {"test": notes["zero_shot"]},
        "final": final,
        "best_on_val": best_on_val,
    }
    return results, encoded


def _say_what_came_out(results: dict, workdir: Path) -> None:
    """The test split before and after, where everything is, and what to try next."""
    share = 100 * results["trainable_params"] / results["total_params"]
    print(
        f"\n{results['method']} on {results['dataset']}: {results['steps']} steps in "
        f"{results['seconds']:.0f} s, "
        f"{results['trainable_params']:,} of {results['total_params']:,} parameters trained ({share:.1f} %)"
    )
    print(f"test, text to image, before:      {_short(results['zero_shot']['test'])}")
    print(f"test, text to image, after:       {_short(results['final']['test'])}")
    if results["best_on_val"]:
        best = results["best_on_val"]
        print(f"test, best epoch on val ({best['epoch']:>3}):   {_short(best['test'])}")
    print(f"\nwritten to {workdir}: report.html, report.png, results.json, metrics.jsonl, checkpoints/")
    print(f"look:  open {workdir}/report.html in a browser")
    print(
        "next:  python -m tpr_jax.main --config configs/parallel_adapter.py --workdir runs/parallel_adapter"
    )


def _stop_if_bad(metrics: dict, state: dict, latest, notes: dict) -> None:
    """Ends the run where the loss or gradient was not finite; the state from before that step is saved."""
    if metrics["bad_step"] < 0:
        return
    good = {**state, "bad_step": -jnp.ones((), jnp.int32)}
    at_step = int(state["step"])
    if at_step not in latest.all_steps():
        checkpoint.save(latest, at_step, good, notes)
    checkpoint.finish(latest)
    raise UserError(
        f"the loss or its gradient was not finite at step {metrics['bad_step'] + 1}: stopped, and the state "
        f"after step {at_step} is kept in {latest.directory}; try another --workdir with a lower "
        "config.optimizer.lr, config.optimizer.clip_norm=1 or float32"
    )


def _short(scored: dict) -> str:
    return "  ".join(f"{key} {value:.2f}" for key, value in scored["t2i"].items())
