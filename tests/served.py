"""An index with columns, boxes and a photo that carries metadata, and the server of it, for the tests."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from PIL import Image

from tests import search_galleries
from tpr_jax.search.index.build import build
from tpr_jax.search.server import serve
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.guard import Limits

NAMES = [f"{number:03d}.png" for number in range(12)]
BOXED, SECRET = 12, 13  # rows of the photo with a box, and of the one with metadata
SECRET_TEXT = b"taken at 48.1N 11.5E"
HERE = frozenset({"127.0.0.1"})


def make_index(folder: Path, clip: str) -> Path:
    """Fourteen photos: twelve plain ones, row 12 the lower half of the first, row 13 a JPEG with EXIF."""
    search_galleries.photos(folder / "photos")
    picture = Image.open(folder / "photos" / "001.png")
    exif = picture.getexif()
    exif[0x010E] = SECRET_TEXT.decode()
    picture.save(folder / "photos" / "secret.jpg", exif=exif, comment=SECRET_TEXT)
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
    """The address of a server of it, in a thread of this process."""
    limits = limits or Limits(rate=0, hosts=HERE)
    app = make_app(searcher, limits)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(serve.settings(app, limits))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        try:
            assert server.started
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
