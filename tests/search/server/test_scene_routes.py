"""Scenes over HTTP: frames, moments, and the bytes of a video by ranges."""

import io
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from tests.footage.scenes import client_of, make_scenes, rows_of
from tests.footage.videos import number_shown, open_cv
from tests.served import PATIENCE
from tpr_jax.search.server import scene_routes, scenes
from tpr_jax.search.server.ranges import MAX_OPEN_PART

open_cv()


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("routes"), "gate.avi", "yard.webm")


@pytest.fixture
def client(searcher):
    return client_of(searcher)


@pytest.fixture(scope="module")
def film(searcher):
    return (searcher.index.folder.parent / "footage" / "yard.webm").read_bytes()


def pixels_of(reply):
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/jpeg"
    return np.asarray(Image.open(io.BytesIO(reply.content)).convert("RGB"))


def test_describes_and_shows_the_scene_of_a_video(client, searcher):
    row = rows_of(searcher, "gate.avi")[0]
    frame = searcher.index.table["frame"][row].as_py()
    answer = client.get(f"/api/scenes/{row}").json()
    box = [searcher.index.table[name][row].as_py() for name in "xywh"]
    seconds = frame / 10
    assert answer == {
        "kind": "video", "box": box, "width": 320, "height": 240, "seconds": seconds,
        "before": 3.0, "after": 4.0, "media_type": None,
    }  # fmt: skip
    reply = client.get(f"/api/scenes/{row}/frame")
    assert number_shown(pixels_of(reply)) == frame and reply.headers["cache-control"] == "private, no-cache"
    version = client.get("/api/index").json()["version"]
    kept = client.get(f"/api/scenes/{row}/frame?v={version}").headers["cache-control"]
    assert kept == "private, max-age=3600"


def test_moments_have_times_and_frames(client, searcher):
    row = rows_of(searcher, "gate.avi")[0]
    times = client.get(f"/api/scenes/{row}/moments").json()["seconds"]
    assert searcher.index.table["frame"][row].as_py() / 10 in times
    assert len(times) > 5 and times == sorted(set(times))
    for number, seconds in enumerate(times):
        shown = pixels_of(client.get(f"/api/scenes/{row}/moments/{number}"))
        assert number_shown(shown) == round(10 * seconds)
    reply = client.get(f"/api/scenes/{row}/moments/{len(times)}")
    assert reply.status_code == 404 and reply.json()["detail"] == f"there are moments 0 to {len(times) - 1}"


def test_the_scene_of_a_photo(client, searcher):
    row = rows_of(searcher, None)[0]
    answer = client.get(f"/api/scenes/{row}").json()
    assert answer["kind"] == "photo" and answer["seconds"] is None and answer["media_type"] is None
    assert pixels_of(client.get(f"/api/scenes/{row}/frame")).shape == (240, 320, 3)
    for path in ("moments", "moments/0", "video"):
        assert client.get(f"/api/scenes/{row}/{path}").status_code == 404


def test_a_whole_video_and_its_head(client, searcher, film):
    row = rows_of(searcher, "yard.webm")[0]
    assert client.get(f"/api/scenes/{row}").json()["media_type"] == "video/webm"
    whole, head = (client.request(method, f"/api/scenes/{row}/video") for method in ("GET", "HEAD"))
    assert whole.status_code == head.status_code == 200 and whole.content == film and head.content == b""
    for reply in (whole, head):
        assert reply.headers["content-length"] == str(len(film))
        assert reply.headers["accept-ranges"] == "bytes" and reply.headers["content-type"] == "video/webm"
        assert "media-src 'self'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-99", 0, 100),
        ("100-100", 100, 101),
        ("-50", -50, None),
        ("200-", 200, None),
        ("5-99999999", 5, None),
    ],
)
def test_a_range_of_a_video(client, searcher, film, asked, start, stop):
    address = f"/api/scenes/{rows_of(searcher, 'yard.webm')[0]}/video"
    wanted = film[start:stop]
    first = start % len(film)
    for method in ("GET", "HEAD"):
        reply = client.request(method, address, headers={"range": f"bytes={asked}"})
        assert reply.status_code == 206 and reply.content == (wanted if method == "GET" else b"")
        assert reply.headers["content-range"] == f"bytes {first}-{first + len(wanted) - 1}/{len(film)}"
        assert reply.headers["content-length"] == str(len(wanted))


def test_ranges_that_the_file_does_not_have(client, searcher, film):
    address = f"/api/scenes/{rows_of(searcher, 'yard.webm')[0]}/video"
    for asked in (f"{len(film)}-", "-0"):
        reply = client.get(address, headers={"range": f"bytes={asked}"})
        assert reply.status_code == 416 and reply.headers["content-range"] == f"bytes */{len(film)}"
        assert "bytes" in reply.json()["detail"]
    for ignored in ("bytes=3-1", "bytes=0-1,4-5", "lines=1-2"):
        reply = client.get(address, headers={"range": ignored})
        assert reply.status_code == 200 and reply.content == film


def test_a_range_of_another_version_of_the_file_is_the_whole_file(client, searcher, film):
    address = f"/api/scenes/{rows_of(searcher, 'yard.webm')[0]}/video"
    known = client.head(address).headers
    for value, status in ((known["etag"], 206), (known["last-modified"], 206), ('"another"', 200)):
        reply = client.get(address, headers={"range": "bytes=0-9", "if-range": value})
        assert reply.status_code == status and len(reply.content) == (10 if status == 206 else len(film))


def test_a_long_video_is_sent_in_parts(client, searcher, monkeypatch):
    assert MAX_OPEN_PART > 2**20
    monkeypatch.setattr("tpr_jax.search.server.ranges.MAX_OPEN_PART", 1000)
    monkeypatch.setattr(scene_routes, "PIECE", 300)
    address = f"/api/scenes/{rows_of(searcher, 'yard.webm')[0]}/video"
    reply = client.get(address, headers={"range": "bytes=10-"})
    assert reply.status_code == 206 and len(reply.content) == 1000
    assert reply.headers["content-range"].startswith("bytes 10-1009/")


def test_a_video_that_no_browser_plays_is_not_sent(client, searcher):
    reply = client.get(f"/api/scenes/{rows_of(searcher, 'gate.avi')[0]}/video")
    assert reply.status_code == 404 and "moments" in reply.json()["detail"]


def test_rows_and_versions_that_are_not_there(client, searcher):
    count = searcher.index.table.num_rows
    for path in ("", "/frame", "/moments", "/moments/0", "/video"):
        reply = client.get(f"/api/scenes/{count}{path}")
        assert reply.status_code == 404 and reply.json()["detail"] == f"the index has rows 0 to {count - 1}"
        reply = client.get(f"/api/scenes/0{path}?v=other")
        assert reply.status_code == 404 and "search again" in reply.json()["detail"]
        assert client.get(f"/api/scenes/..%2f..%2fetc{path}").status_code in (404, 422)


def test_files_that_are_gone_are_410_and_the_crop_stays(tmp_path):
    searcher = make_scenes(tmp_path, "yard.webm")
    client, row = client_of(searcher), rows_of(searcher, "yard.webm")[0]
    os.utime(tmp_path / "footage" / "yard.webm")
    for path in ("", "/frame", "/moments", "/moments/0", "/video"):
        reply = client.get(f"/api/scenes/{row}{path}")
        assert reply.status_code == 410 and str(tmp_path) not in reply.text
        detail = "the video yard.webm has changed since it was indexed: index it again"
        assert reply.json() == {"detail": detail}
    assert client.get(f"/api/photos/{row}?size=large").status_code == 200


@pytest.mark.parametrize(("blur_faces", "playback"), [(False, False), (True, True)])
def test_without_playback_or_with_blurred_heads_nothing_but_the_people_is_served(
    searcher, blur_faces, playback
):
    client = client_of(searcher, playback=playback, blur_faces=blur_faces)
    assert client.get("/api/index").json()["scenes"] is False
    row = rows_of(searcher, "yard.webm")[0]
    for path in ("", "/frame", "/moments", "/moments/0", "/video"):
        assert client.get(f"/api/scenes/{row}{path}").status_code == 404
    assert client.get(f"/api/photos/{row}").status_code == 200
    assert not any("scenes" in path for path in client.get("/openapi.json").json()["paths"])


def test_decoding_does_not_hold_up_other_requests_and_is_limited(client, searcher, monkeypatch):
    """As many frames as there are decoders wait here; further ones wait too, or are asked to retry."""
    row, go, running, entered = rows_of(searcher, "gate.avi")[0], threading.Event(), [], []
    run = scene_routes.run_in_thread

    def slow(scene):
        running.append(scene)
        assert go.wait(PATIENCE)
        return scenes.Shown(b"", (1, 1), 0.0)

    def enter(work, **options):
        entered.append(work)
        return run(work, **options)

    monkeypatch.setattr(scenes, "show_frame", slow)
    monkeypatch.setattr(scene_routes, "run_in_thread", enter)
    monkeypatch.setattr(scene_routes, "MAX_WAITING", 4)
    with client:
        asking = [threading.Thread(target=client.get, args=(f"/api/scenes/{row}/frame",)) for _ in range(4)]
        for thread in asking:
            thread.start()
        for _ in range(PATIENCE * 10):
            if len(entered) == 4 and len(running) == scene_routes.MAX_DECODERS:
                break
            time.sleep(0.1)
        refused = client.get(f"/api/scenes/{row}/moments")
        assert refused.status_code == 503 and refused.headers["retry-after"] == "2"
        assert len(running) == scene_routes.MAX_DECODERS
        assert client.get(f"/api/photos/{row}").status_code == 200
        assert client.post("/api/search", json={"text": "a red coat"}).status_code == 200
        go.set()
        for thread in asking:
            thread.join(PATIENCE)
    assert len(running) == 4
