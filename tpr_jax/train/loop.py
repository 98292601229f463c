"""One run from top to bottom: mesh, data, model, weights, optimizer, loop, evaluation, saving."""

import contextlib
import itertools
import signal
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from tpr_jax.config import defaults as config_lib
from tpr_jax.data.augment import erase_color
from tpr_jax.data.pipeline import steps_per_epoch, stream, train_input
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.perf import memory
from tpr_jax.report import write as report
from tpr_jax.train import checkpoint, evaluate, progress, step, throughput, watchdog, writer
from tpr_jax.train import results as results_lib
from tpr_jax.train.setup import make_optimizer, prepare
from tpr_jax.utils import locking, signals
from tpr_jax.utils.files import write_json
from tpr_jax.utils.trees import merge


def train(config: ConfigDict, workdir: Path) -> dict:
    """Trains, evaluates and reports; resumes where `workdir` holds a checkpoint. Returns the results.

    Raises:
      Stopped: SIGINT or SIGTERM came, and all steps are saved.
      UserError: another run is training in `workdir`, or something cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_first():  # all processes of a run share its folder
            stack.enter_context(locking.hold(workdir, "--workdir", "training in this folder"))
        return _train_until_stopped(config, workdir)


def _train_until_stopped(config: ConfigDict, workdir: Path) -> dict:
    with signals.catch_signals() as notice:
        try:
            # Of several processes none may leave amid what all compute together.
            with notice.raise_immediately(jax.process_count() == 1):
                return _train(config, workdir, notice)
        except KeyboardInterrupt:
            if notice.again or not notice:
                raise
            raise signals.Stopped(notice.number, "stopped; the newest checkpoint has all steps") from None


def _train(config: ConfigDict, workdir: Path, notice: signals.PreemptionSignal) -> dict:
    began, first = time.monotonic(), processes.is_first()
    defaults = config_lib.to_plain(config_lib.base())
    writer.check_workdir(workdir, config_lib.to_plain(config), config_lib.FREE_ON_RESUME, defaults)
    if first:
        writer.clean_workdir(workdir)
    parts = prepare(config)
    if not parts["trainable"]:
        raise UserError(f"method '{config.method.name}' has nothing to train: use --mode eval")
    if first:
        results_lib.check_model_place(config, workdir, parts)
    mesh, splits = parts["mesh"], parts["splits"]

    instances = config_lib.instances(config)
    per_epoch = steps_per_epoch(splits["train"], config.batch_size, instances)
    last_step = per_epoch * config.num_epochs
    if config.total_steps:
        last_step = min(last_step, config.total_steps)
    rate, optimizer = make_optimizer(config, parts["trainable"], per_epoch)
    if first and (note := config_lib.schedule_note(config)):
        tqdm.write(note)
    weights, scale = config_lib.loss_weights(config), 1 / config.temperature
    update = step.jit_train_step(parts["model"], optimizer, weights, scale, mesh, config.accumulate)
    share = sharding.process_shard(mesh, config.batch_size)
    batches = train_input(
        splits["train"],
        parts["tokenizer"],
        image_size=tuple(config.image_size),
        batch_size=config.batch_size,
        seed=config.seed,
        instances=instances,
        augment=config.augment,
        mask_text=config.mask_text,
        mlm=bool(config.losses.mlm),
        pad=config.pad,
        color=erase_color(parts["clip_config"].image_mean, parts["clip_config"].image_std),
        skipped=parts["skipped"],
        process_index=share[0],
        process_count=share[1],
    )

    def rows_of(batch):
        """On the devices; which example a row is only reports want to know."""
        batch = {key: rows for key, rows in batch.items() if key != "index"}
        return sharding.shard_batch(mesh, batch, config.batch_size)

    # Only now: a config that could not even begin does not claim the folder.
    if first:
        write_json(workdir / "config.json", config_lib.to_plain(config))
    latest = checkpoint.open_manager(workdir / "checkpoints" / "latest", keep=2)
    best = checkpoint.open_manager(workdir / "checkpoints" / "best", keep=1)
    state = sharding.shard_params(mesh, step.init_state(optimizer, parts["trainable"]))
    notes = {"seconds": 0.0, "zero_shot": None, "best_r1": -1.0, "best_epoch": 0}
    facts = results_lib.backbone_facts(parts)
    if (found := checkpoint.restore_newest(latest, state)) is not None:
        done, state, notes, broken = found
        results_lib.check_backbone(notes.get("backbone"), facts, workdir)
        notes |= progress.read_progress(workdir, done)
        if parts["skipped"] is not None:  # known to be bad: not tried again, so the examples stay the same
            parts["skipped"].update(notes.get("skipped", {}))
        for unreadable in broken:
            tqdm.write(f"checkpoint {unreadable} cannot be read: fell back to step {done}")
            latest.delete(unreadable)
        tqdm.write(f"resumed at step {done} of {last_step} from {workdir / 'checkpoints' / 'latest'}")
    notes["backbone"] = facts
    done = begun = int(state["step"])
    notes |= progress.find_best(best, done)
    if first and done < last_step:
        (workdir / "results.json").unlink(missing_ok=True)  # of fewer steps: it says that the run is done
    feed = stream(batches, per_epoch, done)
    if done < last_step:
        # Of all before the first step compiling takes longest: it goes on beside the evaluation of zero-shot.
        first_batch = next(feed)
        update = step.compile_in_background(update, state, parts["frozen"], rows_of(first_batch))
        feed = itertools.chain([first_batch], feed)

    def due(at_step):
        """Whether an epoch whose evaluation is wanted ends at this step, or the run does."""
        epoch, rest = divmod(at_step, per_epoch)
        wanted = rest == 0 and config.eval_every and epoch % config.eval_every == 0
        return at_step > 0 and (wanted or at_step == last_step)

    # A checkpoint is from before its step's evaluation and knows nothing of it; the log may.
    history, log, close_log = [], lambda row: None, lambda: None
    on_the_way = results_lib.splits_on_the_way(parts, config)
    if first:
        history = writer.read_history(workdir, done)
        if due(done) and progress.scores_at(history, done, on_the_way) is None:
            history = writer.read_history(workdir, done, evaluate_again=True)
        log, close_log = writer.open_log(workdir, history)
    scored_before = progress.scores_at(history, done, on_the_way)

    variables = lambda state: merge(parts["frozen"], state["trainable"])  # noqa: E731
    spent = lambda: notes["seconds"] + time.monotonic() - began  # noqa: E731
    if notes["zero_shot"] is None:
        notes["zero_shot"] = results_lib.score_zero_shot(parts, config)
        tqdm.write(f"zero-shot, test: {results_lib.format_scores(notes['zero_shot'])}")

    def share_skipped():
        if parts["skipped"] is not None:  # each process knows of those that it tried
            parts["skipped"].update(processes.all_gather_dict(parts["skipped"]))

    def so_far():
        """The notes as of now; all processes have to ask."""
        share_skipped()
        now = {"seconds": spent(), "skipped": dict(parts["skipped"] or {}), **memory.peaks(notes)}
        return {**notes, **now}

    def save(state):
        if first:
            writer.fsync_metrics(workdir)
        checkpoint.finish(best)  # else a run that resumes here could miss the best state before
        checkpoint.save(latest, int(state["step"]), state, so_far())

    def note_progress():
        """Keeps what the checkpoint of this step, which is from before its evaluation, cannot know."""
        noted = so_far()
        if first:
            progress.write_progress(workdir, done, noted)

    def validate(state, at_step):
        """Scores val, and test where that is asked for; keeps the state if it is the best so far on val."""
        epoch = at_step // per_epoch
        scored = results_lib.score_epoch(parts, config, variables(state))
        if not scored:
            return
        log({"step": at_step, "epoch": epoch, **scored})
        for split, scores in scored.items():
            tqdm.write(f"epoch {epoch}, {split}: {results_lib.format_scores(scores)}")
        keep_if_best(state, at_step, scored)
        note_progress()

    def keep_if_best(state, at_step, scored):
        """Saves the state as the best if no epoch before scored as high on val; the first process decides."""
        r1 = scored["val"]["t2i"]["R1"] if "val" in scored else -1.0
        if processes.broadcast_from_first(r1 > notes["best_r1"]):
            notes.update(best_r1=r1, best_epoch=at_step // per_epoch)
            if at_step not in best.all_steps():
                checkpoint.finish(latest)  # `best` is never ahead of what a run resumes from
                checkpoint.save(best, at_step, state, notes)

    if processes.broadcast_from_first(scored_before is not None):
        keep_if_best(state, done, scored_before or {})
    elif due(done):
        validate(state, done)

    def keep():
        """Saves the state of a run that ends early, at a step of its own."""
        _stop_if_bad({"bad_step": int(state["bad_step"])}, state, latest, notes)
        checkpoint.finish(latest)
        if done not in latest.all_steps():
            save(state)
        checkpoint.finish(latest)

    def keep_if_unread(kind, error, trace):
        """Nobody reads what the run prints any longer, which ends it."""
        if isinstance(error, BrokenPipeError) and jax.process_count() == 1:
            keep()

    bar = tqdm(total=last_step, initial=done, desc="train", unit="step", dynamic_ncols=True, disable=None)
    pace = throughput.pace(config, parts)
    mark, end_profile = throughput.profiler(workdir / "profile", config.profile)
    device = watchdog.PEERS if jax.process_count() > 1 else watchdog.DEVICE
    waited, since, since_step = 0.0, time.monotonic(), done
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.finish, best)
        stack.callback(checkpoint.finish, latest)
        stack.callback(bar.close)
        stack.push(keep_if_unread)
        stack.callback(end_profile)
        watched = stack.enter_context(watchdog.watched(throughput.complain))
        stack.enter_context(notice.raise_immediately(False))  # amid a step the state cannot be saved
        anyone = processes.any_process(mesh)
        while done < last_step:
            epoch, asked = done // per_epoch, time.monotonic()
            watched.waits_for = watchdog.INPUT
            batch = next(feed)
            waited += time.monotonic() - asked
            watched.waits_for = device
            state, metrics = update(state, parts["frozen"], rows_of(batch))
            done += 1
            bar.update()
            mark(done - begun, metrics)
            if done % config.log_every == 0 or done == last_step:
                metrics = jax.tree.map(lambda x: np.asarray(x).tolist(), jax.device_get(metrics))
                _stop_if_bad(metrics, state, latest, notes)
                now = time.monotonic()
                log(
                    {
                        "step": done,
                        "epoch": epoch,
                        **{key: value for key, value in metrics.items() if key != "bad_step"},
                        "lr": float(rate(done - 1)),
                        **pace(done - since_step, now - since, waited),
                        "seconds": spent(),
                    }
                )
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
                waited, since, since_step = 0.0, now, done
            if done % config.checkpoint_every == 0 or due(done):
                _stop_if_bad({"bad_step": int(state["bad_step"])}, state, latest, notes)
                watched.waits_for = watchdog.DISK
                save(state)
                watched.waits_for = device
            if due(done):
                with watched.paused(), notice.raise_immediately(jax.process_count() == 1):
                    validate(state, done)
                since, since_step, waited = time.monotonic(), done, 0.0
            watched.step()
            if anyone(bool(notice)) and done < last_step:
                watched.waits_for = watchdog.DISK
                keep()
                number = notice.number or signal.SIGTERM
                raise signals.Stopped(number, f"stopped at step {done}, which is saved")

    share_skipped()
    results, encoded, kept = results_lib.final_results(
        config, parts, state, best, notes, variables, done, spent, history
    )
    close_log()
    note_progress()
    # All processes have a part in bringing the pieces together, one writes.
    parts["frozen"], trained = sharding.replicate(mesh, (parts["frozen"], kept["trainable"]))
    if first:
        retrievals = evaluate.examples(encoded, count=12, top_k=10)
        report.write_report(workdir, history=history, results=results, retrievals=retrievals)
        results_lib.write_model(config, workdir, parts, trained, results)
        write_json(workdir / "results.json", results)  # last: to scripts it says that the run is done
        results_lib.print_summary(results, workdir)
    return results


def _stop_if_bad(metrics: dict, state: dict, latest, notes: dict) -> None:
    """Ends the run where loss, gradient or update was not finite; the state before that step is saved."""
    if metrics["bad_step"] < 0:
        return
    good = {**state, "bad_step": jax.device_put(np.int32(-1), state["bad_step"].sharding)}
    at_step = int(state["step"])
    if at_step not in latest.all_steps():
        checkpoint.save(latest, at_step, good, notes)
    checkpoint.finish(latest)
    raise UserError(
        f"the loss, its gradient or the update was not finite at step {metrics['bad_step'] + 1}: stopped, "
        f"and the state after step {at_step} is kept in {latest.directory}; try another --workdir with a "
        "lower config.optimizer.lr, config.optimizer.clip_norm=1 or float32"
    )
