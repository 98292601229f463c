"""Searches an index by a text, by an image, or by both: ranked photos with scores and columns."""

import functools
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tpr_jax.data.languages import foreign_languages, is_english
from tpr_jax.errors import ArgumentError, UserError, shown
from tpr_jax.model import ImageSource, Model, from_pretrained
from tpr_jax.models.petl_config import text_tokens
from tpr_jax.search.index.store import (
    INFO_FILE,
    KEY_COLUMNS,
    Index,
    check_pixels,
    check_vectors,
    find_model,
    open_current,
    public_table,
    read_vectors,
)
from tpr_jax.search.query import ask as ask_lib
from tpr_jax.search.query import chance as chance_lib
from tpr_jax.search.query import engine as engine_lib
from tpr_jax.search.query import groups
from tpr_jax.search.query.combine import combine
from tpr_jax.search.query.selection import Selection
from tpr_jax.search.query.sightings import describe_sightings, find_sightings
from tpr_jax.utils.plural import counted
from tpr_jax.weights import arguments

MAX_TOP_K = 10_000
# Results from which PyArrow's `take` is faster than reading row by row, though it imports all its functions.
MANY_ROWS = 200
WORD = re.compile(r"[^\W\d_]+")
MULTILINGUAL = 100_000  # vocabularies from this size on have words of many languages, as SigLIP 2's


@dataclass(frozen=True)
class Searcher:
    """An index and its model, ready for queries; see `open_searcher`."""

    index: Index
    model: Model
    engine: engine_lib.Engine

    @functools.cached_property
    def baselines(self) -> chance_lib.Baselines:
        """The scores of made-up descriptions, to compare those of queries with."""
        return chance_lib.Baselines(self.index, self.model.encode_texts)

    @functools.cached_property
    def attributes(self) -> ask_lib.Attributes:
        """The features of the attributes that `ask` asks for."""
        return ask_lib.load_attributes(self.model.encode_texts, self.index.vectors)

    def choose_question(
        self,
        query: Float[np.ndarray, " e"],
        rows: Sequence[int],
        yes: Sequence[str] = (),
        no: Sequence[str] = (),
        unknown: Sequence[str] = (),
    ) -> ask_lib.Question | None:
        """Chooses the question whose answer says most about which of some photos is the right one.

        Args:
          query: the query vector, of length 1.
          rows: the rows of the photos.
          yes: what was answered with yes.
          no: what was answered with no.
          unknown: what has no answer.
        """
        photos = read_vectors(self.index, rows)
        return ask_lib.choose_question(self.attributes, photos @ query, photos, yes, no, unknown)


def open_searcher(
    folder: str | os.PathLike,
    model: str | os.PathLike | None = None,
    engine: str = "auto",
    *,
    previous: Searcher | None = None,
) -> Searcher:
    """Loads an index and its model.

    Args:
      folder: the index.
      model: where the index's model is now; by default where it was when the index was made.
      engine: one of `engine.ENGINES`.
      previous: an opened index; its model is used again if the index has the same one.

    Raises:
      UserError: the index is missing, damaged or of another version; the model is not available, or is not
        the one that the index was made with; or the engine is unknown, or another argument invalid.
    """
    arguments.check_path("folder", folder)
    if model is not None:
        arguments.check_path("model", model)
    arguments.check_type("engine", engine, str, "a name (str)")
    index, loaded_engine = open_current(folder, lambda index: (index, engine_lib.make_engine(index, engine)))
    if not index.info["files"].get("codes"):  # few photos, whose vectors every query reads
        check_vectors(index)
    settings = index.info["model"]
    if previous is not None and _without_name(previous.index.info["model"]) == _without_name(settings):
        return Searcher(index, previous.model, loaded_engine)
    name = find_model(index.info, folder, model)
    try:
        # The checksum is that of the files that made the index, so their shapes are right.
        loaded = from_pretrained(name, tuple(settings["image_size"]), settings["dtype"], check_shapes=False)
    except UserError as error:
        raise UserError(
            f"{index.folder / INFO_FILE}: its model cannot be loaded as it says: {error}"
        ) from error
    check_pixels(settings, folder, loaded)
    return Searcher(index, loaded, loaded_engine)


def _without_name(settings: Mapping) -> dict:
    """Returns the settings of a model that determine its features, wherever its files are."""
    return {key: value for key, value in settings.items() if key != "name"}


def search(
    searcher: Searcher,
    text: str | Sequence[str] | None = None,
    image: ImageSource | None = None,
    *,
    without: str | Sequence[str] = (),
    like: int | None = None,
    right: Sequence[int | str] = (),
    wrong: Sequence[int | str] = (),
    yes: Sequence[str] = (),
    no: Sequence[str] = (),
    unknown: Sequence[str] = (),
    ask: bool = False,
    top_k: int = 10,
    weight: float = 0.5,
    where: str | None = None,
    group: float | None = None,
) -> dict:
    """Ranks the photos of an index for a text, an image, or both.

    Args:
      searcher: the index and its model.
      text: a description of the person, or several, whose features are averaged.
      image: a path, the bytes of an image file, or an array.
      without: descriptions of what the person does not have, such as "a backpack".
      like: a row of the index whose photo takes the place of `image`.
      right: photos of the index that show the person: rows, or paths as the results have them.
      wrong: photos of the index that do not, likewise.
      yes: what the person is, wears, carries or has: phrases that `ask` asked for.
      no: what the person is not, or lacks, likewise.
      unknown: what `ask` asked for and nobody knows; such things are not asked for again.
      ask: whether to choose a question about the person, see the module `ask`.
      top_k: maximum number of results.
      weight: the weight of the text relative to the image, from 0 to 1.
      where: a condition on the columns, see the module `where`.
      group: list photos under a better one if their cosine is at least this, or if they show the same
        person, track or moment, see `groups`.

    Returns:
      A dict with

      - `results`: one dict per photo, best first, with `rank` (from 1), `score`, `chance` (the share of pairs
        of a made-up description and a photo that score as high; None for queries with an image or marks, and
        for few photos, see the module `chance`), `row`, `path`, `box` (or None), `columns`, and, with
        `group`, `group`: a list of the same fields but `rank` and `group`, and if it has any, `seen`: how
        often, where and when, see `describe_sightings`;
      - `chance`: the share of made-up descriptions whose best photo scores as high as the best result, or
        None, and `unlikely`: whether that is no better than chance;
      - `count`: photos in the index, and `matching`: photos that match `where`;
      - `engine`, `notes` (a list of strings), `encode_ms` and `search_ms`;
      - with `ask`, `question`: a dict with the `text` of the question, the `phrase` for `yes`, `no` or
        `unknown`, its `gain` (the expected information about which of the first 50 photos is right, bits) and
        its `share` (how likely the answer is yes, by the model); None if there is nothing to ask.

    Raises:
      UserError: the query is empty, a value is out of range or of another type, the image cannot be read, the
        condition is invalid, or a vector of the index is damaged.
    """
    arguments.check_type("searcher", searcher, Searcher, "what open_searcher returns")
    index = searcher.index
    _check_options(index, image, like=like, top_k=top_k, where=where, group=group)
    start = time.perf_counter()
    feat = None if like is None else read_vectors(index, [int(like)])[0]
    marked = {"right": marked_rows(index, "right", right), "wrong": marked_rows(index, "wrong", wrong)}
    _check_marks(index, **marked)
    marks = {name: read_vectors(index, rows) for name, rows in marked.items()}
    answers = ask_lib.answer_vector(searcher.attributes, yes, no) if len(yes) or len(no) else None
    ask_lib.find_phrases("unknown", unknown)
    query, notes = encode_query(
        searcher.model, text, image, weight, without=without, feat=feat, answers=answers, **marks
    )
    encoded = time.perf_counter()
    selection = _select(searcher, where)
    count = selection.count
    notes += _condition_notes(index, where, count)

    def search_rows(k: int):
        scores, rows = selection.search(query, min(k, len(index.vectors)))
        read_vectors(index, rows)  # a damaged vector may have any score
        return scores, rows

    if not count:
        ranked = []
    elif group is None:
        scores, rows = search_rows(int(top_k))
        ranked = [[pair] for pair in zip(rows.tolist(), scores.tolist(), strict=True)]
    else:
        describe = functools.partial(find_sightings, index.table)
        ranked = groups.grouped_top_k(search_rows, index.vectors, int(top_k), float(group), describe=describe)
    searched = time.perf_counter()
    baseline = None
    if ranked and image is None and like is None and not any(map(len, (right, wrong, yes, no))):
        counts = (len(as_texts("text", text)), len(as_texts("without", without)))
        baseline = searcher.baselines.find(*counts, where, selection)
    chance = None if baseline is None else round(baseline.of_query(ranked[0][0][1]), 4)
    unlikely = chance is not None and chance >= chance_lib.UNLIKELY
    if unlikely:
        notes.append(chance_lib.unlikely_note(chance))
    question = {}
    if ask:
        rows = search_rows(ask_lib.TOP)[1].tolist() if count else []
        question["question"] = _describe_question(searcher.choose_question(query, rows, yes, no, unknown))
    return {
        **question,
        "results": _results(index, ranked, group is not None, baseline),
        "chance": chance,
        "unlikely": unlikely,
        "count": len(index.vectors),
        "matching": count,
        "engine": selection.engine,
        "notes": notes,
        "encode_ms": 1000 * (encoded - start),
        "search_ms": 1000 * (searched - encoded),
    }


def _describe_question(question: ask_lib.Question | None) -> dict | None:
    if question is None:
        return None
    found = question.attribute
    numbers = {"gain": round(question.gain, 4), "share": round(question.share, 4)}
    return {"text": found.question, "phrase": found.phrase, **numbers}


def _check_options(
    index: Index,
    image: ImageSource | None,
    *,
    like: int | None,
    top_k: int,
    where: str | None,
    group: float | None,
) -> None:
    if not arguments.is_integer(top_k) or not 1 <= top_k <= MAX_TOP_K:
        raise ArgumentError(f"--top_k {shown(top_k)}: must be a whole number from 1 to {MAX_TOP_K}")
    if group is not None and not (arguments.is_finite_number(group) and 0 < group <= 1):
        raise ArgumentError(f"--group {shown(group)}: must be a cosine above 0 and at most 1")
    if where is not None and not isinstance(where, str):
        raise ArgumentError(f"--where {shown(where)}: must be a text, such as 'camera=3'")
    if like is not None and not (arguments.is_integer(like) and 0 <= like < len(index.vectors)):
        raise ArgumentError(f"like {shown(like)}: the index has rows 0 to {len(index.vectors) - 1}")
    if like is not None and image is not None:
        raise ArgumentError("the query has both an image and a row of the index: give only one of them")


def marked_rows(index: Index, name: str, marks: Sequence[int | str]) -> list[int]:
    """Returns the rows of photos that are given by row or path.

    Args:
      index: the index.
      name: the name of the argument, for messages.
      marks: rows or paths.

    Raises:
      UserError: the index does not have such a row or path, or has several people of that path.
    """
    if isinstance(marks, str) or not isinstance(marks, list | tuple):
        raise ArgumentError(f"{name} {shown(marks)}: must be a list of rows or paths of photos")
    return [_marked_row(index, name, mark) for mark in marks]


def _check_marks(index: Index, right: Sequence[int], wrong: Sequence[int]) -> None:
    for row in right:
        if row in wrong:
            path = index.table["path"][row].as_py()
            raise UserError(f"--right {row}: {path} is also marked wrong: leave out one of the two")


def _marked_row(index: Index, name: str, mark: int | str) -> int:
    if isinstance(mark, str):
        rows = np.flatnonzero(np.asarray(index.table["path"]) == mark).tolist()
        if len(rows) == 1:
            return rows[0]
        if not rows:
            raise UserError(
                f"--{name} {shown(mark)}: the index has no such photo: give a path of its results"
            )
        listed = f"{', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}"
        raise UserError(f"--{name} {shown(mark)}: shows several people: give one of the rows {listed}")
    if not (arguments.is_integer(mark) and 0 <= mark < len(index.vectors)):
        raise ArgumentError(f"--{name} {shown(mark)}: the index has rows 0 to {len(index.vectors) - 1}")
    return int(mark)


def encode_query(
    model: Model,
    text: str | Sequence[str] | None,
    image: ImageSource | None,
    weight: float = 0.5,
    *,
    without: str | Sequence[str] = (),
    feat: Float[np.ndarray, " e"] | None = None,
    answers: Float[np.ndarray, " e"] | None = None,
    right: Float[np.ndarray, "r e"] | None = None,
    wrong: Float[np.ndarray, "w e"] | None = None,
) -> tuple[Float[np.ndarray, " e"], list[str]]:
    """Encodes descriptions, an image, or both into one query vector.

    Args:
      model: the model of the index.
      text: a description of the person, or several.
      image: a path, the bytes of an image file, or an array.
      weight: the weight of the text relative to the image, from 0 to 1.
      without: descriptions of what the person does not have.
      feat: the features of an image that is already encoded, in place of `image`.
      answers: what the answers to questions add to the vector, see `ask.answer_vector`.
      right: the features of photos that show the person.
      wrong: the features of photos that do not.

    Returns:
      The vector, of length 1, and notes about anything that was not used as given.

    Raises:
      UserError: the query is empty or not a text, the weight is out of range, or the image cannot be read.
    """
    texts, lacking = as_texts("text", text), as_texts("without", without)
    if not texts and image is None and feat is None and (right is None or not len(right)):
        raise UserError("the query is missing: describe the person, or give --image FILE")
    if not (arguments.is_finite_number(weight) and 0 <= weight <= 1):
        raise ArgumentError(f"--weight {shown(weight)}: must be from 0 (only the photo) to 1 (only the text)")
    if image is not None:
        feat = model.encode_images([image], batch_size=1)[0]
    notes = [note for one in (*texts, *lacking) for note in text_notes(model, one)]
    described, absent = _encode_texts(model, texts), _encode_texts(model, lacking)
    vector = combine(described, absent, feat, float(weight), right=right, wrong=wrong)
    vector = vector if answers is None else vector + answers
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length < 1e-6:
        raise UserError(
            "the query vector is zero or not finite: the model is broken, or parts of the query cancel"
        )
    return vector / length, list(dict.fromkeys(notes))


def as_texts(name: str, value: str | Sequence[str] | None) -> list[str]:
    """Returns the texts of an argument that may be one text, several or none.

    Raises:
      UserError: a text is empty, or the argument is something else; the message names it.
    """
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ArgumentError(f"{name}={shown(value)} must be a description (str), or a list of them")
    if not all(text.strip() for text in texts):
        raise UserError("the query is empty: describe the person, or give --image FILE")
    return list(texts)


def _encode_texts(model: Model, texts: list[str]) -> Float[np.ndarray, "n e"]:
    if not texts:
        return np.zeros((0, model.config.embed_dim), np.float32)
    # One at a time, so that every query runs the program that is compiled for one text.
    return np.concatenate([model.encode_texts([text], batch_size=1) for text in texts])


def text_notes(model: Model, text: str) -> list[str]:
    """Returns notes about a text: that it is truncated, or in a language that the model hardly knows.

    English words are nearly all in the vocabulary of a CLIP, and words of other languages often in pieces.
    Short ones of German, French or Spanish are in it too: these languages are recognized by frequent words.
    """
    notes, tokenizer = [], model.tokenizer
    if tokenizer is not None:
        # Prompt tokens take up positions of CLIP's text tower, after start-of-text.
        taken = text_tokens(model.method.prompts) if model.config.causal else 0
        length = min(tokenizer.length, model.config.context_length - taken)
        if kept := tokenizer.words_cut(text, length):
            notes.append(f"the text is cut after {counted(kept, 'token')}, about as many words")
    words = WORD.findall(text[:1000])
    if not words:
        notes.append("the text has no words")
    elif tokenizer is not None and model.config.vocab_size < MULTILINGUAL:
        known = sum(map(tokenizer.is_one_id, words))
        notes += language_notes(text[:1000], few_known=known <= len(words) / 2)
    return notes


def language_notes(text: str, few_known: bool) -> list[str]:
    """Returns the notes about the words of a text, for a model whose vocabulary is mostly English.

    Args:
      text: the text.
      few_known: whether at most half of its words are in the model's vocabulary as a whole.
    """
    languages = foreign_languages(text)
    if languages:
        which = f"in {languages[0]}" if len(languages) == 1 else "in another language than English"
        return [f"the text seems to be {which}: results may be poor; the model knows English best"]
    if not few_known:
        return []
    remark = "" if is_english(text) else "; it knows English best"
    return [f"few of these words are in the model's vocabulary: results may be poor{remark}"]


def _select(searcher: Searcher, where: str | None) -> Selection:
    engine, index = searcher.engine, searcher.index
    if engine.select is not None:
        return engine.select(where)
    allowed = None if where is None else _matching(index, where)
    return Selection(
        engine.name,
        len(index.vectors) if allowed is None else int(allowed.sum()),
        lambda query, k: engine_lib.top_k(engine, index, query, k, allowed),
        lambda: allowed,
    )


def _matching(index: Index, where: str) -> Bool[np.ndarray, " n"]:
    from tpr_jax.search.query.where import matching  # imports PyArrow's functions, which take a while

    return matching(public_table(index), where)


def _condition_notes(index: Index, where: str | None, count: int) -> list[str]:
    if where is None:
        return []
    from tpr_jax.search.query.where_hints import describe_condition  # imports PyArrow's functions

    return describe_condition(public_table(index), where, count)


def _results(
    index: Index, ranked: list[groups.Group], grouped: bool, baseline: chance_lib.Baseline | None
) -> list[dict]:
    def chance(score: float) -> float | None:
        return None if baseline is None else round(baseline.of_result(score), 4)

    rows = [row for group in ranked for row, _ in group]
    records = dict(zip(rows, _read_rows(index, rows), strict=True))
    results = []
    for rank, group in enumerate(ranked, 1):
        photos = [
            {"score": round(score, 6), "chance": chance(score), "row": row, **_photo_fields(records[row])}
            for row, score in group
        ]
        members: dict = {"group": photos[1:]} if grouped else {}
        if len(group) > 1:
            members["seen"] = describe_sightings(find_sightings(index.table, [row for row, _ in group]))
        results.append({"rank": rank, **photos[0], **members})
    return results


def _read_rows(index: Index, rows: Sequence[int]) -> list[dict]:
    table = public_table(index)
    if len(rows) > MANY_ROWS:
        return table.take(rows).to_pylist()
    return [table.slice(row, 1).to_pylist()[0] for row in rows]


def describe_row(index: Index, row: int) -> dict:
    """Returns `path`, `box` and `columns` of a row, as `search` does."""
    return _photo_fields(_read_rows(index, [row])[0])


def _photo_fields(record: dict) -> dict:
    box = [record[name] for name in KEY_COLUMNS[1:]]
    columns = {name: to_json_value(value) for name, value in record.items() if name not in KEY_COLUMNS}
    return {"path": record["path"], "box": None if box[0] is None else box, "columns": columns}


def to_json_value(value: Any) -> Any:
    """Converts a value of a column to its JSON form: times to ISO 8601, others unchanged."""
    return value.isoformat() if isinstance(value, date) else value
