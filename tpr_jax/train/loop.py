"""One run from top to bottom: build, restore, train, evaluate, save, report."""

import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from tpr_jax.config import defaults as config_lib
from tpr_jax.data.pipeline import stream
from tpr_jax.distributed import processes, sharding
from tpr_jax.errors import UserError
from tpr_jax.perf import memory
from tpr_jax.report import write as report
from tpr_jax.train import (
    checkpoint,
    evaluate,
    provenance,
    step,
    summary,
    teacher,
    throughput,
    watchdog,
    writer,
)
from tpr_jax.train import progress as progress_lib
from tpr_jax.train import results as results_lib
from tpr_jax.train.checkpoint import Checkpointer
from tpr_jax.train.evaluate import Evaluator
from tpr_jax.train.progress import Progress
from tpr_jax.train.setup import Run, Training, prepare, prepare_training
from tpr_jax.train.state import TrainState
from tpr_jax.train.throughput import Clock, Profiler, Throughput
from tpr_jax.utils import locking, signals
from tpr_jax.utils.files import write_json
from tpr_jax.utils.trees import merge


def train(config: ConfigDict, workdir: Path) -> dict:
    """Trains, evaluates and reports; resumes from the newest checkpoint in `workdir`.

    Returns:
      The content of results.json.

    Raises:
      Stopped: SIGINT or SIGTERM arrived, and all steps are saved.
      UserError: another run is training in `workdir`, or an input cannot be used.
    """
    with contextlib.ExitStack() as stack:
        if processes.is_first():  # all processes of a run share its folder
            stack.enter_context(locking.hold(workdir, "--workdir", "training in this folder"))
        preemption = stack.enter_context(signals.catch_signals())
        try:
            # With several processes, none may exit in the middle of a collective computation.
            with preemption.raise_immediately(jax.process_count() == 1):
                return _train(config, workdir, preemption)
        except KeyboardInterrupt:
            if preemption.again or not preemption:
                raise
            number = preemption.number
            raise signals.Stopped(number, "stopped; the newest checkpoint has all steps") from None


def _train(config: ConfigDict, workdir: Path, preemption: signals.PreemptionSignal) -> dict:
    clock = Clock()
    run, training = _build(config, workdir)
    trainer = Trainer(run, training, workdir, preemption, clock)
    trainer.restore()
    trainer.start_input_and_compile()
    trainer.open_metrics()
    trainer.score_zero_shot()
    trainer.evaluate_restored()
    with trainer.training_steps():
        for batch in trainer.batches():
            metrics = trainer.update(batch)
            trainer.log_if_due(metrics)
            trainer.save_if_due()
            trainer.evaluate_if_due()
            trainer.watchdog.step_done()
            trainer.stop_if_asked()
    return trainer.report()


def _build(config: ConfigDict, workdir: Path) -> tuple[Run, Training]:
    """Checks the folder and builds the run; `Trainer.restore` claims the folder, by writing config.json."""
    plain = config_lib.to_plain(config)
    writer.check_workdir(workdir, plain, config_lib.FREE_ON_RESUME, config_lib.to_plain(config_lib.base()))
    first = processes.is_first()
    if first:
        writer.clean_workdir(workdir)
    run = prepare(config)
    if not run.trainable:
        raise UserError(f"method '{config.method.name}' has nothing to train: use --mode eval")
    if first:
        results_lib.check_model_folder(run, workdir)
    # A teacher that cannot be read is reported before the folder is claimed.
    training = dataclasses.replace(prepare_training(run), annotate=teacher.make_annotate(run))
    if first and (note := config_lib.schedule_note(config, training.steps_per_epoch)):
        tqdm.write(note)
    return run, training


class Trainer:
    """Trains one run in its folder; `_train` calls the methods in order.

    Attributes:
      state: the training state.
      step: the number of updates done, `state.step` as an int.
      progress: what is saved beside the state; `seconds` and `skipped` are those of the restored checkpoint.
      feed: the batches from the first step on; set by `start_input_and_compile`.
      metrics: writes metrics.jsonl; set by `open_metrics`.
      watchdog: detects stalls; set within `training_steps`.
    """

    feed: Iterator[dict]
    metrics: writer.MetricWriter | writer.NullWriter
    watchdog: watchdog.Watchdog

    def __init__(
        self,
        run: Run,
        training: Training,
        workdir: Path,
        preemption: signals.PreemptionSignal,
        clock: Clock,
    ):
        self.run, self.training, self.workdir = run, training, workdir
        self.config = run.config
        self.preemption, self.clock = preemption, clock
        self.first_process, self.alone = processes.is_first(), jax.process_count() == 1
        self.evaluator = Evaluator(run)
        self.checkpointer = Checkpointer(workdir / "checkpoints")
        self.throughput = Throughput(run)
        self.profiler = Profiler(workdir / "profile", self.config.profile)
        self.update_fn = training.update
        initial = TrainState.create(training.optimizer, run.trainable)
        self.state = sharding.shard_params(run.mesh, initial)
        self.progress = Progress(
            backbone=provenance.backbone_facts(run), annotations=self.run.data["annotations"]
        )
        self.step = self.first_step = 0

    def restore(self) -> None:
        """Restores the newest readable checkpoint, if there is one; then writes config.json."""
        facts = provenance.backbone_facts(self.run)
        restored = self.checkpointer.restore_latest(self.state)
        if restored is not None:
            self.step, self.state = restored.step, TrainState.from_dict(restored.state)
            provenance.check_backbone(restored.notes.get("backbone"), facts, self.workdir)
            annotations = self.run.data["annotations"]
            provenance.check_data(restored.notes.get("annotations"), annotations, self.workdir)
            notes = restored.notes | progress_lib.read_progress(self.workdir, self.step)
            self.progress = dataclasses.replace(
                Progress.from_notes(notes), backbone=facts, annotations=annotations
            )
            if self.run.skipped is not None:  # not tried again, so that the examples stay the same
                self.run.skipped.update(self.progress.skipped)
            latest = self.checkpointer.latest
            for unreadable in restored.unreadable:
                tqdm.write(f"checkpoint {unreadable} cannot be read: fell back to step {self.step}")
                latest.delete(unreadable)
            folder = self.workdir / "checkpoints" / "latest"
            tqdm.write(f"resumed at step {self.step} of {self.training.last_step} from {folder}")
        self.step = self.first_step = int(self.state.step)
        best = progress_lib.find_best(self.checkpointer.best, self.step)
        self.progress = dataclasses.replace(self.progress, **best)
        if self.first_process:
            write_json(self.workdir / "config.json", config_lib.to_plain(self.config))
        if self.first_process and self.step < self.training.last_step:
            # An older results.json has fewer steps, and would mark the run as complete.
            (self.workdir / "results.json").unlink(missing_ok=True)

    def start_input_and_compile(self) -> None:
        """Starts reading batches, and compiles the train step in the background."""
        self.feed = stream(self.training.batches, self.training.steps_per_epoch, self.step)
        if self.step < self.training.last_step:
            # Compilation takes most of the time before the first step: the zero-shot evaluation runs
            # beside it.
            first_batch = next(self.feed)
            self.update_fn = step.compile_in_background(
                self.training.update, self.state, self.run.frozen, self._to_device(first_batch)
            )
            self.feed = itertools.chain([first_batch], self.feed)

    def open_metrics(self) -> None:
        """Opens metrics.jsonl, cut to the restored step.

        A checkpoint is saved before its step is evaluated, so only the log may hold the scores.
        """
        self.metrics = writer.NullWriter()
        if not self.first_process:
            return
        history = writer.read_history(self.workdir, self.step)
        if self._is_eval_step() and self._logged_scores(history) is None:
            history = writer.read_history(self.workdir, self.step, evaluate_again=True)
        self.metrics = writer.MetricWriter(self.workdir, history)

    def score_zero_shot(self) -> None:
        """Scores CLIP before training, unless an earlier process of the run did."""
        if self.progress.zero_shot is None:
            scores = self.evaluator.score_zero_shot()
            self.progress = dataclasses.replace(self.progress, zero_shot=scores)
            tqdm.write(f"zero-shot, test: {summary.format_scores(scores)}")

    def evaluate_restored(self) -> None:
        """Repeats the evaluation of the restored step if it did not finish."""
        scores = self._logged_scores(self.metrics.history)
        if processes.broadcast_from_first(scores is not None):
            self._save_if_best(scores or {})
        elif self._is_eval_step():
            self._evaluate()

    @contextlib.contextmanager
    def training_steps(self) -> Generator[None, None, None]:
        """Watches the steps within; afterward waits until all checkpoints are on disk."""
        last_step = self.training.last_step
        self.bar = tqdm(
            total=last_step, initial=self.step, desc="train", unit="step", dynamic_ncols=True, disable=None
        )
        self.clock.restart_lap()
        with contextlib.ExitStack() as stack:
            stack.callback(checkpoint.finish, self.checkpointer.best)
            stack.callback(checkpoint.finish, self.checkpointer.latest)
            stack.callback(self.bar.close)
            stack.push(self._save_on_broken_pipe)
            stack.callback(self.profiler.close)
            self.watchdog = stack.enter_context(watchdog.watch(throughput.report_problem))
            # In the middle of a step the state cannot be saved.
            stack.enter_context(self.preemption.raise_immediately(False))
            self.any_process = processes.any_process(self.run.mesh)
            yield

    def batches(self) -> Iterator[dict]:
        """Yields a batch for each step that is left."""
        while self.step < self.training.last_step:
            self.watchdog.waiting_for = watchdog.INPUT
            with self.clock.waiting():
                batch = next(self.feed)
            self.watchdog.waiting_for = self._device
            yield batch

    def update(self, batch: dict) -> dict:
        """Takes one step; returns its metrics, still on the device."""
        with self.profiler.step(self.step):
            self.state, metrics = self.update_fn(self.state, self.run.frozen, self._to_device(batch))
        self.step += 1
        self.clock.count_step()
        self.bar.update()
        self.profiler.after_step(self.step - self.first_step, metrics)
        return metrics

    def log_if_due(self, metrics: dict) -> None:
        """Logs the metrics of every `log_every`-th step and of the last."""
        if self.step % self.config.log_every and self.step != self.training.last_step:
            return
        metrics = jax.tree.map(lambda x: np.asarray(x).tolist(), jax.device_get(metrics))
        self._check_finite(metrics.pop("bad_step"))
        lap = self.clock.lap()
        self.metrics.write(
            {
                "step": self.step,
                "epoch": (self.step - 1) // self.training.steps_per_epoch,
                **metrics,
                "lr": float(self.training.schedule(self.step - 1)),
                **self.throughput.measure(lap),
                "seconds": self._seconds(),
            }
        )
        self.bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)

    def save_if_due(self) -> None:
        """Begins to save every `checkpoint_every`-th state, and those that are evaluated."""
        if self.step % self.config.checkpoint_every and not self._is_eval_step():
            return
        self._check_finite()
        self.watchdog.waiting_for = watchdog.DISK
        self._save()
        self.watchdog.waiting_for = self._device

    def evaluate_if_due(self) -> None:
        """Evaluates at the end of every `eval_every`-th epoch and of the run."""
        if self._is_eval_step():
            with (
                self.watchdog.pause(),
                self.clock.pause(),
                self.preemption.raise_immediately(self.alone),
            ):
                self._evaluate()

    def stop_if_asked(self) -> None:
        """Saves the state and ends the run if any process got a signal."""
        if self.any_process(bool(self.preemption)) and self.step < self.training.last_step:
            self.watchdog.waiting_for = watchdog.DISK
            self._save_and_wait()
            number = self.preemption.number or signal.SIGTERM
            raise signals.Stopped(number, f"stopped at step {self.step}, which is saved")

    def report(self) -> dict:
        """Scores the final states and writes the results, the report and the model.

        Returns:
          The content of results.json.
        """
        self._sync_skipped()
        outcome = results_lib.final_results(
            self.evaluator,
            self.state,
            self.checkpointer,
            self.progress,
            self.metrics.history,
            self._seconds,
        )
        self.metrics.close()
        self._write_progress()
        # All processes take part in gathering the shards; the first one writes.
        frozen, trainable = sharding.replicate(self.run.mesh, (self.run.frozen, outcome.trainable))
        if self.first_process:
            retrievals = evaluate.examples(outcome.encoded, count=12, top_k=10)
            history, results = self.metrics.history, outcome.results
            report.write_report(self.workdir, history=history, results=results, retrievals=retrievals)
            results_lib.write_model(self.run, self.workdir, merge(frozen, trainable), results)
            # Last, because it tells scripts that the run is complete.
            write_json(self.workdir / "results.json", results)
            summary.print_summary(results, self.workdir, self.config.data_dir)
        return outcome.results

    @property
    def _device(self) -> str:
        """The device or processes that a step waits for, as the watchdog reports them."""
        return watchdog.DEVICE if self.alone else watchdog.PEERS

    def _to_device(self, batch: dict) -> dict:
        """Returns the batch on the devices, with what losses need and without `index`."""
        rows = {key: array for key, array in batch.items() if key != "index"}
        return self.training.annotate(sharding.shard_batch(self.run.mesh, rows, self.config.batch_size))

    def _seconds(self) -> float:
        """Returns how long the run has taken, earlier processes included."""
        return self.progress.seconds + self.clock.elapsed()

    def _is_eval_step(self) -> bool:
        """Returns whether an epoch that is to be evaluated ends at this step, or the run does."""
        epoch, rest = divmod(self.step, self.training.steps_per_epoch)
        wanted = rest == 0 and self.config.eval_every and epoch % self.config.eval_every == 0
        return self.step > 0 and bool(wanted or self.step == self.training.last_step)

    def _logged_scores(self, history: list[dict]) -> dict | None:
        """Returns the row of metrics.jsonl with the scores of this step, if there is one."""
        return progress_lib.scores_at(history, self.step, self.evaluator.splits)

    def _evaluate(self) -> None:
        """Scores val, and test if the config asks for it; keeps the state if it is the best so far."""
        epoch = self.step // self.training.steps_per_epoch
        scores = self.evaluator.score_epoch(self.run.variables(self.state.averaged))
        if not scores:
            return
        self.metrics.write({"step": self.step, "epoch": epoch, **scores})
        for split, split_scores in scores.items():
            tqdm.write(f"epoch {epoch}, {split}: {summary.format_scores(split_scores)}")
        self._save_if_best(scores)
        self._write_progress()

    def _save_if_best(self, scores: dict) -> None:
        """Saves the state if no earlier epoch scored as high on val; the first process decides."""
        r1 = scores["val"]["t2i"]["R1"] if "val" in scores else -1.0
        if processes.broadcast_from_first(bool(r1 > self.progress.best_r1)):
            epoch = self.step // self.training.steps_per_epoch
            self.progress = dataclasses.replace(self.progress, best_r1=r1, best_epoch=epoch)
            self.checkpointer.save_best(self.step, self.state, self.progress.as_notes())

    def _save(self) -> None:
        """Begins to save the state to resume from."""
        if self.first_process:
            writer.fsync_metrics(self.workdir)
        self.checkpointer.save_latest(self.state, self._notes())

    def _save_and_wait(self) -> None:
        """Saves the state of a run that ends early."""
        self._check_finite()
        latest = self.checkpointer.latest
        checkpoint.finish(latest)
        if self.step not in latest.all_steps():
            self._save()
        checkpoint.finish(latest)

    def _save_on_broken_pipe(self, kind, error, trace) -> None:
        """Saves the state if the run ends because the reader of its output closed the pipe."""
        if isinstance(error, BrokenPipeError) and self.alone:
            self._save_and_wait()

    def _write_progress(self) -> None:
        """Writes the progress after an evaluation; the checkpoint of the step was saved before it."""
        notes = self._notes()
        if self.first_process:
            progress_lib.write_progress(self.workdir, self.step, notes)

    def _notes(self) -> dict:
        """Returns the progress as of now, for saving; all processes have to call this."""
        self._sync_skipped()
        now = dataclasses.replace(
            self.progress,
            seconds=self._seconds(),
            skipped=dict(self.run.skipped or {}),
            **memory.peaks(dataclasses.asdict(self.progress)),
        )
        return now.as_notes()

    def _sync_skipped(self) -> None:
        """Shares the unreadable images: each process knows those that it tried to read."""
        if self.run.skipped is not None:
            self.run.skipped.update(processes.all_gather_dict(self.run.skipped))

    def _check_finite(self, bad_step: int | None = None) -> None:
        """Ends the run if a loss, gradient or update was not finite; saves the state before that step.

        Args:
          bad_step: `state.bad_step`, if it is already on the host.

        Raises:
          UserError: the step was not finite.
        """
        bad_step = int(self.state.bad_step) if bad_step is None else bad_step
        if bad_step < 0:
            return
        latest, good_step = self.checkpointer.latest, int(self.state.step)
        good = self.state._replace(bad_step=jax.device_put(np.int32(-1), self.state.bad_step.sharding))
        if good_step not in latest.all_steps():
            checkpoint.save(latest, good_step, good.as_dict(), self.progress.as_notes())
        checkpoint.finish(latest)
        raise UserError(
            f"the loss, its gradient or the update was not finite at step {bad_step + 1}: stopped, and the "
            f"state after step {good_step} is kept in {latest.directory}; try another --workdir with a lower "
            "config.optimizer.lr, config.optimizer.clip_norm=1 or float32"
        )
