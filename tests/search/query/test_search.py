"""Queries to an index, against the model's own features, and each option."""

import dataclasses
import json

import numpy as np
import pytest

import tpr_jax
from tests import search_galleries
from tpr_jax.data.tokenizer import clip_tokenizer
from tpr_jax.errors import UserError
from tpr_jax.models.methods import prompts
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import language_notes, open_searcher, search, text_notes

CAMERAS = [3, 3, 4, 4, 4, 5, 5, None, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    """Returns (searcher, float32 features of the photos, model, folder of the photos)."""
    folder = tmp_path_factory.mktemp("query")
    names = search_galleries.photos(folder / "photos")
    lines = [{"image": name, "camera": camera} for name, camera in zip(names, CAMERAS, strict=True)]
    lines[2]["seen"] = "2024-05-01T10:00"
    table = folder / "photos" / "photos.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    build(table, folder / "index", tiny["clip"], batch_size=12)
    model = tpr_jax.from_pretrained(tiny["clip"])
    feats = model.encode_images([folder / "photos" / name for name in names])
    return open_searcher(folder / "index"), feats, model, folder / "photos"


def unit(vector):
    return vector / np.linalg.norm(vector)


def ranked(result):
    return [int(found["path"][:3]) for found in result["results"]]


def check_best(result, feats, query, k, among=None):
    """Checks that these are the k best in float32; scores that float16 cannot distinguish may swap."""
    scores = feats @ query
    rows = np.arange(len(feats)) if among is None else np.array(among)
    best = rows[np.argsort(-scores[rows])][:k]
    found = ranked(result)
    assert len(found) == len(best) and set(found) <= set(rows.tolist())
    np.testing.assert_allclose([f["score"] for f in result["results"]], scores[best], atol=2e-3)
    np.testing.assert_allclose(scores[found], scores[best], atol=2e-3)


def test_search_by_several_texts(made):
    """Their features are averaged, and those of what the person lacks are subtracted."""
    searcher, feats, model, _ = made
    texts, lacking = ["A person in a red coat.", "Blue trousers."], "a green coat"
    red, blue, green = model.encode_texts([*texts, lacking])
    check_best(search(searcher, texts), feats, unit(red + blue), 10)
    check_best(search(searcher, texts[0], without=lacking), feats, unit(red - 0.3 * green), 10)
    both = search(searcher, texts, without=[lacking], top_k=3)
    check_best(both, feats, unit((red + blue) / 2 - 0.3 * green), 3)
    assert search(searcher, texts[:1])["results"] == search(searcher, texts[0])["results"]


def test_photos_that_are_right_and_wrong(made):
    """By row or by path; they count like the definition, and alone they are a query."""
    searcher, feats, model, _ = made
    (red,) = model.encode_texts(["a red coat"])
    marks = {"right": [3, "005.png"], "wrong": [np.int64(7)]}
    expected = red + (feats[3] + feats[5]) / 2 - 0.2 * feats[7]
    check_best(search(searcher, "a red coat", **marks), feats, unit(expected), 10)
    check_best(search(searcher, right=["004.png"], wrong=[7]), feats, unit(feats[4] - 0.2 * feats[7]), 10)


def test_notes_of_several_texts_are_listed_once(made):
    searcher = made[0]
    result = search(searcher, ["ein Mann in rot", "ein Mann mit Hut"], without="ein Mann in blau")
    assert len(result["notes"]) == len(set(result["notes"])) > 0


@pytest.mark.parametrize("k", [1, 5, 12, 500])
def test_search_by_text(made, k):
    searcher, feats, model, _ = made
    text = "A person in a red coat and blue trousers."
    result = search(searcher, text, top_k=k)
    check_best(result, feats, model.encode_texts([text])[0], k)
    assert [found["rank"] for found in result["results"]] == list(range(1, min(k, 12) + 1))
    assert result["count"] == result["matching"] == 12 and result["notes"] == []


def test_an_image_finds_itself(made):
    searcher, feats, _, folder = made
    for source in (folder / "007.png", (folder / "007.png").read_bytes()):
        result = search(searcher, image=source, top_k=3)
        check_best(result, feats, feats[7], 3)
        assert ranked(result)[0] == 7 and result["results"][0]["score"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_text_and_image_are_weighted(made, weight):
    searcher, feats, model, folder = made
    text = "green below, white above"
    query = unit(weight * model.encode_texts([text])[0] + (1 - weight) * feats[4])
    check_best(search(searcher, text, folder / "004.png", weight=weight, top_k=12), feats, query, 12)


def test_search_with_a_condition(made):
    searcher, feats, model, _ = made
    result = search(searcher, "red coat", where="camera in (3, 5)", top_k=4)
    check_best(result, feats, model.encode_texts(["red coat"])[0], 4, [0, 1, 5, 6, 8, 10])
    assert result["matching"] == 6
    assert {found["columns"]["camera"] for found in result["results"]} <= {3, 5}
    (one,) = search(searcher, "red coat", where="seen > '2024-05-01'")["results"]
    assert one["columns"] == {"camera": 4, "seen": "2024-05-01T10:00:00"} and one["box"] is None
    nothing = search(searcher, "red coat", where="camera > 99", group=0.9)
    assert nothing["results"] == [] and nothing["matching"] == 0
    with pytest.raises(UserError, match="file_size"):
        search(searcher, "red coat", where="file_size > 3")


def test_groups_near_duplicates(made):
    searcher, feats, _, _ = made
    everything = search(searcher, "red coat", top_k=12)
    grouped = search(searcher, "red coat", top_k=12, group=0.9)
    photos = [[f["path"], *(g["path"] for g in f["group"])] for f in grouped["results"]]
    assert sorted(path for group in photos for path in group) == sorted(
        f["path"] for f in everything["results"]
    )
    leaders = [int(group[0][:3]) for group in photos]
    alike = feats[leaders] @ feats[leaders].T - np.eye(len(leaders))
    assert alike.max() < 0.901 and len(photos) > 1
    for group in photos:
        assert all(feats[int(path[:3])] @ feats[int(group[0][:3])] > 0.899 for path in group)
    assert len(search(searcher, "red coat", top_k=12, group=1e-9)["results"]) < len(photos)


def test_groups_by_the_columns_of_the_table(tiny, tmp_path):
    """A track is one group within its camera, whatever the cosines are."""
    names = search_galleries.photos(tmp_path / "photos", 6)
    rows = [{"image": name, "camera": i // 3, "track": i % 2} for i, name in enumerate(names)]
    (tmp_path / "photos" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(tmp_path / "photos" / "all.jsonl", tmp_path / "index", tiny["clip"])
    found = search(open_searcher(tmp_path / "index"), "red coat", top_k=6, group=1)["results"]
    groups = [{int(one["path"][:3]) for one in (photo, *photo["group"])} for photo in found]
    assert sorted(map(sorted, groups)) == [[0, 2], [1], [3, 5], [4]]
    assert [photo.get("seen") for photo in found] == [
        (photo["group"] and "seen 2 times") or None for photo in found
    ]
    scores = [photo["score"] for photo in found]
    assert scores == sorted(scores, reverse=True)


def test_notes_on_long_foreign_and_odd_texts(made):
    searcher, _, model, _ = made
    assert "cut after 22 tokens" in search(searcher, "coat " * 10_000)["notes"][0]
    for text in ("一个穿红衣服的女人", "женщина", "một phụ nữ mặc áo đỏ"):
        assert search(searcher, text)["notes"][-1] == (
            "few of these words are in the model's vocabulary: results may be poor; it knows English best"
        )
    (note,) = search(searcher, "eine Frau mit rotem Mantel")["notes"]
    assert note == "the text seems to be in German: results may be poor; the model knows English best"
    (note,) = search(searcher, "en kvinna")["notes"]  # Swedish
    assert note.startswith("the text seems to be in another language than English: results may be poor")
    assert search(searcher, "!? 42")["notes"] == ["the text has no words"]
    assert len(search(searcher, "Fräulein\0 with a \ud800 coat")["results"]) == 10
    longest = next(n for n in range(1, 40) if text_notes(model, "a " * n))
    ids = model.tokenizer(["a " * (longest - 1)])[0]
    assert (ids != 0).all() and longest > 2  # one word less fits exactly


def test_notes_on_languages_follow_the_vocabulary(made):
    """A German sentence gets a note even if CLIP's vocabulary has all its words; rare English is English."""
    model = dataclasses.replace(made[2], tokenizer=clip_tokenizer())
    german, rare = "Mann mit Hut", "a jogger in lycra leggings"
    assert all(map(model.tokenizer.is_one_id, german.split()))
    assert text_notes(model, german) == [
        "the text seems to be in German: results may be poor; the model knows English best"
    ]
    assert text_notes(model, "a man with a hat") == []
    assert language_notes(rare, few_known=True) == [
        "few of these words are in the model's vocabulary: results may be poor"
    ]
    many = dataclasses.replace(model, config=dataclasses.replace(model.config, vocab_size=250_000))
    assert text_notes(many, german) == []


@pytest.mark.parametrize(("length", "longest"), [(24, 20), (23, 20), (12, 10)])
def test_the_truncation_note_counts_prompt_tokens(made, length, longest):
    """Start, end and two prompt tokens take 4 of the 24 positions; words have the others."""
    _, _, model, _ = made
    tokenizer = dataclasses.replace(model.tokenizer, context_length=length)
    prompted = dataclasses.replace(model, method=prompts(1), tokenizer=tokenizer)
    assert text_notes(prompted, "red " * longest) == []
    assert f"cut after {longest} tokens" in text_notes(prompted, "red " * (longest + 1))[0]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "the query is missing"),
        ({"text": " \n"}, "query is empty"),
        ({"text": "a", "top_k": 0}, "--top_k 0"),
        ({"text": "a", "top_k": 10**9}, "--top_k 1000000000"),
        ({"text": "a", "weight": 1.1}, "--weight 1.1"),
        ({"text": "a", "weight": float("nan")}, "--weight nan"),
        ({"text": "a", "group": 0.0}, "--group 0.0"),
        ({"text": "a", "group": float("nan")}, "--group nan"),
        ({"image": "nowhere.jpg"}, "nowhere.jpg: no such image"),
        ({"image": b"%PDF-1.7"}, "not an image"),
        ({"text": "a", "where": "x"}, "--where"),
        *(
            ({"text": "a", "top_k": k}, f"--top_k {k!r}: must be a whole number from 1 to 10000")
            for k in ("x", 1.5, None, True)
        ),
        *(({"text": "a", "weight": w}, f"--weight {w!r}: must be from 0") for w in ("x", None, True)),
        *(({"text": "a", "group": g}, f"--group {g!r}: must be a cosine") for g in ("a", True, [0.5])),
        *(({"text": "a", "where": w}, f"--where {w}: must be a text, such as") for w in (3, ["camera=3"])),
        *(({"like": row}, f"like {row!r}: the index has rows 0 to 11") for row in ("a", 1.5, True, -1, 12)),
        *(({"text": t}, f"text={t!r} must be a description (str)") for t in (3, [3], b"red")),
        *(({"text": "a", "without": t}, f"without={t!r} must be a description") for t in (3, ["a", None])),
        ({"text": ["a", " "]}, "query is empty"),
        ({"text": []}, "the query is missing"),
        ({"without": "a"}, "the query is missing"),
        ({"wrong": [3]}, "the query is missing"),
        ({"text": "a", "right": [1], "wrong": [2, 1]}, "--right 1: 001.png is also marked wrong"),
        ({"text": "a", "right": ["003.png"], "wrong": [3]}, "--right 3: 003.png is also"),
        (
            {"text": "a", "yes": ["a cap", "a man"], "no": ["a man"]},
            "--yes 'a man': is also answered with no",
        ),
        ({"right": ["x.png"]}, "--right 'x.png': the index has no such photo"),
        *(({"wrong": [row]}, f"--wrong {row!r}: the index has rows 0 to 11") for row in (1.5, True, -1, 12)),
        *(({"right": marks}, "right ") for marks in (3, "005.png")),
        ({"image": 3}, "an image must be"),
        ({"image": [1, 2]}, "an image must be"),
    ],
)
def test_rejects_invalid_queries(made, asked, message):
    with pytest.raises(UserError) as error:
        search(made[0], **asked)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_accepts_numbers_of_numpy(made):
    numbers = {"top_k": np.int64(3), "weight": np.float32(0.5), "like": np.int32(4), "group": np.float64(1)}
    assert (
        search(made[0], "red coat", **numbers)["results"]
        == search(made[0], "red coat", top_k=3, like=4, group=1)["results"]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda index: search(index, "red coat"), "searcher must be what open_searcher returns, not"),
        (lambda index: open_searcher(3), "folder=3 must be a path"),
        (lambda index: open_searcher(None), "folder=None must be a path"),
        (lambda index: open_searcher(""), "folder is empty"),
        (lambda index: open_searcher(index, 3), "model=3 must be a path"),
        (lambda index: open_searcher(index, ""), "model is empty"),
        (lambda index: open_searcher(index, engine=3), r"engine must be a name \(str\), not int"),
    ],
)
def test_rejects_arguments_of_other_types(made, call, message):
    with pytest.raises(UserError, match=message) as error:
        call(made[0].index.folder)
    assert "\n" not in str(error.value)


def test_rejects_invalid_indexes_models_and_engines(made, own_clip):
    index = made[0].index.folder
    (own_clip / "tokenizer.json").write_text((own_clip / "tokenizer.json").read_text() + " ")
    with pytest.raises(UserError, match=r"SHA-256 .* was made with"):
        open_searcher(index, own_clip)
    with pytest.raises(UserError, match="--engine fast is unknown"):
        open_searcher(index, engine="fast")
    with pytest.raises(UserError, match="no inverted lists for an approximate search"):
        open_searcher(index, engine="approximate")
    with pytest.raises(UserError, match="has no index yet"):
        open_searcher(index / "nowhere")
    with pytest.raises(UserError, match="is a file"):
        open_searcher(index / "index.json")


def test_mesh_and_cpu_give_equal_results(made):
    searcher, _, _, _ = made
    on_mesh = open_searcher(searcher.index.folder, engine="mesh")
    for settings in ({"top_k": 12}, {"top_k": 3, "where": "camera=4"}, {"top_k": 4, "group": 0.95}):
        one, other = (search(s, "red coat", **settings) for s in (searcher, on_mesh))
        assert one["results"] == other["results"] and other["engine"] == "mesh"


def test_a_condition_that_matches_nothing_is_explained(made):
    result = search(made[0], "a red coat", where="path='000.PNG'")
    assert result["matching"] == 0 and result["results"] == []
    assert result["notes"] == ["no path is '000.PNG': '000.png' is there, with other capitals"]
    day = search(made[0], "a red coat", where="seen='2024-05-01'")["notes"]
    assert day == ["'2024-05-01' means 00:00: write seen>='2024-05-01' and seen<'2024-05-02'"]
    assert search(made[0], "a red coat", where="path='000.png'")["notes"] == []
