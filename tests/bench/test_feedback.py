"""The simulated users: what each does, the truth about the rendered people, and the scores."""

import numpy as np
import pytest

from tpr_jax.bench import feedback
from tpr_jax.data.mini_pedes.generate import bundled_person
from tpr_jax.search.query import ask

WIDTH = 6


def gallery(people: int = 5, seed: int = 0) -> feedback.Gallery:
    """Returns two captions and three photos of each person, near the person."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(people, WIDTH))

    def near(pids, noise):
        feats = (centers[pids] + noise * rng.normal(size=(len(pids), WIDTH))).astype(np.float32)
        return feats / np.linalg.norm(feats, axis=1, keepdims=True)

    caption_pids, photo_pids = np.repeat(np.arange(people), 2), np.repeat(np.arange(people), 3)
    photos = near(photo_pids, 0.8)
    feats = rng.normal(size=(len(ask.ATTRIBUTES), WIDTH)).astype(np.float32)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    return feedback.Gallery(
        captions=near(caption_pids, 1.0),
        caption_pids=caption_pids,
        photos=photos,
        photo_pids=photo_pids,
        true_phrases={pid: {"a man", "a backpack"} if pid % 2 else set() for pid in range(people)},
        attributes=ask.load_attributes(lambda _: feats, photos.astype(np.float16)),
    )


def started(caption: int = 3):
    """Returns a session of person 1 and its first ranking."""
    session = feedback.Session(gallery(), caption)
    return session, np.argsort(-session.scores(), kind="stable")


def test_before_any_action_the_scores_are_cosines():
    session, _ = started()
    np.testing.assert_allclose(
        session.scores(), session.gallery.photos @ session.gallery.captions[3], atol=1e-6
    )
    assert np.flatnonzero(session.is_right).tolist() == [3, 4, 5]


def test_answers_truthfully():
    for caption, is_true in ((3, True), (4, False)):
        session, order = started(caption)
        for _ in range(len(ask.ATTRIBUTES)):
            feedback.answer_question(session, order)
        assert set(session.yes) == ({"a man", "a backpack"} if is_true else set())
        assert set(session.no).isdisjoint({"a man", "a backpack"}) == is_true and session.no


def test_answers_are_those_of_the_query():
    session, _ = started()
    session.yes.append("a backpack")
    query = session.gallery.captions[3] + ask.answer_vector(session.gallery.attributes, ["a backpack"], [])
    np.testing.assert_allclose(
        session.scores(), session.gallery.photos @ (query / np.linalg.norm(query)), atol=1e-6
    )


@pytest.mark.parametrize("told", [True, False])
def test_marks(told):
    session, order = started()
    wrong = [int(i) for i in order if i not in (3, 4, 5)][:3]
    (feedback.mark_wrong if told else feedback.hide_wrong)(session, order)
    assert session.hidden == wrong and session.wrong == (wrong if told else [])
    session, order = started()
    first = next(int(i) for i in order if i in (3, 4, 5))
    act = feedback.mark_right if told else feedback.hide_right
    act(session, order)
    assert session.hidden == [first] and session.right == ([first] if told else [])
    assert session.scores()[first] == -np.inf and np.isfinite(np.delete(session.scores(), first)).all()
    for _ in range(5):
        act(session, order)
    assert len(session.hidden) == 2  # one right photo is left to find


def test_sentences_are_the_other_captions_of_the_person():
    session, order = started()
    feedback.add_sentence(session, order)
    assert session.texts == [2]
    feedback.add_sentence(session, order)
    assert session.texts == [2]
    both = session.gallery.captions[[2, 3]].mean(axis=0)
    np.testing.assert_allclose(
        session.scores(), session.gallery.photos @ (both / np.linalg.norm(both)), atol=1e-6
    )


def test_simulate_scores_what_is_left():
    """After each round: by hand from the sessions, without the photos that were marked."""
    given = gallery()
    found = feedback.simulate(given, feedback.mark_right, rounds=2)
    for done in range(3):
        firsts, precisions = [], []
        for caption in range(10):
            session = feedback.Session(given, caption)
            for _ in range(done):
                feedback.mark_right(session, np.argsort(-session.scores(), kind="stable"))
            order = [int(i) for i in np.argsort(-session.scores(), kind="stable") if i not in session.hidden]
            ranks = [n + 1 for n, i in enumerate(order) if session.is_right[i]]
            firsts.append(ranks[0] == 1)
            precisions.append(np.mean([(n + 1) / rank for n, rank in enumerate(ranks)]))
        assert found[done] == pytest.approx({"R1": 100 * np.mean(firsts), "mAP": 100 * np.mean(precisions)})


def test_people_are_those_of_the_bundled_captions():
    """The captions of four bundled people of each split."""
    woman = bundled_person(
        601
    )  # "A woman in a sky blue tee shirt, black jeans and brown boots, ... blond hair"
    said = feedback.true_phrases(woman)
    assert {"a woman", "a t-shirt", "a light blue top", "jeans", "black trousers", "brown shoes"} <= said
    assert {"blond hair", "a handbag"} <= said and "a man" not in said
    first = feedback.true_phrases(bundled_person(1))  # "a yellow hoodie, gray jeans and blue trainers, a man"
    assert {"a man", "a hoodie", "a yellow top", "jeans", "gray trousers", "blue shoes", "a cap"} <= first
    with pytest.raises(ValueError, match="850 people"):
        bundled_person(851)


def test_true_phrases_of_a_person_by_hand():
    person = {
        "sex": "woman",
        "top": {"type": "dress", "color": "grey"},
        "lower": {"type": "dress", "color": "grey"},
        "shoes": {"type": "boots", "color": "grey"},
        "hair": {"style": "ponytail", "color": "grey"},
        "bag": None,
        "hat": {"type": "woolly hat", "color": "red"},
        "glasses": False,
    }
    assert feedback.true_phrases(person) == {
        *("a woman", "a dress", "gray shoes", "a ponytail", "gray hair"),
        *("no bag", "a woolly hat", "no glasses"),
    }
    person |= {"lower": {"type": "skirt", "color": "navy"}, "top": {"type": "coat", "color": "navy"}}
    person |= {"hair": {"style": "bald", "color": "black"}, "bag": {"type": "backpack"}, "glasses": True}
    assert feedback.true_phrases(person) >= {"a coat", "a navy blue top", "a skirt", "a backpack", "glasses"}
    assert not {"navy blue trousers", "black hair", "no bag"} & feedback.true_phrases(person)


def test_prints_a_row_per_action(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(feedback, "load_gallery", lambda *given: asked.append(given) or gallery())
    feedback.run(["feedback", "--model", "M", "--split", "val"])
    assert asked == [("M", "val")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "10 captions, 15 photos: MiniPEDES, rendered"
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {name}" for name in feedback.ACTIONS]
    plain = {line.split(" | ")[1] for line in lines[4:]}
    assert len(plain) == 1  # before the first round all are alike
