"""Searches your own photos of people by text.

    python -m tpr_jax.search index PHOTOS --index DIR [--model M]
    python -m tpr_jax.search index VIDEO --index DIR --detect [hog|MODEL.onnx|BOXES]
    python -m tpr_jax.search query "TEXT" --index DIR [--top_k N] [--image FILE] [--where CONDITION] [--json]
    python -m tpr_jax.search serve --index DIR [--port N]
    python -m tpr_jax.search export --index DIR --out FILE.parquet
    python -m tpr_jax.search forget --index DIR --where CONDITION
    python -m tpr_jax.search watch --index DIR --text "TEXT" --above COSINE [--post URL]
    python -m tpr_jax.search password NAME >> FILE

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
    if sys.argv[1:2] == ["query"]:
        import gc

        gc.disable()  # its passes over the objects of imported modules take 7 % of so short a process

import argparse
import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

from tpr_jax import __version__
from tpr_jax.errors import UserError
from tpr_jax.perf import compilation_cache
from tpr_jax.perf.allocator import keep_freed_memory
from tpr_jax.search import arguments
from tpr_jax.utils.plural import counted
from tpr_jax.utils.signals import Stopped
from tpr_jax.utils.streams import as_json


def run(argv: list[str]) -> None:
    """Parses the arguments and runs the command. Raises UserError."""
    args = arguments.parser().parse_args(argv)
    if args.command not in ("export", "forget", "password"):  # which compute nothing
        (compilation_cache.disable if args.no_compilation_cache else compilation_cache.enable)()
    commands = {"index": _index, "query": _query, "serve": _serve, "export": _export, "forget": _forget}
    commands |= {"password": _password, "watch": _watch}
    commands[args.command](args)


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
    # Imported here, because a query needs neither.
    from tpr_jax.distributed import cluster
    from tpr_jax.distributed.processes import initialized

    peers = cluster.find_here(args.coordinator, args.num_processes, args.process_id)
    keep_freed_memory()
    with initialized(peers, args.peer_timeout, args.index, verdict):
        if args.watch:
            _watch_source(args)
            return
        # Imports JAX, so only after the arguments are checked.
        from tpr_jax.search.format import format_build

        result = _build(args)
        if "skipped" in result:
            print(format_build(result))


def _build(args: argparse.Namespace) -> dict:
    """Searches people where that is asked for, indexes the photos, and returns the result of `build`."""
    from tpr_jax.search.index.build import build

    _scan(args)
    return build(
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
        store=args.store,
        log=print,
    )


def _watch_source(args: argparse.Namespace) -> None:
    import jax

    from tpr_jax.search.index.follow import exclusions, follow

    if jax.process_count() > 1:
        raise UserError("--watch: follows a folder in one process only: omit --num_processes")
    excluded = args.exclude

    def update(growing: list[str]) -> dict:
        args.exclude = [*excluded, *exclusions(args.photos, growing)]
        result = _build(args)
        args.add = args.replace = False  # done once
        return result

    try:
        follow(args.photos, args.index, args.watch_every, update, print)
    except KeyboardInterrupt:  # the way to end it; photos that are being encoded raise Stopped
        print("ended")


def _query(args: argparse.Namespace) -> None:
    from tpr_jax.search.format import format_results

    text = _described(args.text)
    names = ("without", "right", "wrong", "yes", "no", "unknown", "ask", "top_k", "weight", "where", "group")
    args.weight = arguments.text_weight(args)
    options = {name: getattr(args, name) for name in names}
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
    from tpr_jax.search.server.listen import listen

    listener = listen(args.host, args.port)  # a port in use is reported before anything is loaded
    threads = set(threading.enumerate())
    try:
        from tpr_jax.search.server.serve import exit_if_busy, serve

        options = ("host", "port", "rate", "max_upload", "max_connections", "password_file", "token_env")
        options += ("certificate", "key", "access_log", "blur_faces")
        serve(
            args.index,
            args.model,
            args.engine,
            allow_hosts=args.allow_host,
            playback=not args.no_playback,
            listener=listener,
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


def _forget(args: argparse.Namespace) -> None:
    from tpr_jax.search.index.forget import forget, format_removed, recall

    if not args.recall:
        print(format_removed(forget(args.index, args.where, log=print)))
        return
    count = recall(args.index, log=print)
    print(f"{counted(count, 'person or photo', 'people and photos')} may come back with the next index")


def _password(args: argparse.Namespace) -> None:
    from tpr_jax.search.server.accounts import read_new_password

    print(read_new_password(args.name))


def _watch(args: argparse.Namespace) -> None:
    from tpr_jax.search.watch import Alert, watch

    alert = Alert(tuple(args.text), args.above, args.where)
    try:
        watch(
            args.index,
            alert,
            model=args.model,
            engine=args.engine,
            post=args.post,
            state=args.state,
        )
    except KeyboardInterrupt:  # the way to end it; stdout has only alerts
        print("ended", file=sys.stderr)


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
    # Only these write anything that an exception lets them finish or remove.
    writes = sys.argv[1:2] in (["index"], ["export"], ["forget"], ["watch"])
    command_exit.explain_and_exit(
        lambda argv: main(argv[1:]),
        sys.argv,
        raising=signals.SIGNALS if writes else (),
        shut_down=sys.argv[1:2] != ["query"],
    )
