"""Search your own photos of people in words.

    python -m tpr_jax.search index PHOTOS --index DIR [--model M]
    python -m tpr_jax.search query "TEXT" --index DIR [--top_k N] [--image FILE] [--where CONDITION] [--json]
    python -m tpr_jax.search serve --index DIR [--port N]
    python -m tpr_jax.search export --index DIR --out FILE.parquet

PHOTOS is a folder, or a .csv or .jsonl with a column `image` and, if there are, x, y, w, h of a box and any
further columns. `index` again encodes only what is new or changed. `serve` is the same search as a web page.
"""

# ruff: noqa: E402 (signals are caught before the imports that take seconds)

import signal
import sys

from tpr_jax.utils import signals

EARLY_END = (130, "error: interrupted; the same command goes on")
if __name__ == "__main__":
    signals.exit_immediately({signal.SIGTERM: EARLY_END, signal.SIGINT: EARLY_END})

import argparse
import os
import threading

# XLA writes notices of its own to the terminal; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tpr_jax.cli.parser import Parser, path
from tpr_jax.distributed import cluster
from tpr_jax.distributed.processes import TIMEOUT, initialized
from tpr_jax.errors import UserError
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils.signals import Stopped
from tpr_jax.utils.streams import as_json, quiet_when_closed


def parser() -> argparse.ArgumentParser:
    """The command line; each command's function is in `run`."""
    top = Parser(
        prog="python -m tpr_jax.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="index|query|serve|export")
    index = commands.add_parser("index", help="encode photos, or bring an index up to date")
    index.add_argument(
        "photos", type=path, metavar="PHOTOS", help="a folder, or a .csv or .jsonl that lists photos"
    )
    index.add_argument(
        "--model",
        type=path,
        help="a folder or hub id; by default the index's own, or the bundled clip-mini",
    )
    index.add_argument(
        "--image_size", type=int, nargs=2, metavar=("H", "W"), help="by default the model's own"
    )
    index.add_argument("--dtype", choices=("float32", "bfloat16"), help="what the towers compute in")
    index.add_argument("--batch_size", type=int, help="photos encoded at once")
    index.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and folders of this name, such as 'old_*' or 'cam3/'; may be given again",
    )
    index.add_argument(
        "--approximate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="lists for a quicker, approximate search; by default above a million photos",
    )
    index.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of several processes: where the first one is"
    )
    index.add_argument("--num_processes", type=int, help="how many there are")
    index.add_argument("--process_id", type=int, help="which one this is, from 0")
    index.add_argument("--peer_timeout", type=float, default=TIMEOUT, help="seconds they have to come")
    query = commands.add_parser("query", help="rank the photos for a text, a picture or both")
    query.add_argument("text", metavar="TEXT", nargs="?", help="the person in words")
    query.add_argument("--image", type=path, metavar="FILE", help="a photo of the person")
    query.add_argument("--weight", type=float, default=0.5, help="of the text beside the picture, 0 to 1")
    query.add_argument("--top_k", type=int, default=10, metavar="N", help="photos to show")
    query.add_argument("--where", metavar="CONDITION", help="such as \"camera=3 and time>'2024-05-01'\"")
    query.add_argument(
        "--group",
        type=float,
        nargs="?",
        const=0.95,
        metavar="COSINE",
        help="list photos that resemble a better one under it (from a cosine of 0.95 on)",
    )
    query.add_argument("--json", action="store_true", help="print one JSON object")
    serve = commands.add_parser("serve", help="a web page and a JSON API to search with")
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen on; by default only here")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="8000; 0 takes one that is free")
    serve.add_argument(
        "--allow_host", action="append", default=[], metavar="NAME", help="another name the server goes by"
    )
    serve.add_argument(
        "--rate", type=float, default=20.0, help="searches a second from one address; 0: no limit"
    )
    serve.add_argument(
        "--max_upload", type=int, default=10_000_000, metavar="BYTES", help="of an uploaded photo"
    )
    serve.add_argument(
        "--max_connections",
        type=int,
        default=100,
        metavar="N",
        help="that one address may have open, 100; 0: no limit, as behind a proxy",
    )
    for command in (query, serve):
        command.add_argument("--engine", default="auto", help="auto, cpu, mesh (exact) or approximate")
        command.add_argument("--model", type=path, help="where the index's model is now")
    export = commands.add_parser("export", help="write vectors and columns as Parquet")
    export.add_argument("--out", type=path, required=True, metavar="FILE.parquet")
    export.add_argument("--half", action="store_true", help="float16 vectors instead of float32")
    for command in (index, query, serve, export):
        command.add_argument("--index", type=path, required=True, metavar="DIR", help="the index's folder")
    return top


def run(argv: list[str]) -> None:
    """Parses and does it. Raises UserError."""
    args = parser().parse_args(argv)
    command = {"index": _index, "query": _query, "serve": _serve, "export": _export}[args.command]
    command(args)


def _index(args: argparse.Namespace) -> None:
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be at least 1")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    peers = cluster.find_here(args.coordinator, args.num_processes, args.process_id)
    keep_freed_memory()
    with initialized(peers, args.peer_timeout, args.index, verdict):
        # These import JAX: after the command line is known to be sound.
        from tpr_jax.search.format import built
        from tpr_jax.search.index.build import build

        result = build(
            args.photos,
            args.index,
            args.model,
            image_size=tuple(args.image_size) if args.image_size else None,
            dtype=args.dtype,
            batch_size=args.batch_size,
            approximate=args.approximate,
            exclude=args.exclude,
            say=print,
        )
        if "skipped" in result:
            print(built(result))


def _query(args: argparse.Namespace) -> None:
    from tpr_jax.search.format import answer
    from tpr_jax.search.query.search import open_searcher, search

    searcher = open_searcher(args.index, args.model, args.engine)
    settings = {key: getattr(args, key) for key in ("top_k", "weight", "where", "group")}
    result = search(searcher, args.text, args.image, **settings)
    asked = {"text": args.text, "image": args.image, **settings}
    if args.json:
        print(as_json({"query": asked, **result}, indent=2))
    else:
        print(answer(result))


def _serve(args: argparse.Namespace) -> None:
    from tpr_jax.search.server.serve import end_if_busy, serve

    settings = {key: getattr(args, key) for key in ("host", "port", "rate", "max_upload", "max_connections")}
    before = set(threading.enumerate())
    serve(args.index, args.model, args.engine, allow_hosts=args.allow_host, **settings)
    end_if_busy(before)


def _export(args: argparse.Namespace) -> None:
    from tpr_jax.search.index.export import export
    from tpr_jax.search.index.store import open_index

    count = export(open_index(args.index), args.out, args.half)
    print(f"{count:,} rows written to {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 after one line on stderr, or 130 where it was interrupted."""
    if threading.current_thread() is threading.main_thread():
        # What a cluster sends is as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (Exception, KeyboardInterrupt) as error:
        code, line = verdict(error)
        if not line:
            raise
        print(line, file=sys.stderr)
        return code
    return 0


def verdict(error: BaseException) -> tuple[int, str]:
    """(exit code, what to say) of an error; nothing to say of one that is no user's to mend."""
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    if isinstance(error, Stopped):
        return 130, f"error: {error}"
    if isinstance(error, KeyboardInterrupt):
        return 130, "error: interrupted; the same command goes on"
    return 1, ""


if __name__ == "__main__":
    with quiet_when_closed():
        sys.exit(main())
