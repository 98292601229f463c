"""Searches your own photos of people by text.

    python -m tpr_jax.search index PHOTOS --index DIR [--model M]
    python -m tpr_jax.search index VIDEO --index DIR --detect [hog|MODEL.onnx|BOXES]
    python -m tpr_jax.search query "TEXT" --index DIR [--top_k N] [--image FILE] [--where CONDITION] [--json]
    python -m tpr_jax.search serve --index DIR [--port N]
    python -m tpr_jax.search export --index DIR --out FILE.parquet

PHOTOS is a folder, or a .csv, .tsv or .jsonl file with a column `image`, optional columns x, y, w, h for a
box, and any further columns. Running `index` again encodes only new and changed photos. `serve` starts a web
page and a JSON API.
"""

import signal
import sys

from tpr_jax.cli import exit as command_exit
from tpr_jax.utils import ending, signals

if __name__ == "__main__":  # before the imports that take seconds
    ending.exit_immediately(
        {
            signal.SIGINT: command_exit.INTERRUPTED,
            # SIGTERM, which clusters send, is handled like Ctrl-C, but ends a server even while it starts.
            signal.SIGTERM: (0, "ended") if sys.argv[1:2] == ["serve"] else command_exit.INTERRUPTED,
        }
    )

import argparse
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

from tpr_jax import __version__
from tpr_jax.cli.parser import Parser, path
from tpr_jax.distributed import cluster
from tpr_jax.distributed.processes import TIMEOUT, initialized
from tpr_jax.errors import UserError
from tpr_jax.perf import compilation_cache
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.utils.plural import counted
from tpr_jax.utils.signals import Stopped
from tpr_jax.utils.streams import as_json


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = Parser(
        prog="python -m tpr_jax.search",
        description=__doc__,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="index|query|serve|export")
    index = commands.add_parser("index", help="encode photos into an index, or update it")
    _add_index_arguments(index)
    query = commands.add_parser("query", help="rank the photos for a text, a photo, or both")
    _add_query_arguments(query)
    serve = commands.add_parser("serve", help="serve a web page and a JSON API for searching")
    _add_serve_arguments(serve)
    for command in (query, serve):
        command.add_argument(
            "--engine", default="auto", help="auto (default), cpu or mesh (both exact), or approximate"
        )
        command.add_argument(
            "--model", type=path, help="where the index's model is now; default: where it was"
        )
    export = commands.add_parser("export", help="write vectors and columns to a Parquet file")
    export.add_argument("--out", type=path, required=True, metavar="FILE.parquet", help="the file to write")
    export.add_argument("--half", action="store_true", help="write float16 vectors instead of float32")
    for command in (index, query, serve):
        command.add_argument(
            "--no_compilation_cache",
            action="store_true",
            help="do not keep compiled programs in ~/.cache/tpr_jax for the next start",
        )
    for command in (index, query, serve, export):
        command.add_argument(
            "--index", type=path, required=True, metavar="DIR", help="the folder of the index"
        )
    return top


def _add_index_arguments(index: argparse.ArgumentParser) -> None:
    index.add_argument(
        "photos",
        type=path,
        metavar="PHOTOS",
        help="a folder, or a .csv, .tsv or .jsonl file that lists photos",
    )
    index.add_argument(
        "--model",
        type=path,
        help="a folder or hub id; default: the index's own model, or the bundled clip-mini for a new index",
    )
    index.add_argument("--image_size", type=int, nargs=2, metavar=("H", "W"), help="default: the model's own")
    index.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="type to compute in; default: float32"
    )
    index.add_argument(
        "--batch_size",
        type=int,
        help="number of photos to encode at once; default: 32, or 256 per accelerator",
    )
    index.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out files and folders that match, such as 'old_*' or 'cam3/'; can be repeated",
    )
    others = index.add_mutually_exclusive_group()
    others.add_argument("--add", action="store_true", help="index PHOTOS beside those that the index has")
    others.add_argument(
        "--replace", action="store_true", help="index PHOTOS in place of those that the index has"
    )
    index.add_argument(
        "--approximate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="build inverted lists for a faster, approximate search; default: above a million photos",
    )
    _add_footage_arguments(index.add_argument_group("videos and photos of whole scenes"))
    index.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of the first of several processes; default: the cluster's",
    )
    index.add_argument(
        "--num_processes", type=int, help="number of processes; default: the cluster's, else 1"
    )
    index.add_argument(
        "--process_id", type=int, help="number of this process, from 0; default: the cluster's"
    )
    index.add_argument(
        "--peer_timeout", type=float, default=TIMEOUT, help="seconds to wait for the other processes"
    )


def _add_footage_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--detect",
        nargs="?",
        const="hog",
        metavar="DETECTOR",
        help="find people in PHOTOS, here a video, a folder of videos and photos, or a pattern in quotes: by "
        "hog (the default of this flag), a model.onnx, or a file of boxes; default: PHOTOS shows one "
        "person each",
    )
    group.add_argument("--every", type=float, metavar="S", help="seconds between two frames; default: 0.5")
    group.add_argument(
        "--start", type=float, metavar="S", help="seconds of each video to leave out; default: 0"
    )
    group.add_argument("--end", type=float, metavar="S", help="where to stop in each video; default: its end")
    group.add_argument("--camera", metavar="NAME", help="name of the camera; default: that of the file")
    group.add_argument(
        "--clock", metavar="TIME", help="when each video begins, such as '2024-05-01 10:00'; default: at 0 s"
    )
    group.add_argument(
        "--min_height", type=float, metavar="PIXELS", help="least height of people; default: 40"
    )
    group.add_argument(
        "--score", type=float, metavar="S", help="least score of a box; default: the detector's"
    )
    group.add_argument(
        "--pad", type=float, metavar="SHARE", help="margin around boxes per side; default: 0.05"
    )
    group.add_argument(
        "--keep_crops", action="store_true", default=None, help="keep all crops of a track, not only the best"
    )
    group.add_argument(
        "--no_tracks",
        dest="tracks",
        action="store_false",
        default=None,
        help="index every box instead of one row per track",
    )


def _add_query_arguments(query: argparse.ArgumentParser) -> None:
    query.add_argument(
        "text",
        metavar="TEXT",
        nargs="*",
        help="a description of the person; several, each in quotation marks, are averaged",
    )
    query.add_argument(
        "--not",
        dest="without",
        action="append",
        default=[],
        metavar="TEXT",
        help="something that the person does not have, such as 'a backpack'; can be repeated",
    )
    query.add_argument("--image", type=path, metavar="FILE", help="a photo of the person")
    query.add_argument(
        "--weight", type=float, default=0.5, help="weight of the text relative to the photo, from 0 to 1"
    )
    query.add_argument("--top_k", type=int, default=10, metavar="N", help="number of photos to list")
    query.add_argument(
        "--where", metavar="CONDITION", help="a condition, such as \"camera=3 and time>'2024-05-01'\""
    )
    query.add_argument(
        "--group",
        type=float,
        nargs="?",
        const=0.95,
        metavar="COSINE",
        help="list photos of the same moment, person or track under the best of them (default cosine: 0.95)",
    )
    query.add_argument("--json", action="store_true", help="print one JSON object")


def _add_serve_arguments(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: 127.0.0.1, reachable from this machine only",
    )
    serve.add_argument(
        "--port", type=int, default=8000, metavar="N", help="default: 8000; 0 takes a free port"
    )
    serve.add_argument(
        "--allow_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name that the server answers to; can be repeated",
    )
    serve.add_argument(
        "--rate", type=float, default=20.0, help="searches per second from one address; 0: no limit"
    )
    serve.add_argument(
        "--max_upload",
        type=int,
        default=10_000_000,
        metavar="BYTES",
        help="maximum size of an uploaded photo",
    )
    serve.add_argument(
        "--max_connections",
        type=int,
        default=100,
        metavar="N",
        help="maximum connections from one address; 0: no limit, for use behind a proxy",
    )


def run(argv: list[str]) -> None:
    """Parses the arguments and runs the command. Raises UserError."""
    args = parser().parse_args(argv)
    if args.command != "export":  # which computes nothing
        (compilation_cache.disable if args.no_compilation_cache else compilation_cache.enable)()
    command = {"index": _index, "query": _query, "serve": _serve, "export": _export}[args.command]
    command(args)


def _scan(args: argparse.Namespace) -> None:
    """Finds people in footage, if the flags or an earlier run of the same source ask for it."""
    import jax

    from tpr_jax.search.index.footage import scan_source
    from tpr_jax.search.index.footage_manifest import FootageOptions, recorded_options

    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(FootageOptions)}
    given = {name: value for name, value in given.items() if value is not None}
    known = recorded_options(args.index, args.photos)
    if known is None and "detect" not in given:
        if given:
            raise UserError(f"--{next(iter(given))}: is for videos and scenes, so it needs --detect")
        return
    # A later run of the same source only repeats what differs from the first one.
    options = dataclasses.replace(known or FootageOptions(), **given)
    if jax.process_count() > 1:
        raise UserError(
            "--detect: finds people in one process only; index the videos without --num_processes"
        )
    scan_source(
        args.photos,
        args.index,
        options,
        exclude=args.exclude,
        add=args.add,
        replace=args.replace,
        log=print,
    )


def _index(args: argparse.Namespace) -> None:
    if args.batch_size is not None and args.batch_size < 1:
        raise UserError(f"--batch_size {args.batch_size}: must be at least 1")
    if args.image_size and min(args.image_size) < 1:
        raise UserError(f"--image_size {' '.join(map(str, args.image_size))}: must be above 0")
    peers = cluster.find_here(args.coordinator, args.num_processes, args.process_id)
    keep_freed_memory()
    with initialized(peers, args.peer_timeout, args.index, verdict):
        # Imports JAX, so only after the arguments are checked.
        from tpr_jax.search.format import format_build
        from tpr_jax.search.index.build import build

        _scan(args)
        result = build(
            args.photos,
            args.index,
            args.model,
            image_size=tuple(args.image_size) if args.image_size else None,
            dtype=args.dtype,
            batch_size=args.batch_size,
            approximate=args.approximate,
            exclude=args.exclude,
            add=args.add,
            replace=args.replace,
            log=print,
        )
        if "skipped" in result:
            print(format_build(result))


def _query(args: argparse.Namespace) -> None:
    from tpr_jax.search.format import format_results

    text = _described(args.text)
    options = {key: getattr(args, key) for key in ("without", "top_k", "weight", "where", "group")}
    result = _ask_server(args, text, options)
    if result is None:
        from tpr_jax.search.query.search import open_searcher, search

        searcher = open_searcher(args.index, args.model, args.engine)
        result = search(searcher, text, args.image, **options)
    query = {"text": text, "image": args.image, **options}
    if args.json:
        print(as_json({"query": query, **result}, indent=2))
    else:
        print(format_results(result))


def _described(texts: list[str]) -> str | list[str] | None:
    """Returns the one text, the several ones, or None.

    Raises:
      UserError: each of several texts is one word, as in a sentence without quotation marks.
    """
    if len(texts) > 1 and all(text.isascii() and " " not in text.strip() for text in texts):
        raise UserError(f'{" ".join(texts)}: put the description in quotation marks: "{" ".join(texts)}"')
    return texts[0] if len(texts) == 1 else texts or None


def _ask_server(args: argparse.Namespace, text: str | list[str] | None, options: dict) -> dict | None:
    """Returns the result of a server that is running on the index; None if there is none for this query.

    Raises:
      UserError: the server's.
    """
    from tpr_jax.search.server import local

    if text is None or args.image is not None or args.model is not None:
        return None
    try:
        info = json.loads(Path(args.index, "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # said once the index is opened
    question = {"version": __version__, "info": info, "engine": args.engine, "text": text}
    answer = local.ask(args.index, {**question, "options": options}) or {}
    if "error" in answer:
        raise UserError(answer["error"])
    return answer.get("result")


def _serve(args: argparse.Namespace) -> None:
    from tpr_jax.search.server.listen import bind

    bind(args.host, args.port).close()  # a port in use is reported before anything is loaded
    threads = set(threading.enumerate())
    try:
        from tpr_jax.search.server.serve import exit_if_busy, serve

        options = ("host", "port", "rate", "max_upload", "max_connections")
        serve(
            args.index,
            args.model,
            args.engine,
            allow_hosts=args.allow_host,
            ready=_end_as_server,
            **{key: getattr(args, key) for key in options},
        )
    except KeyboardInterrupt:  # before the server was listening
        print("ended")
        return
    exit_if_busy(threads)


def _end_as_server(remove: Callable[[], None]) -> None:
    """Makes Ctrl-C succeed, now that the server has started and Ctrl-C is the way to end it."""
    if ending.ends_immediately():
        ending.exit_immediately(dict.fromkeys(signals.SIGNALS, (0, "ended")), before=remove)


def _export(args: argparse.Namespace) -> None:
    from tpr_jax.search.index.export import export
    from tpr_jax.search.index.store import open_index

    count = export(open_index(args.index), args.out, args.half)
    print(f"{counted(count, 'row')} written to {args.out}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 2 after one line on stderr, or 130 if it was interrupted."""
    if threading.current_thread() is threading.main_thread():
        for number in signals.SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:  # called by another program
                signal.signal(number, signal.default_int_handler)
    return command_exit.exit_code(run, sys.argv[1:] if argv is None else argv, verdict)


def verdict(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the line to print for an error; no line if the user cannot fix it."""
    if isinstance(error, Stopped):
        return 130, f"error: {error}"
    return command_exit.verdict(error, sys.argv)


if __name__ == "__main__":
    # Only `index` and `export` write anything that an exception lets them finish or remove.
    writes = sys.argv[1:2] in (["index"], ["export"])
    command_exit.explain_and_exit(
        lambda argv: main(argv[1:]),
        sys.argv,
        raising=signals.SIGNALS if writes else (),
        shut_down=sys.argv[1:2] != ["query"],
    )
