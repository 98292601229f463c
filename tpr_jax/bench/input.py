"""How many training pictures a second come out of the input pipeline, beside a PyTorch DataLoader.

    python -m tpr_jax.bench.input [--images N] [--repeats N] [--workers N]

Both read the same generated JPEGs of CUHK-PEDES' size (about 100 x 260) and make batches of 128 at 384 x 128
with the published augmentation: this project's tf.data pipeline with so many threads, and a DataLoader with
so many worker processes and torchvision's transforms on Pillow images. Where PyTorch is not installed, the
second is plain processes with the same transforms written in Pillow and NumPy, and is called that. The
pipeline masks captions besides; the other loads pictures only. What comes out is not alike in kind: bytes,
which the device normalizes later, here, and normalized float32 there, as in the published code.

Both run in processes of their own, on as many cores as there are workers, and take turns epoch by epoch, so
that whatever else the machine does meets both alike. Prints a Markdown table: medians, the median of the
ratios of epochs that followed one another, and the processor time that a picture takes, over all threads and
processes, in which other work on the machine hardly shows.
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

import numpy as np
from PIL import Image

from tpr_jax.data.augment import erase_box
from tpr_jax.data.mini_pedes import bundled_dir
from tpr_jax.data.records import Records, load_records
from tpr_jax.errors import UserError
from tpr_jax.models.config import IMAGE_MEAN, IMAGE_STD
from tpr_jax.utils.streams import quiet_when_closed

SIZE, BATCH, PAD = (384, 128), 128, 10
TITLES = {
    "torch": "PyTorch DataLoader, torchvision on Pillow",
    "plain": "processes, Pillow and NumPy",
}


def write_pictures(folder: Path, count: int, seed: int = 0) -> Records:
    """JPEGs of CUHK-PEDES' size, with a caption each: MiniPEDES' pictures enlarged, with a camera's noise.

    Widths about 100 and heights about 260 pixels, 10 kB each, as photos of that size have.
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


def ours(records: Records, workers: int) -> Callable[[int], Iterator]:
    """epoch -> batches, by the pipeline that training uses."""
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
    """epoch -> batches, by a DataLoader with the transforms of the published code."""
    import torch
    from torchvision import transforms

    class Pictures(torch.utils.data.Dataset):
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
        Pictures(), BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    return lambda epoch: iter(loader)


def plain_loader(records: Records, workers: int) -> Callable[[int], Iterator]:
    """epoch -> batches, by processes that decode and augment a batch each with Pillow and NumPy."""
    pool = multiprocessing.get_context("spawn").Pool(workers)

    def received(name: str) -> np.ndarray:
        memory = shared_memory.SharedMemory(name)
        memory.unlink()
        try:
            return np.array(np.ndarray((BATCH, *SIZE, 3), np.float32, memory.buf))
        finally:
            memory.close()

    def epoch_of(epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng(epoch).permutation(len(records.image_paths))
        waiting = collections.deque()
        for rows in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH).tolist():
            job = [records.image_paths[row] for row in rows], (epoch, rows[0])
            waiting.append(pool.apply_async(plain_batch, job))
            if len(waiting) > 2 * workers:
                yield received(waiting.popleft().get())
        while waiting:
            yield received(waiting.popleft().get())

    return epoch_of


def plain_batch(paths: list[str], seed: tuple[int, ...]) -> str:
    """Augmented and normalized pictures, float32 [b, h, w, 3], in shared memory of the name returned."""
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


LOADERS = {"ours": ours, "torch": torch_loader, "plain": plain_loader}


def serve(loader: str, folder: str, workers: int) -> None:
    """Runs an epoch for each line on stdin; answers with images a second, and processor seconds an image."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:workers])
    paths = sorted(str(path) for path in Path(folder).glob("*.jpg"))
    captions = [["a person in a red coat and blue trousers walks past"]] * len(paths)
    records = Records("generated:train", paths, captions, np.arange(len(paths), dtype=np.int64))
    batches = LOADERS[loader](records, workers)
    for epoch, _ in enumerate(sys.stdin):
        began, busy, seen = time.perf_counter(), processor_seconds(), 0
        for _ in batches(epoch):
            seen += BATCH
        print(seen / (time.perf_counter() - began), (processor_seconds() - busy) / seen, flush=True)


def processor_seconds() -> float:
    """What this process and those that it started have taken so far; 0 where there is no /proc."""
    parents, taken = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # one that has just ended
            fields = path.read_text().rpartition(") ")[2].split()
            parents[path.parent.name], taken[path.parent.name] = fields[1], int(fields[11]) + int(fields[12])
    me = str(os.getpid())
    return sum(t for pid, t in taken.items() if me in (pid, parents[pid])) / os.sysconf("SC_CLK_TCK")


def measure(images: int, repeats: int, workers: int, against: str) -> dict[str, list[tuple[float, float]]]:
    """(images a second, processor seconds an image) of each epoch of both; the first of each is left out."""
    names = ("ours", against)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_pictures(Path(folder), images)
        processes = {}
        for name in names:
            command = [sys.executable, "-m", "tpr_jax.bench.input", "--serve", name, folder]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            process = subprocess.Popen([*command, "--workers", str(workers)], **pipes)
            processes[name] = stack.enter_context(process)
            stack.callback(process.stdin.close)
        found = {name: [] for name in names}
        for repeat in range(repeats + 1):
            for name in names if repeat % 2 else reversed(names):
                print("epoch", file=processes[name].stdin, flush=True)
                answer = processes[name].stdout.readline()
                if not answer:
                    raise UserError(f"the loader '{name}' ended early: see what it printed above")
                if repeat:
                    found[name].append(tuple(map(float, answer.split())))
    return found


def table(found: dict[str, list[tuple[float, float]]], workers: int) -> str:
    """Two lines of heading and one of numbers."""
    (rates, busy), (other_rates, other_busy) = (zip(*epochs, strict=True) for epochs in found.values())
    ratios = [ours / other for ours, other in zip(rates, other_rates, strict=True)]
    middle = statistics.median
    other = TITLES[list(found)[1]]
    heading = f"| workers | tf.data, images/s | {other}, images/s | ratio | processor ms an image |"
    return (
        f"{heading}\n|{'---|' * 5}\n"
        f"| {workers} | {middle(rates):.0f} | {middle(other_rates):.0f} "
        f"| {middle(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} epochs) "
        f"| {1e3 * middle(busy):.2f} against {1e3 * middle(other_busy):.2f} |"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tpr_jax.bench.input", description="Pictures a second of the input pipeline."
    )
    parser.add_argument("--images", type=int, default=2560, help="how many JPEGs are made")
    parser.add_argument("--repeats", type=int, default=7, help="epochs of each that count")
    parser.add_argument("--workers", type=int, default=2, help="threads, processes, and cores")
    parser.add_argument("--against", choices=("torch", "plain"), help="default: torch where it is installed")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve(*args.serve, args.workers)
        return 0
    found = all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    against = args.against or ("torch" if found else "plain")
    try:
        if args.images < BATCH:
            raise UserError(f"--images {args.images} is less than a batch of {BATCH}")
        print(table(measure(args.images, args.repeats, args.workers, against), args.workers))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
