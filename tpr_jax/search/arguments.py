"""The arguments of `python -m tpr_jax.search`."""

import argparse

from tpr_jax.cli.parser import Parser, path
from tpr_jax.distributed import TIMEOUT
from tpr_jax.errors import UserError

WEIGHT = 0.5  # of the text relative to the photo


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    top = Parser(
        prog="python -m tpr_jax.search",
        description="Finds people in your own photos and videos by a sentence.",
        examples=(
            "python -m tpr_jax.search index PHOTOS --index DIR",
            'python -m tpr_jax.search query "a woman in a red coat" --index DIR',
            "python -m tpr_jax.search serve --index DIR",
        ),
    )
    commands = top.add_subparsers(
        dest="command", required=True, metavar="index|query|serve|export|forget|watch|password"
    )
    index = commands.add_parser(
        "index",
        help="encode photos into an index, or update it",
        description="Encodes photos, or the people of videos, into an index, or updates the index.",
        examples=(
            "python -m tpr_jax.search index PHOTOS --index DIR --model runs/demo/model",
            "python -m tpr_jax.search index gate.mp4 --index DIR --detect --clock '2024-05-01 10:00'",
        ),
    )
    _add_index_arguments(index)
    query = commands.add_parser(
        "query",
        help="rank the photos for a text, a photo, or both",
        description="Ranks the photos of an index for a text, a photo, or both.",
        examples=(
            'python -m tpr_jax.search query "a woman in a red coat" --index DIR',
            'python -m tpr_jax.search query "a red coat" --not "a skirt" --where "camera=3" --index DIR',
        ),
    )
    _add_query_arguments(query)
    serve = commands.add_parser(
        "serve",
        help="serve a web page and a JSON API for searching",
        description="Serves a web page and a JSON API that search an index, until Ctrl-C.",
        examples=("python -m tpr_jax.search serve --index DIR --port 8000",),
    )
    _add_serve_arguments(serve)
    watch = commands.add_parser(
        "watch",
        help="print what is new in an index and matches descriptions",
        description="Follows an index, and prints each new row that matches a description, until Ctrl-C.",
        examples=('python -m tpr_jax.search watch --index DIR --text "a woman in a red coat" --above 0.3',),
    )
    _add_watch_arguments(watch)
    password = commands.add_parser(
        "password",
        help="make a line of a --password_file",
        description="Asks for a password, and prints a line for the file of --password_file.",
        examples=("python -m tpr_jax.search password anna >> passwords",),
    )
    password.add_argument("name", metavar="NAME", help="the name of the account")
    for command in (query, serve, watch):
        command.add_argument(
            "--engine",
            default="auto",
            help="auto (default), cpu or mesh (both exact), approximate, or postgres",
        )
        command.add_argument(
            "--model", type=path, help="where the index's model is now; default: where it was"
        )
    export = commands.add_parser(
        "export",
        help="write vectors and columns to a Parquet file",
        description="Writes the vectors and columns of an index to a Parquet file.",
        examples=("python -m tpr_jax.search export --index DIR --out people.parquet",),
    )
    export.add_argument("--out", type=path, required=True, metavar="FILE.parquet", help="the file to write")
    export.add_argument("--half", action="store_true", help="write float16 vectors instead of float32")
    forget = commands.add_parser(
        "forget",
        help="remove people from an index for good",
        description="Removes people from an index, and leaves them out of its later updates.",
        examples=("python -m tpr_jax.search forget --index DIR --where \"camera='gate' and track=12\"",),
    )
    _add_forget_arguments(forget)
    for command in (index, query, serve, watch):
        command.add_argument(
            "--no_compilation_cache",
            action="store_true",
            help="do not keep compiled programs in ~/.cache/tpr_jax for the next start",
        )
    for command in (index, query, serve, export, forget, watch):
        command.add_argument(
            "--index", type=path, required=True, metavar="DIR", help="the folder of the index"
        )
    return top


def _add_index_arguments(index: argparse.ArgumentParser) -> None:
    index.add_argument(
        "photos",
        type=path,
        metavar="PHOTOS",
        help="a folder, or a .csv, .tsv or .jsonl table with a column image and any others",
    )
    index.add_argument(
        "--model",
        type=path,
        help="a folder or hub id; default: the index's own model, or the bundled clip-street for a new index",
    )
    index.add_argument(
        "--image_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="input size in pixels; default: the model's own",
    )
    index.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "auto"),
        help="type to compute in; default: the index's own, or auto, the faster one on this machine",
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
    index.add_argument(
        "--watch", action="store_true", help="keep running, and index what appears in PHOTOS, until Ctrl-C"
    )
    index.add_argument(
        "--watch_every", type=float, default=5.0, metavar="S", help="seconds between two looks at PHOTOS"
    )
    index.add_argument(
        "--store",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE: copy the index into PostgreSQL with pgvector, which then "
        "answers queries; default: no copy, or that of the earlier run",
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
        "--clock",
        metavar="TIME",
        help="when each video begins, such as '2024-05-01 10:00'; default: by its metadata, else at 0 s",
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


def _row_or_path(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


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
    for name, what in (("right", "shows the person"), ("wrong", "does not show the person")):
        query.add_argument(
            f"--{name}",
            action="append",
            type=_row_or_path,
            default=[],
            metavar="PHOTO",
            help=f"a result that {what}, by its path or row; can be repeated",
        )
    query.add_argument(
        "--ask",
        action="store_true",
        help="also print the question about the person whose answer helps most",
    )
    for name, what in (("yes", "is, wears, carries or has"), ("no", "is not, or lacks")):
        query.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="PHRASE",
            help=f"an answer to --ask: what the person {what}; can be repeated",
        )
    query.add_argument(
        "--unknown",
        action="append",
        default=[],
        metavar="PHRASE",
        help="what --ask asked for and you do not know, so that it asks for something else; can be repeated",
    )
    query.add_argument(
        "--weight",
        type=float,
        help=f"weight of the text relative to the photo of --image, from 0 to 1; default: {WEIGHT}",
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


def text_weight(args: argparse.Namespace) -> float:
    """Returns the weight of the text relative to the photo. Raises UserError if there are not both."""
    if args.weight is None:
        return WEIGHT
    if not args.text or args.image is None:
        raise UserError(
            f"--weight {args.weight}: weighs a description against a photo, so it needs both: "
            'give "TEXT" and --image FILE, or leave it out'
        )
    return args.weight


def _add_forget_arguments(forget: argparse.ArgumentParser) -> None:
    what = forget.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--where", metavar="CONDITION", help='the rows to remove, such as "camera=3 and track=12"'
    )
    what.add_argument(
        "--recall",
        action="store_true",
        help="allow the next index to bring back everybody who was forgotten",
    )


def _add_watch_arguments(watch: argparse.ArgumentParser) -> None:
    watch.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="TEXT",
        help="a description of the person; can be repeated, each is looked for on its own",
    )
    watch.add_argument(
        "--above", type=float, required=True, metavar="COSINE", help="the score from which a row matches"
    )
    watch.add_argument("--where", metavar="CONDITION", help="only rows that meet the condition")
    watch.add_argument("--post", metavar="URL", help="send each match there too, as JSON")
    watch.add_argument(
        "--state",
        type=path,
        metavar="FILE",
        help="where to keep which rows were seen; default: a file watch-....json in the index",
    )


def _add_serve_arguments(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; default: 127.0.0.1, reachable from this machine only",
    )
    serve.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port to listen on; 0 takes a free one"
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
    serve.add_argument(
        "--password_file",
        type=path,
        metavar="FILE",
        help="lines name:hash of those who may use the server, see the command password; default: no login",
    )
    serve.add_argument(
        "--token_env",
        metavar="NAME",
        help="environment variable with the bearer token of programs; default: none",
    )
    serve.add_argument(
        "--certificate", type=path, metavar="FILE", help="PEM file, to serve over TLS; default: no TLS"
    )
    serve.add_argument("--key", type=path, metavar="FILE", help="PEM file with the certificate's key")
    serve.add_argument(
        "--access_log", type=path, metavar="FILE", help="append a JSON line per query; default: no log"
    )
    serve.add_argument(
        "--blur_faces", action="store_true", help="blur the heads in the photos shown; implies --no_playback"
    )
    serve.add_argument(
        "--no_playback",
        action="store_true",
        help="serve only the people, not the frames, videos and whole photos that show them",
    )
