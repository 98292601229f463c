"""An index with columns, boxes and a photo with metadata, and its server, for tests."""

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from PIL import Image

from tests import search_galleries
from tpr_jax.search.index.build import build
from tpr_jax.search.server import serve
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.guard import Guard, Limits
from tpr_jax.search.server.live import LiveIndex

NAMES = [f"{number:03d}.png" for number in range(12)]
BOXED, SECRET = 12, 13  # rows of the photo with a box, and of the one with metadata
SECRET_TEXT = b"taken at 48.1N 11.5E"
HERE = frozenset({"127.0.0.1"})
PATIENCE = 120  # seconds to wait on a busy machine for anything that must happen


def make_index(folder: Path, clip: str) -> Path:
    """Indexes fourteen photos: twelve plain ones, the lower half of the first, and a JPEG with EXIF data."""
    search_galleries.photos(folder / "photos")
    image = Image.open(folder / "photos" / "001.png")
    exif = image.getexif()
    exif[0x010E] = SECRET_TEXT.decode()
    image.save(folder / "photos" / "secret.jpg", exif=exif, comment=SECRET_TEXT)
    lines = [
        {"image": name, "camera": number % 3, "note": f"it's {name}", "seen": f"2024-05-{number + 1:02d}"}
        for number, name in enumerate(NAMES)
    ]
    lines.append({"image": NAMES[0], "x": 0, "y": 20, "w": 20, "h": 20, "camera": 7})
    lines.append({"image": "secret.jpg", "camera": 8})
    table = folder / "photos" / "photos.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    build(table, folder / "index", clip)
    return folder / "index"


@contextlib.contextmanager
def running(searcher, limits: Limits | None = None) -> Iterator[str]:
    """Runs a server of a `Searcher` or `LiveIndex` in a thread of this process; yields its address."""
    live = searcher if isinstance(searcher, LiveIndex) else LiveIndex(searcher)
    with running_app(lambda limits: make_app(live, limits), limits) as address:
        yield address


@contextlib.contextmanager
def running_app(make: Callable[[Limits], Guard], limits: Limits | None = None) -> Iterator[str]:
    """Runs a server of an application, given its limits; yields its address."""
    limits = limits or Limits(rate=0, hosts=HERE)
    app = make(limits)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(serve.server_config(app, limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        end = time.monotonic() + PATIENCE
        while not server.started and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        try:
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def read_line(process: subprocess.Popen, seconds: float = PATIENCE) -> str:
    """Returns the next line of a child's stdout; kills the child and fails if none comes in time."""
    timer = threading.Timer(seconds, process.kill)  # its end closes the pipe
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    assert line, f"the process printed no line within {seconds} s"
    return line
