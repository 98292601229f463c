"""A question to an index, in words, as a picture, or both: ranked photos with scores and columns."""

import dataclasses
import os
import time
import unicodedata
from dataclasses import dataclass
from datetime import date

import numpy as np
from jaxtyping import Float

from tpr_jax.errors import UserError
from tpr_jax.model import ImageSource, Model, from_pretrained
from tpr_jax.models.petl_config import text_tokens
from tpr_jax.search.index.store import FILE, KEY, Index, check_model, check_pixels, model_sha256, open_current
from tpr_jax.search.query import engine as engine_lib
from tpr_jax.search.query import groups
from tpr_jax.search.query.where import matching

MAX_TOP_K = 10_000


@dataclass(frozen=True)
class Searcher:
    """An index with its model, ready for queries; `open_searcher` makes it."""

    index: Index
    model: Model
    engine: engine_lib.Engine


def open_searcher(
    folder: str | os.PathLike, model: str | os.PathLike | None = None, engine: str = "auto"
) -> Searcher:
    """Loads an index and its model; `model` says where that is now, by default where it was.

    Raises:
      UserError: there is no index, it is damaged or of another version, the model is not to be had or another
        one than the index was made with, or there is no such engine.
    """
    index, ready = open_current(folder, lambda index: (index, engine_lib.make_engine(index, engine)))
    made = index.info["model"]
    name = model or made["name"]
    check_model(index.info, folder, name, model_sha256(name))
    loaded = from_pretrained(name, tuple(made["image_size"]), made["dtype"])
    check_pixels(made, folder, loaded)
    return Searcher(index, loaded, ready)


def search(
    searcher: Searcher,
    text: str | None = None,
    image: ImageSource | None = None,
    *,
    like: int | None = None,
    top_k: int = 10,
    weight: float = 0.5,
    where: str | None = None,
    group: float | None = None,
) -> dict:
    """Ranks the photos of an index for a text, a picture, or both, the text counting `weight` (0 to 1).

    `where` is a condition on the columns (see `where`); with `group`, photos that resemble a better one by at
    least this cosine are listed under it. The picture is a path, bytes that `read_image` takes, or an array;
    or, by `like`, the photo of this row of the index.

    Returns `results`, each {`rank` (from 1), `score`, `row`, `path`, `box` (or None), `columns`, and with
    `group` `group`: a list of {score, row, path, box, columns}}, and `count` (photos in the index),
    `matching` (those that `where` leaves), `engine`, `notes` (a list of texts), `encode_ms` and `search_ms`.

    Raises:
      UserError: nothing is asked, a value is out of range, the picture cannot be read, or the condition is
        not understood.
    """
    if not 1 <= top_k <= MAX_TOP_K:
        raise UserError(f"--top_k {top_k}: must be from 1 to {MAX_TOP_K}")
    if group is not None and not 0 < group <= 1:
        raise UserError(f"--group {group}: must be a cosine above 0, at most 1")
    index, begun = searcher.index, time.perf_counter()
    if like is not None and not 0 <= like < len(index.vectors):
        raise UserError(f"like {like}: the index has the rows 0 to {len(index.vectors) - 1}")
    if like is not None and image is not None:
        raise UserError("a picture is asked for, and a row of the index too: give one of them")
    feat = None if like is None else index.vectors[like].astype(np.float32)
    vector, notes = encode_question(searcher.model, text, image, weight, feat)
    encoded = time.perf_counter()
    allowed = matching(visible(index), where) if where is not None else None
    count = len(index.vectors) if allowed is None else int(allowed.sum())

    def ask(k: int):
        return engine_lib.top_k(searcher.engine, index, vector, min(k, len(index.vectors)), allowed)

    if not count:
        ranked = []
    elif group is None:
        ranked = [[(row, score)] for score, row in zip(*(x.tolist() for x in ask(top_k)), strict=True)]
    else:
        ranked = groups.grouped_top_k(ask, index.vectors, top_k, group)
    searched = time.perf_counter()
    return {
        "results": _results(index, ranked, group is not None),
        "count": len(index.vectors),
        "matching": count,
        "engine": searcher.engine.name,
        "notes": notes,
        "encode_ms": 1000 * (encoded - begun),
        "search_ms": 1000 * (searched - encoded),
    }


def encode_question(
    model: Model,
    text: str | None,
    image: ImageSource | None,
    weight: float = 0.5,
    feat: Float[np.ndarray, " e"] | None = None,
) -> tuple[Float[np.ndarray, " e"], list[str]]:
    """(the vector to search with, of length 1; notes on what could not be taken as it was asked).

    `feat` is that of a picture which was encoded before, instead of `image`.

    Raises:
      UserError: neither is given, the weight is out of range, or the picture cannot be read.
    """
    if text is not None and not text.strip():
        raise UserError("the query is empty: describe the person in words, or give --image FILE")
    if text is None and image is None and feat is None:
        raise UserError("nothing is asked: describe the person in words, or give --image FILE")
    if not 0 <= weight <= 1:
        raise UserError(f"--weight {weight}: must be from 0 (the picture only) to 1 (the text only)")
    vector, notes = np.zeros(model.config.embed_dim, np.float32), []
    if image is not None:
        feat = model.encode_images([image], batch_size=1)[0]
    both = text is not None and feat is not None
    if text is not None:
        notes = text_notes(model, text)
        vector += (weight if both else 1) * model.encode_texts([text], batch_size=1)[0]
    if feat is not None:
        vector += (1 - weight if both else 1) * feat
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length < 1e-6:
        raise UserError("the query has no direction: the model is broken, or text and picture cancel out")
    return vector / length, notes


def text_notes(model: Model, text: str) -> list[str]:
    """What a user should know of how a text is read: that it is cut, or in a script CLIP hardly knows."""
    notes, tokenizer = [], model.tokenizer
    if tokenizer is not None:
        # Prompt tokens take places of the text tower's, behind start-of-text.
        room = model.config.context_length - text_tokens(model.method.prompts)
        length = min(tokenizer.context_length, room)
        longer = dataclasses.replace(tokenizer, context_length=length + 1)
        if longer([text])[0, -1] != 0:
            notes.append(f"the text is cut after {length - 2} tokens, about as many words")
    letters = [c for c in text[:1000] if c.isalpha()]
    latin = sum("LATIN" in unicodedata.name(c, "") for c in letters)
    if letters and latin < len(letters) / 2:
        notes.append("the text is not in Latin script; CLIP learned from English, so expect little of it")
    elif not letters:
        notes.append("the text has no word")
    return notes


def visible(index: Index):
    """The index's table with the columns a user may ask for."""
    return index.table.drop_columns(list(FILE))


def _results(index: Index, ranked: list[list[tuple[int, float]]], grouped: bool) -> list[dict]:
    rows = [row for group in ranked for row, _ in group]
    records = dict(zip(rows, visible(index).take(rows).to_pylist() if rows else [], strict=True))
    results = []
    for rank, group in enumerate(ranked, 1):
        photos = [{"score": round(score, 6), "row": row, **_photo(records[row])} for row, score in group]
        more = {"group": photos[1:]} if grouped else {}
        results.append({"rank": rank, **photos[0], **more})
    return results


def _photo(record: dict) -> dict:
    box = [record[name] for name in KEY[1:]]
    columns = {name: plain(value) for name, value in record.items() if name not in KEY}
    return {"path": record["path"], "box": None if box[0] is None else box, "columns": columns}


def plain(value):
    """As JSON has it: times in ISO 8601."""
    return value.isoformat() if isinstance(value, date) else value
