"""Alerts: prints what is new in an index and matches descriptions, as JSON lines.

The index is followed as by the server. What was seen is kept in a file: a restart neither repeats nor loses
an alert. The file holds digests of rows, no photos, names or vectors; rows that are no longer in the index
are removed from it.
"""

import functools
import hashlib
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from tpr_jax.errors import ArgumentError, UserError, shown
from tpr_jax.search.index import store
from tpr_jax.search.query.exact import rescore
from tpr_jax.search.query.search import Searcher, describe_row, encode_query, open_searcher
from tpr_jax.search.query.where import matching
from tpr_jax.search.server.live import POLL_SECONDS, Follower, LiveIndex, read_signature
from tpr_jax.utils.files import write_json
from tpr_jax.utils.plural import counted

POST_SECONDS = 10.0  # until an address that does not answer has failed
POST_WAITS = (1.0, 4.0)  # seconds before the second and the third attempt
_KEY_DIGITS = 16  # of the SHA-256 that stands for a row


@dataclass(frozen=True)
class Alert:
    """What to look for: rows that score at least `above` for one of the texts, and meet `where`."""

    texts: tuple[str, ...]
    above: float
    where: str | None = None

    def name(self, post: str | None) -> str:
        """Returns the name of the file of the state: each alert has its own."""
        text = json.dumps([self.texts, self.above, self.where, post])
        return f"watch-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


class _State:
    """Which rows were seen, and which matches have not reached the address yet."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: set[str] | None = None
        self.unsent: list[tuple[str, str]] = []  # (row, text)
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            self.seen, self.unsent = set(fields["seen"]), [(row, text) for row, text in fields["unsent"]]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"--state {path}: cannot be read ({error}); remove it to begin anew") from None

    def write(self) -> None:
        """Writes the state. Raises UserError if it cannot."""
        write_json(self.path, {"seen": sorted(self.seen or ()), "unsent": self.unsent})


def row_keys(index: store.Index) -> list[str]:
    """Returns what identifies each row: a digest of the photo's content and the box."""
    digests = index.table[store.FILE_COLUMNS[2]].to_pylist()
    pairs = zip(digests, store.boxes(index.table), strict=True)
    return [hashlib.sha256(d + repr(box).encode()).hexdigest()[:_KEY_DIGITS] for d, box in pairs]


class Watcher:
    """Finds new matches whenever the index has changed.

    Args:
      alert: what to look for.
      state: the file of the state.
      emit: called with each match.
      post: sends a match to an address, and returns whether it arrived; None without an address.
    """

    def __init__(
        self,
        alert: Alert,
        state: Path,
        emit: Callable[[dict], object],
        post: Callable[[dict], bool] | None = None,
    ):
        self._alert, self._state, self._emit, self._post = alert, _State(state), emit, post

    def take(self, searcher: Searcher) -> None:
        """Reports the rows that match and were not there before; the first index without a state has none.

        A match is printed before it counts as seen: a kill in between repeats it, and loses nothing.
        """
        keys, state = row_keys(searcher.index), self._state
        rows = {key: row for row, key in enumerate(keys)}
        if state.seen is None:
            state.seen = set(keys)
            state.write()
            return
        current = set(keys)
        state.unsent = [(key, text) for key, text in state.unsent if key in current]
        state.seen &= current
        new = [row for key, row in rows.items() if key not in state.seen]
        for match in self._matches(searcher, new):
            self._emit(match)
            key = keys[match["row"]]
            if self._post is not None:
                state.unsent.append((key, match["text"]))
            state.seen.add(key)
            state.write()
        state.seen |= current
        state.write()
        self._send(searcher, rows)

    def _send(self, searcher: Searcher, rows: dict[str, int]) -> None:
        """Sends the matches that have not arrived; stops at the first that does not arrive now."""
        while self._post is not None and self._state.unsent:
            key, text = self._state.unsent[0]
            (match, *_) = [*self._matches(searcher, [rows[key]], (text,)), None]
            if match is not None and not self._post(match):
                return
            self._state.unsent.pop(0)
            self._state.write()

    def _matches(
        self, searcher: Searcher, rows: Iterable[int], texts: tuple[str, ...] | None = None
    ) -> list[dict]:
        """Returns the matches among some rows, by row."""
        index, alert = searcher.index, self._alert
        chosen = np.array(list(rows), np.int64)
        if alert.where is not None and len(chosen):
            chosen = chosen[matching(store.public_table(index), alert.where)[chosen]]
        found = []
        for text in texts or alert.texts:
            query, _ = encode_query(searcher.model, text, None)
            scores = rescore(index.vectors, query, chosen)
            found += [
                (row, score, text)
                for row, score in zip(chosen.tolist(), scores.tolist(), strict=True)
                if score >= alert.above
            ]
        return [describe_match(searcher, row, score, text) for row, score, text in sorted(found)]


def describe_match(searcher: Searcher, row: int, score: float, text: str) -> dict:
    """Returns the JSON object of a match."""
    baseline = searcher.baselines.find(1, 0)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "text": text,
        "score": round(score, 6),
        "chance": None if baseline is None else round(baseline.of_result(score), 4),
        "row": row,
        **describe_row(searcher.index, row),
    }


def check_texts(texts: Sequence[str]) -> None:
    """Raises UserError if there is no text, or one is blank or something else."""
    if isinstance(texts, str) or not texts:
        raise ArgumentError(f"--text {shown(texts)}: must be one or more descriptions of the person")
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError(f"--text {shown(text)}: is not a description: describe the person in words")


def check_address(url: str) -> None:
    """Raises UserError if a URL is not one of HTTP."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return
    except ValueError:
        pass
    raise UserError(f"--post {url}: must be an address such as http://127.0.0.1:9000/alerts")


def post_match(
    url: str, match: dict, log: Callable[[str], object], sleep: Callable[[float], object] = time.sleep
) -> bool:
    """Sends a match as JSON; returns whether it arrived, and logs one line if it did not."""
    reason = ""
    for wait in (*POST_WAITS, None):
        request = urllib.request.Request(
            url, json.dumps(match).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=POST_SECONDS):
                return True
        except (OSError, ValueError, urllib.error.URLError) as error:
            reason = str(getattr(error, "reason", error))
        if wait is not None:
            sleep(wait)
    attempts = counted(len(POST_WAITS) + 1, "attempt")
    log(f"warning: --post {url}: row {match['row']} was not sent in {attempts} ({reason}); kept for later")
    return False


def watch(
    folder: str | os.PathLike,
    alert: Alert,
    *,
    model: str | os.PathLike | None = None,
    engine: str = "auto",
    post: str | None = None,
    state: str | os.PathLike | None = None,
    ended: threading.Event | None = None,
) -> None:
    """Prints new matches until it is interrupted, or `ended` is set.

    Args:
      folder: the index.
      alert: what to look for.
      model: where the index's model is now; by default where it was.
      engine: see `make_engine`.
      post: the address to which matches are sent too.
      state: the file of the state; by default one in the folder of the index.
      ended: ends the function.

    Raises:
      UserError: as `open_searcher`; an argument is invalid; or the state cannot be read or written.
    """
    check_texts(alert.texts)
    if not -1 <= alert.above <= 1:
        raise UserError(f"--above {alert.above}: must be a cosine from -1 to 1, such as 0.3")
    if post is not None:
        check_address(post)
    ended = ended or threading.Event()
    signature = read_signature(folder)
    searcher = open_searcher(folder, model, engine)
    if alert.where is not None:
        matching(store.public_table(searcher.index), alert.where)  # an invalid condition ends the command now

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def emit(match: dict) -> None:
        print(json.dumps(match), flush=True)

    send = None if post is None else functools.partial(post_match, post, log=log, sleep=ended.wait)
    path = Path(folder, alert.name(post)) if state is None else Path(state)
    watcher = Watcher(alert, path, emit, send)
    watcher.take(searcher)
    live = LiveIndex(searcher)

    def open_newer(current: Searcher) -> Searcher:
        return open_searcher(folder, model, engine, previous=current)

    follower = Follower(live, folder, open_newer, log, signature)
    log(f"watching {counted(len(searcher.index.vectors), 'photo')} of {folder} (Ctrl-C ends it)")
    while not ended.wait(POLL_SECONDS):
        before = live.current
        follower.poll()
        if live.current is not before:
            watcher.take(live.current.searcher)
