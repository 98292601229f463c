"""The question that is asked: which attribute, by hand and by definition, and what its answer adds."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import search_galleries
from tpr_jax.errors import UserError
from tpr_jax.search.__main__ import main
from tpr_jax.search.index.build import build
from tpr_jax.search.query import ask
from tpr_jax.search.query.ask import ATTRIBUTES, Attributes
from tpr_jax.search.query.search import open_searcher, search

GROUPS = [one.group for one in ATTRIBUTES]
NUMBER = {one.phrase: i for i, one in enumerate(ATTRIBUTES)}


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ask")
    search_galleries.photos(folder / "photos", 60)
    build(folder / "photos", folder / "index", tiny["clip"])
    return open_searcher(folder / "index")


def draw(seed: int, width: int = 5) -> Attributes:
    rng = np.random.default_rng(seed)
    feats = rng.normal(size=(len(ATTRIBUTES), width)).astype(np.float32)
    feats /= np.linalg.norm(feats, axis=1, keepdims=True)
    names = sorted(set(GROUPS))
    mean = rng.normal(size=len(ATTRIBUTES)).astype(np.float32) / 10
    return Attributes(feats, mean, np.array([names.index(group) for group in GROUPS]))


def photos_of(seed: int, count: int, width: int = 5) -> np.ndarray:
    photos = np.random.default_rng(seed + 1).normal(size=(count, width)).astype(np.float32)
    return photos / np.linalg.norm(photos, axis=1, keepdims=True)


def gains(attributes, scores, photos):
    """Computes the mutual information of each answer and the right photo from their joint distribution."""
    weight = [math.exp((s - max(scores)) / 0.02) for s in scores.tolist()]
    weight = [w / sum(weight) for w in weight]
    found = []
    for a, group in enumerate(GROUPS):
        likely = []
        for photo in photos:
            logits = {
                b: (float(photo @ attributes.feats[b]) - float(attributes.mean[b])) / 0.3
                for b, other in enumerate(GROUPS)
                if other == group
            }
            likely.append(math.exp(logits[a]) / sum(map(math.exp, logits.values())))
        yes, total = sum(w * p for w, p in zip(weight, likely, strict=True)), 0.0
        for w, p in zip(weight, likely, strict=True):
            for joint, answer in ((w * p, yes), (w * (1 - p), 1 - yes)):
                total += joint * math.log2(joint / (w * answer)) if joint > 0 else 0
        found.append((total, yes))
    return found


@given(seed=st.integers(0, 2**31), count=st.integers(2, 12))
def test_asks_for_the_attribute_with_the_highest_information(seed, count):
    attributes, photos = draw(seed), photos_of(seed, count)
    scores = np.sort(np.random.default_rng(seed).normal(size=count).astype(np.float32) / 20)[::-1]
    question = ask.choose_question(attributes, scores, photos)
    want = gains(attributes, scores, photos)
    best = max(want[i][0] for i, one in enumerate(ATTRIBUTES) if one.askable)
    assert question is not None and question.attribute.askable
    assert question.gain == pytest.approx(best, abs=1e-4)
    assert question.share == pytest.approx(want[NUMBER[question.attribute.phrase]][1], abs=1e-4)


def test_information_by_hand():
    """Two photos: a certain answer that differs tells all; one that is the same, or a coin, tells nothing."""
    weight = np.array([0.5, 0.5])
    likely = np.array([[1.0, 1.0, 0.5, 1.0], [0.0, 1.0, 0.5, 0.5]])
    got = ask.information(weight, likely)
    # The last: H(3/4) - 1/2.
    expected = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25) - 0.5
    np.testing.assert_allclose(got, [1, 0, 0, expected], atol=1e-6)
    np.testing.assert_allclose(ask.information(np.array([1.0, 0.0]), likely), 0, atol=1e-6)


def test_probabilities_sum_to_1_in_each_group():
    attributes = draw(3)
    likely = ask.probabilities(attributes, photos_of(3, 4))
    for group in set(GROUPS):
        members = [i for i, one in enumerate(GROUPS) if one == group]
        np.testing.assert_allclose(likely[:, members].sum(axis=1), 1, rtol=1e-5)


def test_what_was_answered_is_not_asked_again():
    attributes, photos = draw(4), photos_of(4, 6)
    scores, no, yes = np.linspace(0.3, 0.28, 6, dtype=np.float32), [], []
    first = ask.choose_question(attributes, scores, photos)
    again = ask.choose_question(attributes, scores, photos, no=[first.attribute.phrase])
    assert again.attribute != first.attribute
    settled = ask.choose_question(attributes, scores, photos, yes=[first.attribute.phrase])
    assert settled.attribute.group != first.attribute.group
    for _ in range(len(ATTRIBUTES)):
        question = ask.choose_question(attributes, scores, photos, yes, no)
        if question is None:
            break
        no.append(question.attribute.phrase)
    assert sorted(no) == sorted(one.phrase for one in ATTRIBUTES if one.askable)
    for group in set(GROUPS):
        askable = [one.phrase for one in ATTRIBUTES if one.group == group and one.askable]
        yes.append(askable[0])
    assert ask.choose_question(attributes, scores, photos, yes) is None
    assert ask.choose_question(attributes, scores[:1], photos[:1]) is None


def test_words():
    assert len(NUMBER) == len(ATTRIBUTES)  # no phrase twice
    by_phrase = {one.phrase: one for one in ATTRIBUTES}
    assert by_phrase["a backpack"].question == "Does the person carry a backpack?"
    assert by_phrase["an orange top"].sentence == "a person wearing an orange top"
    assert (
        by_phrase["a woman"].question == "Is the person a woman?"
        and by_phrase["a woman"].sentence == "a woman"
    )
    assert by_phrase["long hair"].question == "Does the person have long hair?"
    assert {one.phrase for one in ATTRIBUTES if not one.askable} == {"no bag", "no hat", "no glasses"}
    assert all(GROUPS.count(group) > 1 for group in GROUPS)


def test_answers_by_definition():
    attributes = draw(5)
    got = ask.answer_vector(attributes, ["a backpack"], ["a man", "a cap"])

    def contrast(phrase):
        group = [i for i, one in enumerate(GROUPS) if one == GROUPS[NUMBER[phrase]]]
        return attributes.feats[NUMBER[phrase]] - np.mean([attributes.feats[i] for i in group], axis=0)

    want = 0.3 * contrast("a backpack") - 0.05 * contrast("a man") - 0.05 * contrast("a cap")
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert not ask.answer_vector(attributes, [], []).any()


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        (["a backpak"], "--yes 'a backpak': is no attribute that is asked for: did you mean 'a backpack'?"),
        (["xyzzy"], "--yes 'xyzzy': is no attribute that is asked for: describe it in the text"),
        (["no bag"], "--yes 'no bag': is no attribute that is asked for"),
        ("a backpack", "yes 'a backpack': must be a list of phrases"),
    ],
)
def test_unknown_phrases(phrases, message):
    with pytest.raises(UserError) as error:
        ask.answer_vector(draw(0), phrases, [])
    assert str(error.value).startswith(message)


def test_mean_is_that_of_the_photos(monkeypatch):
    feats = draw(6).feats
    vectors = photos_of(6, 25).astype(np.float16)
    asked = []
    loaded = ask.load_attributes(lambda texts: asked.extend(texts) or feats, vectors)
    assert asked == [one.sentence for one in ATTRIBUTES]
    want = np.mean(vectors.astype(np.float32) @ feats.T, axis=0)
    np.testing.assert_allclose(loaded.mean, want, atol=1e-5)
    monkeypatch.setattr(ask, "SAMPLE", 10)
    want = np.mean(vectors[::3].astype(np.float32) @ feats.T, axis=0)
    np.testing.assert_allclose(ask.load_attributes(lambda _: feats, vectors).mean, want, atol=1e-5)


def test_search_asks_about_its_best_photos(searcher):
    """The question is that of the query with all answers so far, and only with `ask`."""
    result = search(searcher, "a red coat", ask=True, top_k=3)
    model, vectors = searcher.model, searcher.index.vectors.astype(np.float32)
    (query,) = model.encode_texts(["a red coat"])
    attributes = searcher.attributes
    scores = vectors @ query
    best = np.argsort(-scores, kind="stable")[:50]
    want = ask.choose_question(attributes, scores[best], vectors[best])
    assert result["question"]["phrase"] == want.attribute.phrase
    assert result["question"]["text"] == want.attribute.question
    assert result["question"]["gain"] == pytest.approx(want.gain, abs=2e-4)
    assert result["question"]["share"] == pytest.approx(want.share, abs=2e-3)
    plain = search(searcher, "a red coat", top_k=3)
    assert "question" not in plain and plain["results"] == result["results"]


def test_search_uses_the_answers(searcher):
    model, vectors = searcher.model, searcher.index.vectors.astype(np.float32)
    (query,) = model.encode_texts(["a red coat"])
    query = query + ask.answer_vector(searcher.attributes, ["a red top"], ["a cap", "jeans"])
    scores = vectors @ (query / np.linalg.norm(query))
    result = search(searcher, "a red coat", yes=["a red top"], no=["a cap", "jeans"], top_k=len(vectors))
    np.testing.assert_allclose(
        [found["score"] for found in result["results"]], np.sort(scores)[::-1], atol=2e-3
    )
    assert result["chance"] is None and not result["unlikely"]


def test_search_does_not_ask_again(searcher):
    first = search(searcher, "a red coat", ask=True)["question"]["phrase"]
    second = search(searcher, "a red coat", no=[first], ask=True)["question"]["phrase"]
    assert second != first
    settled = search(searcher, "a red coat", yes=[first], ask=True)["question"]["phrase"]
    assert ATTRIBUTES[NUMBER[settled]].group != ATTRIBUTES[NUMBER[first]].group
    # Whichever is answered, all that the model would ask of the same photos is left out.
    asked = [first]
    for _ in range(5):
        asked.append(search(searcher, "a red coat", no=asked, ask=True)["question"]["phrase"])
    assert len(set(asked)) == 6


def test_what_nobody_knows_is_not_asked_again_and_does_not_count(searcher):
    """Neither are the alternatives, such as the other colors; the order of the photos stays."""
    plain, asked = search(searcher, "a red coat"), []
    groups = {one.phrase: one.group for one in ATTRIBUTES}
    for _ in range(4):
        result = search(searcher, "a red coat", unknown=asked, ask=True)
        assert [one["row"] for one in result["results"]] == [one["row"] for one in plain["results"]]
        asked.append(result["question"]["phrase"])
    assert len({groups[phrase] for phrase in asked}) == 4
    with pytest.raises(UserError, match=r"--unknown 'a backpak': is no attribute .* 'a backpack'"):
        search(searcher, "a red coat", unknown=["a backpak"])


def test_search_without_photos_asks_nothing(searcher):
    assert search(searcher, "a red coat", where="path='none'", ask=True)["question"] is None


def test_command_line(searcher, capsys):
    words = ["query", "a red coat", "--index", str(searcher.index.folder), "--ask"]
    assert main(words) == 0
    want = search(searcher, "a red coat", ask=True)["question"]
    line = f'question: {want["text"]} Add --yes, --no or --unknown "{want["phrase"]}"'
    assert line in capsys.readouterr().out.splitlines()
    answers = ["--yes", "a red top", "--no", "a cap", "--no", "jeans", "--unknown", "long hair"]
    assert main([*words[:-1], *answers, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = search(searcher, "a red coat", yes=["a red top"], no=["a cap", "jeans"])
    assert [one["row"] for one in found["results"]] == [one["row"] for one in expected["results"]]
    assert "question" not in found and found["query"]["no"] == ["a cap", "jeans"]
    assert main([*words, "--where", "path='none'"]) == 0
    assert "question: nothing more to ask" in capsys.readouterr().out
    assert main([*words, "--no", "a cup"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --no 'a cup': is no attribute that is asked for: did you mean 'a cap'?\n"
