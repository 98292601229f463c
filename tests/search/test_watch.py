"""Alerts: new rows that match, once each, over restarts, and an address that fails."""

import http.server
import json
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests import search_galleries, served
from tests.conftest import ROOT, _environment
from tpr_jax.errors import UserError
from tpr_jax.search import watch as watch_lib
from tpr_jax.search.__main__ import main
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import open_searcher
from tpr_jax.search.watch import Alert, Watcher, post_match, row_keys

TEXTS = ("a red coat", "blue trousers")


class Site:
    """An index that grows by photos, and watchers of it."""

    def __init__(self, folder, clip):
        self.folder, self.alerts, self.sent, self.works = folder, [], [], True
        search_galleries.photos(folder / "made", 8)
        (folder / "photos").mkdir()
        self.show("000.png", "001.png", clip=clip)

    def show(self, *names, clip=None):
        for name in names:
            shutil.copy(self.folder / "made" / name, self.folder / "photos" / name)
        build(self.folder / "photos", self.folder / "index", clip)

    def take(self, alert=None, post=False):
        """A watcher that is started anew, as after a restart."""
        alert = alert or Alert(TEXTS[:1], -1.0)
        watcher = Watcher(alert, self.folder / "state.json", self.alerts.append, self.post if post else None)
        watcher.take(open_searcher(self.folder / "index"))
        return watcher

    def post(self, match):
        if self.works:
            self.sent.append(match["path"])
        return self.works

    def paths(self):
        return [match["path"] for match in self.alerts]


@pytest.fixture
def site(tiny, tmp_path):
    return Site(tmp_path, tiny["clip"])


def test_only_new_rows_once_each_over_restarts(site):
    watcher = site.take()
    assert site.alerts == []
    site.show("002.png", "003.png")
    site.take()  # what came while nobody watched
    assert site.paths() == ["002.png", "003.png"]
    site.take()
    site.show("004.png")
    watcher = site.take()
    watcher.take(open_searcher(site.folder / "index"))
    assert site.paths() == ["002.png", "003.png", "004.png"]


def test_a_match_is_that_of_the_query(site):
    site.take()
    site.show("002.png", "003.png", "004.png")
    searcher = open_searcher(site.folder / "index")
    feats = searcher.model.encode_texts(list(TEXTS))
    scores = searcher.index.vectors.astype(np.float32)[2:] @ feats.T
    above = float(np.median(scores))
    site.take(Alert(TEXTS, above))
    found = {(match["row"], match["text"]) for match in site.alerts}
    assert found == {(int(r) + 2, TEXTS[t]) for r, t in np.argwhere(scores >= above)}
    for match in site.alerts:
        assert match["score"] == pytest.approx(scores[match["row"] - 2, TEXTS.index(match["text"])], abs=1e-3)
        assert match["path"] == f"00{match['row']}.png" and match["box"] is None
        assert set(match) == {"time", "text", "score", "chance", "row", "path", "box", "columns"}
        assert json.loads(json.dumps(match)) == match


def test_a_condition(site):
    site.take()
    site.show("002.png", "003.png")
    site.take(Alert(TEXTS[:1], -1, "path = '003.png'"))
    assert site.paths() == ["003.png"]


def test_rows_that_are_gone_leave_the_state(site):
    site.take()
    keys = row_keys(open_searcher(site.folder / "index").index)
    (site.folder / "photos" / "000.png").unlink()
    site.show("002.png")
    site.take()
    text = (site.folder / "state.json").read_text()
    assert keys[0] not in text and keys[1] in text and "png" not in text


def test_a_kill_while_printing_repeats_and_loses_nothing(site):
    site.take()
    site.show("002.png", "003.png", "004.png")

    def killed(match):
        site.alerts.append(match)
        if len(site.alerts) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watcher(Alert(TEXTS[:1], -1), site.folder / "state.json", killed).take(
            open_searcher(site.folder / "index")
        )
    site.take()
    assert site.paths() == ["002.png", "003.png", "003.png", "004.png"]


def test_an_address_that_fails_gets_the_matches_later(site):
    site.take(post=True)
    site.works = False
    site.show("002.png", "003.png")
    site.take(post=True)
    assert site.paths() == ["002.png", "003.png"] and site.sent == []
    site.works = True
    site.take(post=True)
    assert len(site.alerts) == 2 and site.sent == ["002.png", "003.png"]
    site.take(post=True)
    assert len(site.sent) == 2


def test_sends_json_and_tries_again():
    bodies, waits, said = [], [], []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            bodies.append((self.headers["content-type"], json.loads(body)))
            self.send_response(500 if len(bodies) < 3 else 204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/alerts"
        assert post_match(url, {"row": 3}, said.append, waits.append)
        assert bodies == [("application/json", {"row": 3})] * 3 and waits == [1.0, 4.0] and said == []
        server.shutdown()
    assert not post_match(url, {"row": 3}, said.append, waits.append)
    (line,) = said
    assert line.startswith(f"warning: --post {url}: row 3 was not sent in 3 attempts (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--above", "2"], "--above 2.0: must be a cosine"),
        (["--above", "0", "--post", "ftp://a/b"], "--post ftp://a/b: must be an address"),
        (["--above", "0", "--where", "color = 1"], "column 'color' is unknown"),
        (["--above", "0", "--state", "{photo}"], "cannot be read"),
        (["--above", "0", "--text", ""], "--text '': is not a description"),
        (["--above", "0", "--text", " \t"], "is not a description"),
        ([], "--above"),
    ],
)
def test_user_errors_are_one_line(site, words, message, capsys):
    words = [word.format(photo=site.folder / "made" / "000.png") for word in words]
    assert main(["watch", "--index", str(site.folder / "index"), "--text", "a red coat", *words]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and message in line and line.count("\n") == 1


def test_each_alert_has_a_state_of_its_own():
    alerts = [Alert(("a",), 0.3), Alert(("b",), 0.3), Alert(("a",), 0.4), Alert(("a",), 0.3, "x=1")]
    names = {alert.name(None) for alert in alerts} | {alerts[0].name("http://a")}
    assert len(names) == 5 and all(name.startswith("watch-") for name in names)
    assert watch_lib.Alert(("a",), 0.3).name(None) == alerts[0].name(None)


@pytest.mark.parametrize("texts", [(), "a red coat", ("a red coat", "  "), ("a red coat", None)])
def test_the_texts_are_checked_before_the_index_is_opened(tmp_path, texts):
    with pytest.raises(UserError, match=r"^--text "):
        watch_lib.watch(tmp_path / "none", Alert(texts, 0.3))


def test_the_address_is_checked():
    for url in ("", "alerts", "file:///etc/passwd", "http://", "http://[1"):
        with pytest.raises(UserError, match="--post"):
            watch_lib.check_address(url)
    watch_lib.check_address("https://example.org/a")


def test_the_command_follows_the_index(site):
    command = [sys.executable, "-m", "tpr_jax.search", "watch", "--index", site.folder / "index"]
    command += ["--text", "a red coat", "--above", "-1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            assert "watching 2 photos" in process.stderr.readline()
            site.show("002.png")
            assert json.loads(served.read_line(process))["path"] == "002.png"
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=served.PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "") and errors.splitlines()[-1] == "ended"
    assert len(list((site.folder / "index").glob("watch-*.json"))) == 1
