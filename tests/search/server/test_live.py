"""The server takes up an index that was brought up to date, and keeps the one it has if that fails."""

import dataclasses
import gc
import json
import shutil
import threading
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests import search_galleries, served
from tpr_jax.models.methods import dm_adapter
from tpr_jax.search.index.build import build
from tpr_jax.search.index.forget import forget
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server import api, live
from tpr_jax.search.server.guard import Limits
from tpr_jax.search.server.live import CHANGED_NOTE, RETRY_POLLS, Follower, LiveIndex, following
from tpr_jax.weights.model_card import model_card

pytestmark = pytest.mark.everywhere


class Site:
    """An index on the disk, the server's view of it, and a client."""

    def __init__(self, folder, clip):
        self.photos, self.folder = folder / "photos", folder / "index"
        served.make_index(folder, clip)
        self.table = self.photos / "photos.jsonl"
        self.live = LiveIndex(open_searcher(self.folder))
        self.lines, self.opened = [], []
        self.follower = self.follow()
        app = api.make_app(self.live, Limits(rate=0, hosts=served.HERE))
        self.client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)

    def follow(self):
        def open_newer(current):
            self.opened.append(current)
            return open_searcher(self.folder, previous=current)

        return Follower(
            self.live, self.folder, open_newer, self.lines.append, live.read_signature(self.folder)
        )

    def keep_only(self, *rows):
        lines = self.table.read_text().splitlines(keepends=True)
        self.table.write_text("".join(lines[row] for row in rows))
        build(self.table, self.folder)

    def ask(self, **query):
        reply = self.client.post("/api/search", json={"text": "a red coat", **query})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def about(self):
        return self.client.get("/api/index").json()


@pytest.fixture
def site(tiny, tmp_path):
    return Site(tmp_path, tiny["clip"])


def test_takes_up_an_updated_index(site):
    before, model = site.about(), site.live.current.searcher.model
    site.follower.poll()
    assert site.opened == [] and site.lines == []  # nothing has changed: nothing is read
    site.keep_only(5, 2, 9)
    assert site.about() == before and site.ask()["count"] == 14
    site.follower.poll()
    after = site.about()
    assert after["count"] == 3 and after["version"] != before["version"]
    assert site.lines == ["the index has changed: 3 photos now"]
    assert site.live.current.searcher.model is model  # which takes seconds to load
    answer = site.ask()
    wanted = search(open_searcher(site.folder), "a red coat", top_k=24)["results"]
    assert [found["path"] for found in answer["results"]] == [found["path"] for found in wanted]
    assert answer["version"] == after["version"] and answer["count"] == 3
    assert {column["name"]: column["values"] for column in after["columns"]}["camera"] == [0, 2]
    assert "tpr_photos 3.0" in site.client.get("/metrics").text
    site.follower.poll()
    assert len(site.opened) == 1


def test_an_index_that_is_written_again_unchanged_is_not_a_change(site):
    before = site.about()
    build(site.table, site.folder)
    site.follower.poll()
    assert site.about() == before and site.lines == []


def test_an_index_made_again_from_other_photos_is_a_change(site, tiny, tmp_path):
    """Its index.json may be the same, except for what identifies the content."""
    before = site.about()["version"]
    search_galleries.photos(site.photos, seed=1)
    shutil.rmtree(site.folder)
    build(site.table, site.folder, tiny["clip"])
    old = site.live.current.searcher.index.info
    assert open_searcher(site.folder).index.info == old
    site.follower.poll()
    assert site.about()["version"] != before


def test_photos_and_rows_of_the_index_before(site):
    """A page that has not noticed the change shows the photos that it found, and asks for their like."""
    before = site.about()["version"]
    photo = site.client.get(f"/api/photos/5?v={before}").content
    site.keep_only(2, 5, 9)
    site.follower.poll()
    now = site.about()["version"]
    assert site.client.get(f"/api/photos/5?v={before}").content == photo
    assert site.client.get(f"/api/photos/1?v={now}").content == photo
    assert site.client.get("/api/photos/1").content == photo
    assert "no-cache" in site.client.get("/api/photos/1").headers["cache-control"]
    gone = site.client.get("/api/photos/5?v=0123456789ab")
    assert gone.status_code == 404 and "has changed since this row was found" in gone.json()["detail"]
    answer = site.client.post("/api/search", json={"like": 5, "version": before}).json()
    assert answer["results"][0]["path"] == "005.png" and answer["notes"] == []
    assert answer["version"] == now
    marks = {"right": [5, 4, "002.png"], "wrong": [9], "version": before}
    marked = site.client.post("/api/search", json={"text": "red", **marks}).json()
    assert marked["right"] == [1, "002.png"] and marked["wrong"] == [2]
    assert marked["notes"] == ["a marked photo is no longer in the index, and does not count"]
    same = site.client.post("/api/search", json={"text": "red", "right": [1, 0], "wrong": [2]}).json()
    assert marked["results"] == same["results"]
    lost = site.client.post("/api/search", json={"like": 4, "version": before})
    assert lost.status_code == 422 and "no longer in the index" in lost.json()["detail"]
    unknown = site.client.post("/api/search", json={"like": 1, "version": "other"}).json()
    assert unknown["notes"] == [CHANGED_NOTE.format(row=1)] and unknown["results"][0]["path"] == "005.png"


def test_releases_the_engine_of_the_index_before(site):
    """On an accelerator it holds all vectors of the index."""
    engine = weakref.ref(site.live.current.searcher.engine)
    site.opened = None  # the test's own list of searchers
    site.follower.open_newer = lambda current: open_searcher(site.folder, previous=current)
    site.keep_only(1, 2)
    site.follower.poll()
    gc.collect()
    assert engine() is None and site.client.get("/api/photos/1").status_code == 200


def test_finds_a_photo_in_another_table(site, tiny, tmp_path):
    old = site.live.current.searcher.index.table
    assert [live.find_photo(old, row, old) for row in (0, 3, served.BOXED, served.SECRET)] == [0, 3, 12, 13]
    assert live.find_photo(old, 14, old) is None and live.find_photo(old, -1, old) is None
    (site.photos / "003.png").rename(site.photos / "moved.png")
    (site.photos / "004.png").write_bytes((site.photos / "008.png").read_bytes())
    site.table.write_text(site.table.read_text().replace("003.png", "moved.png"))
    build(site.table, site.folder)
    new = open_searcher(site.folder).index.table
    assert live.find_photo(old, 3, new) == 3  # by its content
    assert live.find_photo(old, 4, new) == 4  # by its name: its content has changed


def test_keeps_the_index_if_the_new_one_is_damaged_and_says_so_once(site):
    before, info = site.about(), (site.folder / "index.json").read_text()
    (site.folder / "index.json").write_text(info[:40])
    for _ in range(5):
        site.follower.poll()
    assert site.about() == before and len(site.ask()["results"]) == 14
    (line,) = site.lines
    assert line.startswith("warning: ") and "is damaged" in line and "still serving the 14 photos" in line
    assert len(site.opened) == 1  # a damaged index is not read every second
    for _ in range(2 * RETRY_POLLS):
        site.follower.poll()
    assert len(site.opened) >= 2 and len(site.lines) == 1
    (site.folder / "index.json").unlink()
    site.follower.poll()
    assert len(site.lines) == 2 and "has no index yet" in site.lines[1]
    (site.folder / "index.json").write_text(info)
    site.follower.poll()
    assert site.about() == before and len(site.lines) == 2
    site.keep_only(0, 1)
    site.follower.poll()
    assert site.about()["count"] == 2


def test_tries_again_when_only_another_file_is_repaired(site):
    """The files that index.json names may come later, for example when an index is copied."""
    site.keep_only(0, 1, 2)
    name = site.folder / json.loads((site.folder / "index.json").read_text())["files"]["vectors"]
    content = name.read_bytes()
    name.unlink()
    site.follower.poll()
    assert site.about()["count"] == 14 and len(site.lines) == 1
    name.write_bytes(content)
    for _ in range(RETRY_POLLS):
        site.follower.poll()
    assert site.about()["count"] == 3


def test_any_error_keeps_the_thread_alive(site, monkeypatch):
    def broken(current):
        raise MemoryError("no room")

    site.keep_only(0)
    follower = Follower(site.live, site.folder, broken, site.lines.append, None)
    follower.poll()
    assert site.lines == ["warning: MemoryError: no room; still serving the 14 photos of before"]


def test_an_index_of_another_model_gets_that_model(site, tiny, own_clip):
    config = json.loads((own_clip / "config.json").read_text())
    config["logit_scale_init_value"] = 1.0
    (own_clip / "config.json").write_text(json.dumps(config))
    shutil.rmtree(site.folder)
    build(site.table, site.folder, own_clip)
    old = site.live.current.searcher.model
    site.follower.poll()
    assert site.live.current.searcher.model is not old
    wanted = search(open_searcher(site.folder), "a red coat", top_k=3)["results"]
    assert [found["row"] for found in site.ask(top_k=3)["results"]] == [found["row"] for found in wanted]


def test_an_index_of_another_image_size_gets_a_new_model(site, tiny):
    shutil.rmtree(site.folder)
    size = site.live.current.searcher.model.config.image_size
    build(site.table, site.folder, tiny["clip"], image_size=(2 * size[0], size[1]))
    site.follower.poll()
    assert site.live.current.searcher.model.config.image_size == (2 * size[0], size[1])


def test_no_request_is_dropped_or_mixed_while_the_index_changes(site):
    """Eight clients search without a pause while the index changes between 14 photos and fewer."""
    counts, ended = {}, threading.Event()
    body = json.dumps({"text": "a red coat", "top_k": 20}).encode()

    def keep_asking(address):
        asked = urllib.request.Request(f"{address}/api/search", body, {"content-type": "application/json"})
        answers = []
        while not ended.is_set():
            with urllib.request.urlopen(asked, timeout=served.PATIENCE) as reply:
                answers.append(json.load(reply))
        return answers

    lines = site.table.read_text()
    with served.running(site.live) as address, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(keep_asking, address) for _ in range(8)]
        try:
            for rows in ((3, 4, 5), range(14), (1, 2), range(9)):
                site.table.write_text(lines)
                site.keep_only(*rows)
                site.follower.poll()
                counts[site.about()["version"]] = len(rows)
        finally:
            ended.set()
        answers = [answer for future in futures for answer in future.result()]
    assert len(counts) == 4 and len(answers) > 20
    for answer in answers:
        assert answer["count"] == len(answer["results"]) == counts.get(answer["version"], 14)


def test_follows_in_a_thread_until_the_end(site, monkeypatch):
    taken = threading.Event()
    swap = site.live.swap
    monkeypatch.setattr(site.live, "swap", lambda snapshot: (swap(snapshot), taken.set()))
    before = set(threading.enumerate())
    with following(site.follower, seconds=0.01):
        (thread,) = set(threading.enumerate()) - before
        site.keep_only(0, 1, 2, 3)
        assert taken.wait(served.PATIENCE)
    assert site.about()["count"] == 4
    thread.join(served.PATIENCE)
    assert not thread.is_alive()


def test_names_the_model_by_its_card(tmp_path):
    """Method and data set of a run's model; a folder alone would be called `model` for every run."""
    run = tmp_path / "runs" / "demo" / "model"
    run.mkdir(parents=True)
    test = {"test": dict.fromkeys(("t2i", "i2t"), dict.fromkeys(("R1", "R5", "R10", "mAP", "mINP"), 1.0))}
    scores = {"zero_shot": test, "final": test}
    assert live.describe_model(str(run)) == "demo/model"
    card = model_card(
        dm_adapter(),
        where="runs/demo/model",
        params={"trainable": 1, "total": 2},
        image_size=(2, 2),
        results={"dataset": "cuhk_pedes", "trainable_params": 1, "total_params": 2, **scores},
    )
    (run / "README.md").write_text(card)
    assert live.describe_model(str(run)) == "dm_adapter on CUHK-PEDES"
    (run / "README.md").write_text("# My own card\n")
    assert live.describe_model(str(run)) == "demo/model"
    assert live.describe_model("openai/clip-vit-base-patch16") == "clip-vit-base-patch16"
    assert live.describe_model(str(tmp_path / "clip-mini")) == "clip-mini"


def test_the_version_depends_on_content_alone(site):
    index = site.live.current.searcher.index
    assert live.index_version(index) == live.index_version(open_searcher(site.folder).index)
    renumbered = dataclasses.replace(index, info={**index.info, "number": 99})
    assert live.index_version(renumbered) != live.index_version(index)
    order = np.arange(13, -1, -1)
    reordered = dataclasses.replace(index, table=index.table.take(order))
    assert live.index_version(reordered) != live.index_version(index)


def test_photos_of_the_index_before_are_not_shown_once_somebody_was_forgotten(site):
    before = site.about()["version"]
    assert site.client.get(f"/api/photos/5?v={before}").status_code == 200
    forget(site.folder, "path = '005.png'")
    site.follower.poll()
    assert site.about()["count"] == 13 and site.lines == ["the index has changed: 13 photos now"]
    assert site.client.get(f"/api/photos/5?v={before}").status_code == 404
    assert site.client.post("/api/search", json={"like": 5, "version": before}).json()["notes"]
