"""An index of a video of two people, and of a photo that shows them, with its server's client."""

import json
from pathlib import Path

from fastapi.testclient import TestClient
from PIL import Image

from tests.footage.indexed import index
from tests.footage.videos import SIZE, box_at, frame_with_people, open_cv, people
from tests.served import HERE
from tpr_jax.search.query.search import Searcher, open_searcher
from tpr_jax.search.server.api import make_app
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import LiveIndex

FRAMES, RATE, PHOTO_FRAME = 60, 10.0, 10
CODES = {".avi": "MJPG", ".mp4": "mp4v", ".webm": "VP80"}


def write_walk(path: Path) -> Path:
    """Writes a video of six seconds; browsers play it if it is a .webm."""
    cv2 = open_cv()
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*CODES[path.suffix]), RATE, SIZE)
    assert writer.isOpened()
    drawn = people(2)
    for frame in range(FRAMES):
        writer.write(cv2.cvtColor(frame_with_people(frame, drawn), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def make_scenes(
    folder: Path, *names: str, flags=("--clock", "2024-05-01 10:00", "--every", "0.5")
) -> Searcher:
    """Indexes videos of these names, and the photo `street.png`, with their true boxes."""
    source = folder / "footage"
    source.mkdir(parents=True)
    boxes = []
    for name in names:
        write_walk(source / name)
        for frame in range(0, FRAMES, 5):
            boxes += [{"image": name, "frame": frame, **one} for one in columns(frame)]
    Image.fromarray(frame_with_people(PHOTO_FRAME, people(2))).save(source / "street.png")
    boxes += [{"image": "street.png", **one} for one in columns(PHOTO_FRAME)]
    (folder / "boxes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in boxes))
    index(source, *flags, boxes="boxes.jsonl")
    return open_searcher(folder / "index")


def columns(frame: int) -> list[dict]:
    return [dict(zip("xywh", box_at(person, frame), strict=True)) for person in range(2)]


def rows_of(searcher: Searcher, video: str | None) -> list[int]:
    """Returns the rows of a video, or those of the photo."""
    return [row for row, name in enumerate(searcher.index.table["video"].to_pylist()) if name == video]


def client_of(searcher: Searcher, blur_faces: bool = False, **options) -> TestClient:
    app = make_app(LiveIndex(searcher, blur_faces), Limits(rate=0, hosts=HERE), **options)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
