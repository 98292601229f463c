"""How the server bears many people at once.

    python -m tpr_jax.bench.serve [--index DIR] [--clients 50] [--seconds 120] [--pause 0]

Starts `python -m tpr_jax.search serve` with its own limits, and lets each client, from an address of its own
(127.0.0.1, .2, ...: Linux), ask a sentence, fetch photos found, wait and ask again. Prints one JSON object;
exit code 1 where any answer was not 200. Without --index one of MiniPEDES is made first.
"""

import argparse
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

import numpy as np

from tpr_jax.cli import parser as arguments
from tpr_jax.utils.streams import quiet_when_closed

PHOTOS = 4  # that a client fetches of each answer


def client(port: int, number: int, until: float, pause: float, asked: list[str]) -> dict[str, list]:
    """What one client saw until then: `searches` and `photos`, the seconds that each took, and `errors`."""
    seen = {"searches": [], "photos": [], "errors": []}
    source = (f"127.0.{number // 250}.{number % 250 + 1}", 0)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=source)
    rng = np.random.default_rng(number)

    def get(kind: str, *request) -> bytes:
        begun = time.perf_counter()
        try:
            connection.request(*request)
            reply = connection.getresponse()
            content = reply.read()
        except OSError as error:
            seen["errors"].append(f"{type(error).__name__}: {error}")
            connection.close()
            return b""
        seen[kind].append(time.perf_counter() - begun)
        if reply.status != 200:
            seen["errors"].append(f"{reply.status} {content[:100]!r}")
        return content if reply.status == 200 else b""

    while time.monotonic() < until:
        question = json.dumps({"text": str(rng.choice(asked)), "top_k": 24})
        answer = get("searches", "POST", "/api/search", question, {"content-type": "application/json"})
        for found in json.loads(answer)["results"][:PHOTOS] if answer else []:
            get("photos", "GET", f"/api/photos/{found['row']}")
        time.sleep(pause * rng.uniform(0.5, 1.5))
    connection.close()
    return seen


def load(port: int, clients: int, seconds: float, pause: float) -> dict:
    """Many clients at once against the server on this port; what `summary` says of them."""
    from tpr_jax.search.query.approximate import sentences

    seen, asked = [], sentences()
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=lambda n=number: seen.append(client(port, n, until, pause, asked)))
        for number in range(clients)
    ]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"clients": clients, "pause": pause, **summary(seen, time.monotonic() - begun)}


def summary(seen: list[dict[str, list]], seconds: float) -> dict:
    """Answers a second, and the median, 99th percentile and longest time in ms, of searches and photos."""
    told = {"seconds": round(seconds, 1), "errors": sum(len(one["errors"]) for one in seen)}
    told["first_errors"] = [error for one in seen for error in one["errors"]][:5]
    for kind in ("searches", "photos"):
        times = np.array([t for one in seen for t in one[kind]])
        if len(times):
            p50, p99 = (round(1000 * float(np.percentile(times, q)), 1) for q in (50, 99))
            worst = round(1000 * float(times.max()), 1)
            told[kind] = {"count": len(times), "a_second": round(len(times) / seconds, 1)}
            told[kind] |= {"p50_ms": p50, "p99_ms": p99, "max_ms": worst}
    return told


def measure(index: str, clients: int, seconds: float, pause: float) -> dict:
    """Starts a server of this index, loads it, and ends it."""
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", index, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in server.stdout:
            if ready := re.search(r"([\d,]+) photos at http://127\.0\.0\.1:(\d+)/", line):
                indexed, port = int(ready[1].replace(",", "")), int(ready[2])
                before = cpu_seconds(port)
                told = {"indexed": indexed, **load(port, clients, seconds, pause)}
                return told | {"server_cpu_seconds": round(cpu_seconds(port) - before, 1)}
        raise SystemExit("the server did not start")
    finally:
        server.terminate()
        server.wait(30)


def cpu_seconds(port: int) -> float:
    """That the server has used so far, by its own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as reply:
        return float(re.search(r"^process_cpu_seconds_total (\S+)", reply.read().decode(), re.M)[1])


def _mini_pedes(folder: str) -> str:
    from tpr_jax.data.mini_pedes import bundled_dir
    from tpr_jax.search.index.build import build

    index = os.path.join(folder, "index")
    build(os.path.join(bundled_dir(), "imgs"), index)
    return index


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index", type=arguments.path, metavar="DIR")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--pause", type=float, default=0, help="seconds between a client's questions")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(args.index or _mini_pedes(folder), args.clients, args.seconds, args.pause)
    print(json.dumps(told, indent=2))
    return 1 if told["errors"] else 0


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
