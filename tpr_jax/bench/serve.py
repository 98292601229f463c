"""Load-tests the search server with many clients at once.

    python -m tpr_jax.bench.serve [--index DIR] [--clients 50] [--seconds 120] [--pause 0]

Starts `python -m tpr_jax.search serve` with its default limits. Each client has an address of its own
(127.0.0.1, .2, ...: Linux only); it searches for a sentence, fetches some of the photos that were found,
waits, and repeats. Prints one JSON object; the exit code is 1 if any answer was not 200. Without --index, an
index of MiniPEDES is built first.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.errors import UserError

PHOTOS_PER_SEARCH = 4


def run_client(port: int, number: int, until: float, pause: float, texts: Sequence[str]) -> dict[str, list]:
    """Runs one client until `until` (`time.monotonic`).

    Returns:
      `searches` and `photos`, the seconds that each request took, and `errors`.
    """
    log = {"searches": [], "photos": [], "errors": []}
    source = (f"127.0.{number // 250}.{number % 250 + 1}", 0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=source)
    rng = np.random.default_rng(number)

    def get(kind: str, *request) -> bytes:
        start = time.perf_counter()
        try:
            connection.request(*request)
            reply = connection.getresponse()
            content = reply.read()
        except OSError as error:
            log["errors"].append(f"{type(error).__name__}: {error}")
            connection.close()
            return b""
        log[kind].append(time.perf_counter() - start)
        if reply.status != 200:
            log["errors"].append(f"{reply.status} {content[:100]!r}")
        return content if reply.status == 200 else b""

    while time.monotonic() < until:
        body = json.dumps({"text": str(rng.choice(texts)), "top_k": 24})
        answer = get("searches", "POST", "/api/search", body, {"content-type": "application/json"})
        for result in json.loads(answer)["results"][:PHOTOS_PER_SEARCH] if answer else []:
            get("photos", "GET", f"/api/photos/{result['row']}")
        time.sleep(pause * rng.uniform(0.5, 1.5))
    connection.close()
    return log


def run_load(port: int, clients: int, seconds: float, pause: float) -> dict:
    """Runs many clients at once against the server on this port; returns `summarize` of their logs."""
    from tpr_jax.search.query.approximate import sentences

    logs, texts = [], sentences()
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=lambda n=number: logs.append(run_client(port, n, until, pause, texts)))
        for number in range(clients)
    ]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"clients": clients, "pause": pause, **summarize(logs, time.monotonic() - start)}


def summarize(logs: Sequence[dict[str, list]], seconds: float) -> dict:
    """Returns the rate and the median, 99th percentile and maximum latency in ms of searches and photos."""
    errors = [error for log in logs for error in log["errors"]]
    summary: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "errors": len(errors),
        "first_errors": errors[:5],
    }
    for kind in ("searches", "photos"):
        times = np.array([t for log in logs for t in log[kind]])
        if len(times):
            p50, p99 = (round(1000 * float(np.percentile(times, q)), 1) for q in (50, 99))
            worst = round(1000 * float(times.max()), 1)
            rates = {"count": len(times), "a_second": round(len(times) / seconds, 1)}
            summary[kind] = {**rates, "p50_ms": p50, "p99_ms": p99, "max_ms": worst}
    return summary


def measure(index: str, clients: int, seconds: float, pause: float) -> dict:
    """Starts a server on this index, runs the load, and stops the server.

    Raises:
      UserError: the server did not start.
    """
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", index, "--port", "0"]
    # A session of its own: Ctrl-C reaches only this process, which then ends the server.
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert server.stdout is not None  # a pipe
    try:
        for line in server.stdout:
            if ready := re.search(r"([\d,]+) photos at http://127\.0\.0\.1:(\d+)/", line):
                indexed, port = int(ready[1].replace(",", "")), int(ready[2])
                before = server_cpu_seconds(port)
                summary = {"indexed": indexed, **run_load(port, clients, seconds, pause)}
                return summary | {"server_cpu_seconds": round(server_cpu_seconds(port) - before, 1)}
        raise UserError(f"{index}: the server did not start, for the reason above")
    finally:
        server.terminate()
        server.wait(30)


def server_cpu_seconds(port: int) -> float:
    """Returns the CPU time that the server reports for itself.

    Raises:
      UserError: it does not report any.
    """
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=120) as reply:
        reported = re.search(r"^process_cpu_seconds_total (\S+)", reply.read().decode(), re.MULTILINE)
    if reported is None:
        raise UserError(
            f"{url}: has no process_cpu_seconds_total, which is known on Linux only: run it there"
        )
    return float(reported[1])


def _index_mini_pedes(folder: str) -> str:
    from tpr_jax.data.mini_pedes import bundled_dir
    from tpr_jax.search.index.build import build

    index = os.path.join(folder, "index")
    build(os.path.join(bundled_dir(), "imgs"), index)
    return index


def run(argv: list[str]) -> None:
    """Runs the command.

    Raises:
      UserError: the server did not start.
      SystemExit: with code 1 if any answer was not 200.
    """
    parser = arguments.Parser(
        prog="python -m tpr_jax.bench.serve",
        description="Tests how a search server answers many clients at once.",
        examples=("python -m tpr_jax.bench.serve --index runs/index --clients 50 --seconds 120",),
    )
    parser.add_argument(
        "--index", type=arguments.path, metavar="DIR", help="the index to serve; default: one of MiniPEDES"
    )
    parser.add_argument("--clients", type=int, default=50, help="number of concurrent clients")
    parser.add_argument("--seconds", type=float, default=120, help="duration of the load")
    parser.add_argument("--pause", type=float, default=0, help="mean seconds between a client's searches")
    args = parser.parse_args(argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        index = args.index or _index_mini_pedes(folder)
        summary = measure(index, args.clients, args.seconds, args.pause)
    print(json.dumps(summary, indent=2))
    if summary["errors"]:
        raise SystemExit(1)


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
