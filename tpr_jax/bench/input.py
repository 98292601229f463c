"""Measures how many training images per second the input pipeline yields, against a PyTorch DataLoader.

    python -m tpr_jax.bench.input [--images N] [--repeats N] [--workers N] [--against torch|plain]

Both read the same generated JPEGs of CUHK-PEDES' size (about 100 x 260) and make batches of 128 at 384 x 128
with the published augmentation: this project's tf.data pipeline with N threads, and a DataLoader with N
worker processes and torchvision's transforms on Pillow images. Without PyTorch the baseline is N plain
processes with the same transforms in Pillow and NumPy, and the table says so. The pipeline also masks
captions; the baseline loads only images. The outputs differ in type: uint8 here, normalized later on the
device, and normalized float32 there, as in the published code.

Both run in processes of their own, on as many cores as there are workers, and take turns epoch by epoch, so
that other load on the machine affects both alike. Prints a Markdown table: medians, the median ratio of
consecutive epochs, and the CPU time per image over all threads and processes, which other load hardly
affects.
"""

import argparse
import collections
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.data.augment import erase_box
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import Records, load_records
from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD
from tpr_jax.utils import markdown, signals

SIZE, BATCH, PAD = (384, 128), 128, 10
BASELINES = {
    "torch": "PyTorch DataLoader, torchvision on Pillow",
    "plain": "processes, Pillow and NumPy",
}


class EpochTiming(NamedTuple):
    """One epoch of a loader."""

    images_per_second: float
    cpu_seconds_per_image: float


def write_images(folder: Path, count: int, seed: int = 0) -> Records:
    """Writes JPEGs of CUHK-PEDES' size with one caption each: enlarged MiniPEDES images with camera noise.

    They are about 100 pixels wide, 260 high and 10 kB large, as photos of that size are.
    """
    rng = np.random.default_rng(seed)
    source = load_records(bundled_dir(), "train")
    paths = []
    for row in range(count):
        path = source.image_paths[row % len(source.image_paths)]
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            width = int(rng.integers(80, 121))
            image = image.resize((width, round(width * rng.uniform(2.4, 2.8))), Image.Resampling.BICUBIC)
        noisy = np.asarray(image, np.float32) + rng.normal(0, 6, (image.height, image.width, 1))
        path = folder / f"{row:05d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    captions = [source.captions[row % len(source.captions)][:1] for row in range(count)]
    return Records("generated:train", paths, captions, np.arange(count, dtype=np.int64))


def tf_data_loader(records: Records, workers: int) -> Callable[[int], Iterator]:
    """Returns epoch -> batches of the pipeline that training uses; CPU affinity limits its threads."""
    from tpr_jax.data import pipeline, tokenizer

    return pipeline.train_input(
        records,
        tokenizer.clip_tokenizer(),
        image_size=SIZE,
        batch_size=BATCH,
        seed=0,
        pad=PAD,
        cache=False,
    )


def torch_loader(records: Records, workers: int) -> Callable[[int], Iterator]:
    """Returns epoch -> batches of a DataLoader with the transforms of the published code."""
    import torch
    from torchvision import transforms

    class Images(torch.utils.data.Dataset):
        transform = transforms.Compose(
            [
                transforms.Resize(SIZE),
                transforms.RandomHorizontalFlip(0.5),
                transforms.Pad(PAD),
                transforms.RandomCrop(SIZE),
                transforms.ToTensor(),
                transforms.Normalize(IMAGE_MEAN, IMAGE_STD),
                transforms.RandomErasing(0.5, scale=(0.02, 0.4), value=IMAGE_MEAN),
            ]
        )

        def __len__(self):
            return len(records.image_paths)

        def __getitem__(self, row):
            with Image.open(records.image_paths[row], formats=("JPEG", "PNG")) as image:
                return self.transform(image.convert("RGB")), int(records.pids[row])

    loader = torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    return lambda epoch: iter(loader)


def plain_loader(records: Records, workers: int) -> Callable[[int], Iterator]:
    """Returns epoch -> batches of processes that each decode and augment a batch with Pillow and NumPy."""
    with signals.blocked():
        pool = multiprocessing.get_context("spawn").Pool(workers)

    def receive(name: str) -> Float32[np.ndarray, "b h w 3"]:
        memory = shared_memory.SharedMemory(name)
        memory.unlink()
        try:
            return np.array(np.ndarray((BATCH, *SIZE, 3), np.float32, memory.buf))
        finally:
            memory.close()

    def batches(epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng(epoch).permutation(len(records.image_paths))
        pending = collections.deque()
        for rows in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH).tolist():
            job = [records.image_paths[row] for row in rows], (epoch, rows[0])
            pending.append(pool.apply_async(plain_batch, job))
            if len(pending) > 2 * workers:
                yield receive(pending.popleft().get())
        while pending:
            yield receive(pending.popleft().get())

    return batches


def plain_batch(paths: list[str], seed: tuple[int, ...]) -> str:
    """Augments and normalizes images, float32 [b, h, w, 3]; returns the name of their shared memory."""
    rng = np.random.default_rng(seed)
    mean, std = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    memory = shared_memory.SharedMemory(create=True, size=len(paths) * SIZE[0] * SIZE[1] * 3 * 4)
    batch = np.ndarray((len(paths), *SIZE, 3), np.float32, memory.buf)
    for row, path in enumerate(paths):
        with Image.open(path, formats=("JPEG", "PNG")) as file:
            image = file.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        top, left = rng.integers(-PAD, PAD + 1, 2).tolist()
        image = image.crop((left, top, left + SIZE[1], top + SIZE[0]))
        batch[row] = (np.asarray(image, np.float32) / 255 - mean) / std
        if rng.random() < 0.5 and (box := erase_box(rng, SIZE)):
            y, x, height, width = box
            batch[row, y : y + height, x : x + width] = mean
    memory.close()
    return memory.name


LOADERS = {"ours": tf_data_loader, "torch": torch_loader, "plain": plain_loader}


def worker_main(loader: str, folder: str, workers: int) -> None:
    """Runs an epoch for each line on stdin and prints its images per second and CPU seconds per image."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    paths = sorted(str(path) for path in Path(folder).glob("*.jpg"))
    captions = [["a person in a red coat and blue trousers walks past"]] * len(paths)
    records = Records("generated:train", paths, captions, np.arange(len(paths), dtype=np.int64))
    batches = LOADERS[loader](records, workers)
    for epoch, _ in enumerate(sys.stdin):
        start, cpu_start, images = time.perf_counter(), cpu_seconds(), 0
        for _ in batches(epoch):
            images += BATCH
        print(images / (time.perf_counter() - start), (cpu_seconds() - cpu_start) / images, flush=True)


def cpu_seconds() -> float:
    """Returns the CPU time of this process and its children so far; 0 without /proc."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # a process that has just ended
            fields = path.read_text().rpartition(") ")[2].split()
            parents[path.parent.name], ticks[path.parent.name] = fields[1], int(fields[11]) + int(fields[12])
    me = str(os.getpid())
    return sum(t for pid, t in ticks.items() if me in (pid, parents[pid])) / os.sysconf("SC_CLK_TCK")


def measure(images: int, repeats: int, workers: int, against: str) -> dict[str, list[EpochTiming]]:
    """Times the pipeline ("ours") and a baseline in turn.

    Args:
      images: the number of JPEGs to generate.
      repeats: the number of epochs to time; one more runs first as a warm-up.
      workers: the number of threads, processes and cores.
      against: the baseline, a key of `BASELINES`.

    Returns:
      The timings of each epoch by loader; "ours" comes first.

    Raises:
      UserError: a loader ended early.
    """
    names = ("ours", against)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_images(Path(folder), images)
        inputs, outputs = {}, {}
        for name in names:
            command = [sys.executable, "-m", "tpr_jax.bench.input", "--worker", name, folder]
            command += ["--workers", str(workers)]
            # A session of its own: Ctrl-C reaches only this process, which then ends the other.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            stack.enter_context(process)
            assert process.stdin is not None and process.stdout is not None  # pipes
            inputs[name], outputs[name] = process.stdin, process.stdout
            stack.callback(process.stdin.close)
        timings = {name: [] for name in names}
        for repeat in range(repeats + 1):
            for name in names if repeat % 2 else reversed(names):
                print("epoch", file=inputs[name], flush=True)
                line = outputs[name].readline()
                if not line:
                    raise UserError(f"the loader '{name}' ended early: see what it printed above")
                if repeat:
                    timings[name].append(EpochTiming(*map(float, line.split())))
    return timings


def render_table(timings: dict[str, list[EpochTiming]], workers: int) -> str:
    """Renders the Markdown table: a header and one row."""
    (rates, cpu), (base_rates, base_cpu) = (zip(*epochs, strict=True) for epochs in timings.values())
    ratios = [ours / theirs for ours, theirs in zip(rates, base_rates, strict=True)]
    median = statistics.median
    header = ["workers", "tf.data, images/s", f"{BASELINES[list(timings)[1]]}, images/s", "ratio"]
    row = [
        str(workers),
        f"{median(rates):.0f}",
        f"{median(base_rates):.0f}",
        f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} epochs)",
        f"{1e3 * median(cpu):.2f} and {1e3 * median(base_cpu):.2f}",
    ]
    return markdown.table([*header, "CPU ms per image"], [row])


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: there are too few images for a batch, or a loader ended early.
    """
    parser = arguments.Parser(
        prog="python -m tpr_jax.bench.input",
        description="Measures how many training images per second the input pipeline yields.",
        examples=("python -m tpr_jax.bench.input --workers 4",),
    )
    parser.add_argument("--images", type=int, default=2560, help="number of JPEGs to generate")
    parser.add_argument("--repeats", type=int, default=7, help="number of epochs to time")
    parser.add_argument("--workers", type=int, default=2, help="number of threads, processes and cores")
    parser.add_argument(
        "--against",
        choices=("torch", "plain"),
        help="a DataLoader of PyTorch, or plain processes; default: torch if it is installed",
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv[1:])
    if args.worker:
        worker_main(*args.worker, args.workers)
        return
    if args.images < BATCH:
        raise UserError(f"--images {args.images} is less than a batch of {BATCH}")
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    against = args.against or ("torch" if has_torch else "plain")
    print(render_table(measure(args.images, args.repeats, args.workers, against), args.workers))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
