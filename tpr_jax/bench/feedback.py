"""Measures by simulated users how far further answers bring a search, on MiniPEDES.

    python -m tpr_jax.bench.feedback --model runs/demo/model

Each caption is a query, and the photos of the split are the gallery. The user knows the person, whose
attributes the renderer tells, and does one of these after each ranking:

- `question`: answers the question of `search.query.ask` truthfully;
- `wrong`: marks the first three wrong photos as wrong;
- `right`: marks the first right photo as right;
- `sentence`: adds the caption of another photo of the person.

Photos that were marked are left out of the ranking from then on. The rows `wrong, unused` and `right, unused`
leave them out without telling the search: the difference is what the marks add.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from tpr_jax.cli import parser as arguments
from tpr_jax.cli.exit import explain_and_exit
from tpr_jax.data.annotations import SPLITS
from tpr_jax.data.mini_pedes.generate import bundled_person
from tpr_jax.data.mini_pedes.phrases import with_article
from tpr_jax.metrics.retrieval import match_ranks
from tpr_jax.models.config import CLIP_MINI
from tpr_jax.search.query import ask
from tpr_jax.search.query.combine import combine
from tpr_jax.utils import markdown

ROUNDS = 3
WRONG = 3  # photos that are marked wrong at once


@dataclass(frozen=True)
class Gallery:
    """The features of a split, and who is in it.

    Attributes:
      captions: unit features of the captions.
      caption_pids: their identities.
      photos: unit features of the photos.
      photo_pids: their identities.
      true_phrases: by identity, the phrases of `ask.ATTRIBUTES` that are true.
      attributes: the features of the attributes.
    """

    captions: Float[np.ndarray, "q e"]
    caption_pids: Int[np.ndarray, " q"]
    photos: Float[np.ndarray, "g e"]
    photo_pids: Int[np.ndarray, " g"]
    true_phrases: dict[int, set[str]]
    attributes: ask.Attributes


@dataclass
class Session:
    """One user's search: the caption, and what was told so far.

    Attributes:
      gallery: the gallery.
      caption: the number of the first caption.
      texts: the numbers of all captions.
      yes: the questions that were answered with yes.
      no: those that were answered with no.
      right: the photos that were marked right.
      wrong: the photos that were marked wrong.
      hidden: the photos that were marked, whether or not the search was told.
    """

    gallery: Gallery
    caption: int
    texts: list[int] = field(default_factory=list)
    yes: list[str] = field(default_factory=list)
    no: list[str] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    hidden: list[int] = field(default_factory=list)

    @property
    def is_right(self) -> Bool[np.ndarray, " g"]:
        """Which photos show the person."""
        return self.gallery.photo_pids == self.gallery.caption_pids[self.caption]

    def scores(self) -> Float[np.ndarray, " g"]:
        """Returns the score of each photo; those that were marked have the lowest."""
        texts = self.gallery.captions[[self.caption, *self.texts]]
        photos = self.gallery.photos
        vector = combine(texts, texts[:0], None, right=photos[self.right], wrong=photos[self.wrong])
        vector = vector + ask.answer_vector(self.gallery.attributes, self.yes, self.no)
        scores = photos @ (vector / np.linalg.norm(vector))
        scores[self.hidden] = -np.inf
        return scores


Action = Callable[[Session, Int[np.ndarray, " g"]], None]


def answer_question(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Answers the question about the best photos truthfully."""
    gallery, best = session.gallery, order[: ask.TOP]
    scores = session.scores()[best]
    question = ask.choose_question(gallery.attributes, scores, gallery.photos[best], session.yes, session.no)
    if question is not None:
        phrase = question.attribute.phrase
        is_true = phrase in gallery.true_phrases[int(gallery.caption_pids[session.caption])]
        (session.yes if is_true else session.no).append(phrase)


def mark_wrong(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Marks the first wrong photos."""
    found = [int(i) for i in order if not session.is_right[i] and i not in session.hidden][:WRONG]
    session.wrong += found
    session.hidden += found


def mark_right(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Marks the first right photo, but not the last one that is left to find."""
    found = [int(i) for i in order if session.is_right[i] and i not in session.hidden]
    if len(found) > 1:
        session.right.append(found[0])
        session.hidden.append(found[0])


def hide_wrong(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Leaves out the first wrong photos."""
    mark_wrong(session, order)
    session.wrong.clear()


def hide_right(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Leaves out the first right photo."""
    mark_right(session, order)
    session.right.clear()


def add_sentence(session: Session, order: Int[np.ndarray, " g"]) -> None:
    """Adds the next caption of the person, in the order of the annotation after the first one."""
    del order
    pids = session.gallery.caption_pids
    own = np.flatnonzero(pids == pids[session.caption]).tolist()
    at = own.index(session.caption)
    others = [i for i in own[at + 1 :] + own[:at] if i not in session.texts]
    session.texts += others[:1]


ACTIONS: dict[str, Action] = {
    "question": answer_question,
    "wrong": mark_wrong,
    "wrong, unused": hide_wrong,
    "right": mark_right,
    "right, unused": hide_right,
    "sentence": add_sentence,
}


def simulate(gallery: Gallery, action: Action, rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Returns R@1 and mAP, percent, after 0 to `rounds` rounds of an action, over all captions."""
    first, precision = (np.zeros((rounds + 1, len(gallery.captions))) for _ in range(2))
    for caption in range(len(gallery.captions)):
        session = Session(gallery, caption)
        for done in range(rounds + 1):
            scores = session.scores()
            left = np.setdiff1d(np.flatnonzero(session.is_right), session.hidden)
            ranks = np.sort(match_ranks(scores, left))
            first[done, caption] = ranks[0] == 1
            precision[done, caption] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
            if done < rounds:
                action(session, np.argsort(-scores, kind="stable"))
    return [
        {"R1": 100 * float(a), "mAP": 100 * float(b)}
        for a, b in zip(first.mean(axis=1), precision.mean(axis=1), strict=True)
    ]


def true_phrases(person: dict) -> set[str]:
    """Returns the phrases of `ask.ATTRIBUTES` that are true of a rendered person."""
    top, lower, hair, shoes = (person[part] for part in ("top", "lower", "hair", "shoes"))
    said = {
        with_article(person["sex"]),
        with_article(top["type"]),
        lower["type"],
        with_article(lower["type"]),
    }
    if top["type"] != "dress":
        said.add(f"{with_article(_color(top))} top")
    if lower["type"] in ("trousers", "jeans"):
        said.add(f"{_color(lower)} trousers")
    said |= {f"{_color(shoes)} shoes", f"{hair['style']} hair", with_article(hair["style"])}
    if hair["style"] != "bald":
        said.add(f"{_color(hair)} hair")
    for part in ("bag", "hat"):
        said.add(with_article(person[part]["type"]) if person[part] else f"no {part}")
    said.add("glasses" if person["glasses"] else "no glasses")
    return said & {one.phrase for one in ask.ATTRIBUTES}


def _color(part: dict) -> str:
    """Returns the color of a part in the words of `ask.ATTRIBUTES`."""
    return {"navy": "navy blue", "grey": "gray"}.get(part["color"], part["color"])


def load_gallery(model: str, split: str) -> Gallery:
    """Encodes a split of the bundled MiniPEDES with a model."""
    from tpr_jax import from_pretrained
    from tpr_jax.data.mini_pedes import bundled_dir
    from tpr_jax.data.records import caption_pairs, image_sources, load_records

    records = load_records(bundled_dir(), split, "mini_pedes")
    _, captions, caption_pids = caption_pairs(records)
    loaded = from_pretrained(model)
    photos = loaded.encode_images(image_sources(records))
    return Gallery(
        captions=loaded.encode_texts(captions),
        caption_pids=caption_pids,
        photos=photos,
        photo_pids=records.pids,
        true_phrases={pid: true_phrases(bundled_person(pid)) for pid in set(records.pids.tolist())},
        attributes=ask.load_attributes(loaded.encode_texts, photos.astype(np.float16)),
    )


def format_table(found: dict[str, Sequence[dict[str, float]]]) -> str:
    """Returns the results of `simulate` by action as a Markdown table."""
    rounds = range(len(next(iter(found.values()))))
    header = ["", *(f"R@1 after {n}" for n in rounds), *(f"mAP after {n}" for n in rounds)]
    rows = [
        [name, *(f"{one[key]:.2f}" for key in ("R1", "mAP") for one in results)]
        for name, results in found.items()
    ]
    return markdown.table(header, rows)


def run(argv: list[str]) -> None:
    """Runs the command."""
    parser = arguments.Parser(
        prog="python -m tpr_jax.bench.feedback",
        description="Measures on MiniPEDES how far answers, marks and further sentences bring a search.",
        examples=("python -m tpr_jax.bench.feedback --model runs/demo/model",),
    )
    parser.add_argument("--model", type=arguments.path, default=CLIP_MINI, help="a folder or hub id")
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose people are searched")
    args = parser.parse_args(argv[1:])
    gallery = load_gallery(args.model, args.split)
    print(f"{len(gallery.captions):,} captions, {len(gallery.photos):,} photos: MiniPEDES, rendered\n")
    print(format_table({name: simulate(gallery, action) for name, action in ACTIONS.items()}))


if __name__ == "__main__":
    explain_and_exit(run, sys.argv)
