"""The page in a real browser: Chromium, driven by Playwright. Skipped where there is no Chromium."""

import contextlib
import json
import re

import pillow_heif
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests import search_galleries, served
from tests.chromium import CHROMIUM, PATIENCE, WITHOUT, answer_with, fresh_page, running_browser
from tpr_jax.search.index.build import build
from tpr_jax.search.query.search import open_searcher, search
from tpr_jax.search.server.live import LiveIndex, make_snapshot

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=WITHOUT)
PATH = re.compile(r"(\d{3}\.png|secret\.jpg)")


@pytest.fixture(scope="module")
def searcher(tiny, tmp_path_factory):
    return open_searcher(served.make_index(tmp_path_factory.mktemp("page"), tiny["clip"]))


@pytest.fixture(scope="module")
def address(searcher):
    with served.running(searcher) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, address):
    """Yields a page that may log no errors and contact no other server."""
    with fresh_page(browser, address) as page:
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("14 photos")
        yield page


def shown(page):
    """Returns the paths of the photos in the grid, in order."""
    expect(page.locator("#status")).to_contain_text("ms.")
    expect(page.locator("#results")).not_to_have_class("old")
    labels = page.locator("#results .photo").evaluate_all("all => all.map(one => one.ariaLabel)")
    return [PATH.search(label)[0] for label in labels]


def expected(searcher, *query, **options):
    return [found["path"] for found in search(searcher, *query, **{"top_k": 24, **options})["results"]]


def ask(page, text):
    page.fill("#text", text)
    page.press("#text", "Enter")
    return shown(page)


def test_search_by_text(page, searcher):
    assert ask(page, "a red coat") == expected(searcher, "a red coat")
    best = search(searcher, "a red coat", top_k=1)["results"][0]
    first = page.locator("#results li").first
    expect(first.locator(".score b")).to_have_text(f"{best['score']:.3f}")
    sizes = "all => all.every(one => one.complete && one.naturalWidth > 0)"
    page.wait_for_function(
        f"() => ({sizes})([...document.querySelectorAll('#results .photo img')].slice(0, 6))"
    )
    assert "red coat" in page.title()


def question_of(searcher, **answers):
    return search(searcher, "a red coat", ask=True, **answers)["question"]


def test_asks_a_question_and_uses_its_answer(page, searcher):
    ask(page, "a red coat")
    expect(page.locator("#asked")).to_be_hidden()
    page.click("#ask_me")
    first = question_of(searcher)
    expect(page.locator("#asked_text")).to_have_text(first["text"])
    page.get_by_role("button", name="Yes", exact=True).click()
    second = question_of(searcher, yes=[first["phrase"]])
    expect(page.locator("#asked_text")).to_have_text(second["text"])
    answered = {"yes": [first["phrase"]]}
    assert shown(page) == expected(searcher, "a red coat", **answered)
    page.get_by_role("button", name="No", exact=True).click()
    answered["no"] = [second["phrase"]]
    third = question_of(searcher, **answered)
    expect(page.locator("#asked_text")).to_have_text(third["text"])
    assert shown(page) == expected(searcher, "a red coat", **answered)
    page.get_by_role("button", name="I don’t know").click()
    fourth = question_of(searcher, **answered, unknown=[third["phrase"]])
    expect(page.locator("#asked_text")).to_have_text(fourth["text"])
    chips = [f"{first['phrase']}: yes ×", f"{second['phrase']}: no ×", f"{third['phrase']}: not known ×"]
    expect(page.locator("#answers button")).to_have_text(chips)
    assert shown(page) == expected(searcher, "a red coat", **answered)
    # The address has the answers: the page shows the same when it is opened again, and after a step back.
    page.reload()
    expect(page.locator("#asked_text")).to_have_text(fourth["text"])
    expect(page.locator("#answers button")).to_have_text(chips)
    page.go_back()
    expect(page.locator("#asked_text")).to_have_text(third["text"])
    expect(page.locator("#answers button")).to_have_text(chips[:2])


def test_takes_answers_away(page, searcher):
    """One by one, and all of them when another person is described or the questions are switched off."""
    ask(page, "a red coat")
    page.click("#ask_me")
    first = question_of(searcher)
    page.get_by_role("button", name="Yes", exact=True).click()
    expect(page.locator("#answers button")).to_have_count(1)
    page.locator("#answers button").click()
    expect(page.locator("#asked_text")).to_have_text(first["text"])
    expect(page.locator("#answers")).to_be_hidden()
    assert shown(page) == expected(searcher, "a red coat")
    page.get_by_role("button", name="No", exact=True).click()
    expect(page.locator("#answers button")).to_have_count(1)
    ask(page, "a man with a hat")
    expect(page.locator("#answers")).to_be_hidden()
    text = search(searcher, "a man with a hat", ask=True)["question"]["text"]
    expect(page.locator("#asked_text")).to_have_text(text)
    page.click("#ask_me")
    expect(page.locator("#asked")).to_be_hidden()
    expect(page.locator("#ask_me")).to_have_attribute("aria-pressed", "false")


def test_says_that_nothing_is_left_to_ask(page):
    phrases = ["a man", "a t-shirt", "trousers", "a white top", "white trousers", "white shoes", "black hair"]
    phrases += ["short hair", "a backpack", "a cap", "glasses"]  # one of each group
    words = "&".join(f"yes={phrase.replace(' ', '+')}" for phrase in phrases[:8])
    words += "".join(f"&unknown={phrase.replace(' ', '+')}" for phrase in phrases[8:])
    page.goto(page.url.partition("?")[0] + "?q=a+red+coat&ask=1&" + words)
    expect(page.locator("#asked_text")).to_have_text("There is nothing more to ask.")
    expect(page.get_by_role("button", name="Yes", exact=True)).to_be_hidden()


def test_search_by_example(page, searcher):
    example = page.locator("#examples button").nth(1)
    text = example.inner_text()
    example.click()
    assert shown(page) == expected(searcher, text) and page.input_value("#text") == text


def test_filters(page, searcher):
    page.click("#filters summary")
    page.select_option("select[data-column=camera]", "1")
    assert ask(page, "a red coat") == expected(searcher, "a red coat", where="camera = 1")
    expect(page.locator("#status")).to_contain_text("All 4 photos that match the filters, ")
    page.fill("input[aria-label='seen from']", "2024-05-06T00:00:00")
    page.dispatch_event("input[aria-label='seen from']", "change")
    expect(page.locator("#status")).to_contain_text("All 2 photos that match the filters, ")
    both = "camera = 1 and seen >= '2024-05-06'"
    assert shown(page) == expected(searcher, "a red coat", where=both)
    page.fill("#where", "path = '007.png'")
    page.press("#where", "Enter")
    expect(page.locator("#results li")).to_have_count(1)
    assert shown(page) == ["007.png"]
    expect(page.locator("#status")).to_contain_text("1 photo that matches the filters, ")
    page.reload()
    expect(page.locator("#results li")).to_have_count(1)
    assert page.input_value("#where") == "path = '007.png'"
    page.fill("#where", "")
    page.select_option("select[data-column=camera]", "")
    page.fill("input[aria-label='seen from']", "")
    page.select_option("select[data-column=note]", "it's 003.png")
    expect(page.locator("#results li")).to_have_count(1)
    assert shown(page) == ["003.png"]


def test_more_like_this_and_its_link(page, browser, address, searcher):
    third = ask(page, "a red coat")[2]
    page.locator("#results .more").nth(2).click()
    expect(page.locator("#named")).to_have_text("like this photo")
    expect(page.locator("#results .photo").first).to_have_attribute("aria-label", re.compile(third))
    row = int(re.search(r"like=(\d+)", page.url)[1])
    assert shown(page) == expected(searcher, like=row)
    other = browser.new_context().new_page()
    other.goto(page.url)
    assert shown(other) == shown(page)
    other.goto(re.sub(r"index=\w+", "index=other", page.url))
    expect(other.locator("#status")).to_contain_text(
        f"has changed since row {row} was found: it may be another"
    )
    other.context.close()
    page.fill("#text", "blue trousers")
    page.press("#text", "Enter")
    expect(page.locator("#balance")).to_be_visible()
    expect(page).to_have_url(re.compile("q=blue"))
    assert shown(page) == expected(searcher, "blue trousers", like=row)


def test_history_and_back(page, searcher):
    first, second = ask(page, "a red coat"), ask(page, "black trousers")
    expect(page.locator("#history a")).to_have_text(["black trousers", "a red coat"])
    page.go_back()
    expect(page.locator("#text")).to_have_value("a red coat")
    assert shown(page) == first
    page.click("#past summary")
    page.click("text=black trousers")
    expect(page.locator("#text")).to_have_value("black trousers")
    assert shown(page) == second
    page.reload()
    expect(page.locator("#history a")).to_have_count(2)
    page.click("#past summary")
    page.click("#forget")
    expect(page.locator("#past")).to_be_hidden()


def test_choose_and_remove_a_photo(page, searcher):
    photo = searcher.index.folder.parent / "photos" / "005.png"
    page.set_input_files("#file", photo)
    assert shown(page) == expected(searcher, image=photo)
    expect(page.locator("#named")).to_have_text("005.png")
    expect(page.locator("#link")).to_be_hidden()
    assert page.locator("#shown").evaluate("image => image.naturalWidth") == 20
    page.click("#drop")
    expect(page.locator("#picture")).to_be_hidden()


DROP = """async address => {
  const blob = await (await fetch(address)).blob();
  const data = new DataTransfer();
  data.items.add(new File([blob], "dragged.jpg", { type: "image/jpeg" }));
  for (const type of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
    if (type === "dragover" && document.getElementById("over").hidden) throw new Error("nothing says drop");
  }
}"""


def test_drop_a_photo(page):
    page.evaluate(DROP, "/api/photos/9?size=large")
    assert shown(page)[0] == "009.png"
    expect(page.locator("#named")).to_have_text("dragged.jpg")
    expect(page.locator("#over")).to_be_hidden()


def drag(page, files, *types, x=300, y=400):
    """Drags files from the disk over the page, as a file manager does, with these events."""
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in types:
        session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
        if kind == "dragOver":
            expect(page.locator("#over")).to_be_visible()
    session.detach()


def is_usable(page):
    """Returns whether nothing covers the page, no image is broken, and a search still works."""
    expect(page.locator("#over")).to_be_hidden()
    broken = (
        """[...document.images].filter(one => one.offsetParent && one.complete && !one.naturalWidth).length"""
    )
    assert page.evaluate(broken) == 0
    expect(page.locator("#results.old")).to_have_count(0)  # removing a photo starts a search for the text
    return len(ask(page, "black trousers")) == 14 and page.locator("#error").is_hidden()


def some_files(folder):
    """Makes files of many kinds that users may drop, and a folder."""
    search_galleries.photos(folder, 1)
    files = {
        "clip.mp4": b"\0\0\0 ftypisom",
        "notes.pdf": b"%PDF-1.7",
        "sound.mp3": b"ID3",
        "text.txt": b"hello",
    }
    files |= {
        "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "archive.zip": b"PK",
        "phone.jxl": b"x",
    }
    files |= {"broken.jpg": b"\xff\xd8\xff\xe0 no more", "empty.jpg": b"", "large.jpg": b"0" * 10_000_001}
    files |= {"what": b"no extension", "clip.jpg": b"\0\0\0 ftypisom"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "holiday").mkdir()
    return folder


NOT_PHOTOS = ["clip.mp4", "notes.pdf", "sound.mp3", "text.txt", "drawing.svg", "archive.zip", "holiday"]


@pytest.mark.parametrize("name", NOT_PHOTOS)
def test_dropping_something_else_changes_nothing(page, tmp_path, name):
    folder = some_files(tmp_path)
    page.set_input_files("#file", folder / "000.png")
    before = shown(page)
    drag(page, [folder / name], "dragEnter", "dragOver", "drop")
    error = page.locator("#error")
    expect(error).to_contain_text(f"{name} is a folder" if name == "holiday" else f"{name} is ")
    expect(error).to_contain_text("choose, drop or paste a JPEG, PNG")
    expect(error).to_be_in_viewport()
    assert shown(page) == before
    expect(page.locator("#named")).to_have_text("000.png")
    expect(page.locator("#shown")).to_be_visible()
    assert is_usable(page)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.jpg", "upload"),
        ("clip.jpg", "not an image that can be read"),
        ("what", "not an image that can be read"),
        ("empty.jpg", "empty"),
        ("large.jpg", "10.0 MB: at most 10.0"),
    ],
)
def test_dropping_an_invalid_photo(page, tmp_path, name, message):
    ask(page, "a red coat")
    drag(page, [some_files(tmp_path) / name], "dragEnter", "dragOver", "drop")
    expect(page.locator("#error")).to_contain_text(message)
    expect(page.locator("#error")).to_be_in_viewport()
    expect(page.locator("#named")).to_have_text(name)
    expect(page.locator("#shown")).to_be_hidden()  # instead of a broken image
    expect(page.locator("#results li")).to_have_count(0)
    page.click("#drop")  # the previous search runs again
    expect(page.locator("#picture")).to_be_hidden()
    assert len(shown(page)) == 14 and page.locator("#error").is_hidden()
    assert is_usable(page)


def test_drop_several_files(page, searcher, tmp_path):
    folder = some_files(tmp_path)
    both = [folder / "notes.pdf", folder / "000.png", folder / "holiday", folder / "clip.mp4"]
    drag(page, both, "dragEnter", "dragOver", "drop")
    assert shown(page) == expected(searcher, image=folder / "000.png")
    expect(page.locator("#status")).to_contain_text("only one of the 4 files is used: 000.png")
    assert page.locator("#error").is_hidden() and is_usable(page)


def test_a_drag_that_leaves_or_is_canceled(page, tmp_path):
    folder = some_files(tmp_path)
    drag(page, [folder / "000.png"], "dragEnter", "dragOver", "dragCancel")
    assert is_usable(page)
    drag(page, [folder / "000.png"], "dragEnter", "dragOver")  # and no further event
    expect(page.locator("#over")).to_be_hidden()
    assert is_usable(page)
    for ends in ("keydown", "pointermove", "pointerdown", "dragend", "blur"):
        page.evaluate(OVER)
        assert page.locator("#over").is_visible()
        page.evaluate("type => document.body.dispatchEvent(new Event(type, { bubbles: true }))", ends)
        assert page.locator("#over").is_hidden()
    assert is_usable(page)


OVER = """() => {
  const data = new DataTransfer();
  data.items.add(new File(["x"], "a.jpg", { type: "image/jpeg" }));
  const settings = { dataTransfer: data, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("dragover", settings));
}"""
GIVE = """([event, files, texts, at]) => {
  const data = new DataTransfer();
  for (const [name, type, content] of files) data.items.add(new File([content], name, { type }));
  for (const [type, text] of texts) data.setData(type, text);
  const settings = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
  const made = event === "paste" ? new ClipboardEvent(event, settings) : new DragEvent(event, settings);
  document.querySelector(at).dispatchEvent(made);
  return made.defaultPrevented;
}"""


# Pastes a video, and a photo that is drawn here.
PASTE_DRAWN = """async () => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 20, height: 40 });
  const photo = await new Promise((done) => canvas.toBlob(done, "image/png"));
  const data = new DataTransfer();
  data.items.add(new File(["x"], "clip.mp4", { type: "video/mp4" }));
  data.items.add(new File([photo], "drawn.png", { type: "image/png" }));
  const pasted = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  document.body.dispatchEvent(pasted);
  return pasted.defaultPrevented;
}"""


def test_drop_text_and_links(page):
    """The browser inserts text into text fields; elsewhere it would navigate to a link."""
    link = [["text/uri-list", "https://example.org/a.jpg"], ["text/plain", "https://example.org/a.jpg"]]
    for texts in ([["text/plain", "a red coat"]], link):
        for event in ("dragover", "drop"):
            assert not page.evaluate(GIVE, [event, [], texts, "#text"])
            assert page.evaluate(GIVE, [event, [], texts, "#results"])
            expect(page.locator("#over")).to_be_hidden()
        expect(page.locator("#error")).to_contain_text("That is not a photo: choose, drop or paste a JPEG")
        assert is_usable(page)


def test_paste(page, searcher):
    video, photo = ["clip.mp4", "video/mp4", "x"], ["a.jpg", "image/jpeg", "x"]
    assert page.evaluate(GIVE, ["paste", [video], [], "#text"])
    expect(page.locator("#error")).to_contain_text("clip.mp4 is not a photo")
    assert is_usable(page)
    # Text, with or without an image of it, goes into the text field; elsewhere it is ignored.
    assert not page.evaluate(GIVE, ["paste", [], [["text/plain", "a coat"]], "#text"])
    assert not page.evaluate(GIVE, ["paste", [photo], [["text/plain", "a coat"]], "#text"])
    assert not page.evaluate(GIVE, ["paste", [], [["text/plain", "a coat"]], "body"])
    assert page.locator("#error").is_hidden() and page.locator("#picture").is_hidden()
    assert page.evaluate(GIVE, ["paste", [photo], [["text/plain", "a coat"]], "body"])
    expect(page.locator("#error")).to_contain_text("not an image that can be read")
    expect(page.locator("#named")).to_have_text("a.jpg")
    page.click("#drop")
    assert is_usable(page)
    # The first photo of several files, whole.
    assert page.evaluate(PASTE_DRAWN)
    assert len(shown(page)) == 14 and page.locator("#error").is_hidden()
    expect(page.locator("#named")).to_have_text("drawn.png")
    expect(page.locator("#status")).to_contain_text("only one of the 2 files is used: drawn.png")
    assert is_usable(page)


def test_choose_invalid_files_repeatedly(page, tmp_path):
    folder = some_files(tmp_path)
    for _ in range(2):
        page.set_input_files("#file", folder / "clip.mp4")
        expect(page.locator("#error")).to_contain_text("clip.mp4 is not a photo")
        page.set_input_files("#file", folder / "drawing.svg")
        expect(page.locator("#error")).to_contain_text("drawing.svg is in an unsupported format")
        page.set_input_files("#file", folder / "000.png")
        assert len(shown(page)) == 14 and page.locator("#error").is_hidden()
    assert is_usable(page)


@pytest.mark.parametrize("how", ["choose", "drop"])
def test_photos_of_phones(page, tmp_path, how):
    """The browser cannot draw a HEIC: its name stands for it."""
    folder, name = some_files(tmp_path), "phone.heic"
    pillow_heif.from_pillow(Image.open(folder / "000.png")).save(folder / name)
    if how == "choose":
        page.set_input_files("#file", folder / name)
    else:
        drag(page, [folder / name], "dragEnter", "dragOver", "drop")
    assert len(shown(page)) == 14 and page.locator("#error").is_hidden()
    expect(page.locator("#named")).to_have_text(name)
    expect(page.locator("#shown")).to_be_hidden()
    page.set_input_files("#file", folder / "000.png")
    expect(page.locator("#shown")).to_be_visible()
    assert is_usable(page)


def test_an_animated_png(page, tmp_path):
    folder = some_files(tmp_path)
    (folder / "000.png").rename(folder / "000.apng")
    page.set_input_files("#file", folder / "000.apng")
    assert len(shown(page)) == 14 and page.locator("#error").is_hidden()
    expect(page.locator("#shown")).to_be_visible()


def test_a_file_that_changes_before_it_is_sent(page, tmp_path):
    folder = some_files(tmp_path)
    page.set_input_files("#file", folder / "000.png")
    shown(page)
    (folder / "000.png").write_bytes(b"another file now")
    page.press("#text", "Enter")
    expect(page.locator("#error")).to_contain_text("000.png cannot be read")
    page.click("#drop")
    assert is_usable(page)


def test_drop_while_a_photo_is_enlarged(page, tmp_path):
    folder = some_files(tmp_path)
    for name, text in (("clip.mp4", "clip.mp4 is not a photo"), ("broken.jpg", "upload")):
        ask(page, "red")
        page.locator("#results .photo").first.click()
        expect(page.locator("#large")).to_be_visible()
        drag(page, [folder / name], "dragEnter", "dragOver", "drop")
        expect(page.locator("#large")).to_be_hidden()
        expect(page.locator("#error")).to_contain_text(text)
        page.locator("#drop").click() if name == "broken.jpg" else None
    assert is_usable(page)


def test_long_file_names_and_markup(page, tmp_path):
    folder = some_files(tmp_path)
    names = ["x" * 240 + ".png", "<img src=x onerror=document.title='run'>.png"]
    for name in names:
        (folder / "000.png").rename(folder / name)
        drag(page, [folder / name], "dragEnter", "dragOver", "drop")
        shown(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1100
        assert len(page.locator("#named").inner_text()) <= 60 and "run" not in page.title()[:3]
        (folder / name).rename(folder / "000.png")
    (folder / "clip.mp4").rename(folder / ("<b>" + "y" * 230 + ".mp4"))
    drag(page, [folder / ("<b>" + "y" * 230 + ".mp4")], "dragEnter", "dragOver", "drop")
    expect(page.locator("#error")).to_contain_text("<b>yyy")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1100


def test_no_results(page):
    page.click("#filters summary")
    page.fill("#where", "camera > 99")
    page.fill("#text", "red")
    page.press("#text", "Enter")
    expect(page.locator("#status")).to_have_text("No photo matches the filters.")
    expect(page.locator("#results li")).to_have_count(0)
    page.fill("#where", "")
    assert is_usable(page)


@pytest.mark.parametrize(
    "condition", ["camera =", "color = 3", "'", "camera = 'x", "(" * 300, "<b>x</b>", "1 = 1 ; drop"]
)
def test_an_invalid_condition(page, condition):
    ask(page, "red")
    page.click("#filters summary")
    page.fill("#where", condition)
    page.press("#where", "Enter")
    expect(page.locator("#error")).to_be_visible()
    assert "\n" not in page.locator("#error").inner_text() and page.locator("#error b").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1100
    page.fill("#where", "")
    assert is_usable(page)


@contextlib.contextmanager
def results_of_table(browser, tiny, tmp_path, rows):
    """Indexes a table of three photos; yields a page that has searched it."""
    (tmp_path / "photos" / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(tmp_path / "photos" / "all.jsonl", tmp_path / "index", tiny["clip"])
    with served.running(open_searcher(tmp_path / "index")) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/?q=red")
        expect(page.locator("#results li")).to_have_count(3)
        yield page


def test_escapes_columns_and_captions(browser, tiny, tmp_path):
    """Tables may contain markup, also in the names of columns."""
    names = search_galleries.photos(tmp_path / "photos", 3)
    evil = "<img src=x onerror=document.title='run'>"
    rows = [
        {"image": name, evil: evil + str(i), "caption": f"<script>{i}</script>"}
        for i, name in enumerate(names)
    ]
    with results_of_table(browser, tiny, tmp_path, rows) as page:
        assert evil in page.locator("#results").inner_text() and page.title() == "red"
        assert page.locator("#results img").count() == 3 and page.locator("#fields img").count() == 0
        page.context.close()


def test_integers_keep_all_their_digits(browser, tiny, tmp_path):
    """JavaScript's numbers have 53 bits, and columns may have 64."""
    names = search_galleries.photos(tmp_path / "photos", 3)
    ids = [1700000000000000001, 1700000000000000003, 1 - 2**63]
    rows = [{"image": name, "id": number} for name, number in zip(names, ids, strict=True)]
    with results_of_table(browser, tiny, tmp_path, rows) as page:
        shown_text = page.locator("#results").inner_text()
        assert all(f"id {number}" in shown_text for number in ids)
        options = page.locator("select[data-column=id] option").all_text_contents()
        assert options == ["any", *map(str, sorted(ids))]
        page.click("#filters summary")
        page.select_option("select[data-column=id]", str(ids[1]))
        expect(page.locator("#results li")).to_have_count(1)
        assert shown(page) == [names[1]] and str(ids[1]) in page.url
        text = '{"a": [1, -2.5e3, 9007199254740993], "b": "9007199254740993 \\\\\\" 9007199254740993"}'
        parsed = page.evaluate("async text => (await import('/json.js')).parseJson(text)", text)
        assert parsed == {"a": [1, -2500, "9007199254740993"], "b": json.loads(text)["b"]}
        page.context.close()


def test_a_server_that_has_stopped(browser, searcher):
    with served.running(searcher) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        ask(page, "red")
    page.fill("#text", "blue")
    page.press("#text", "Enter")
    expect(page.locator("#error")).to_have_text("The server does not respond: is it still running?")
    expect(page.locator("#status")).to_have_text("")
    page.context.close()


def hold_index(page):
    """Holds the server's descriptions of the index back; returns a function that lets them through."""
    held, released = [], []
    page.route("**/api/index", lambda route: route.continue_() if released else held.append(route))

    def release():
        assert held, "the page has not asked"
        released.append(True)
        for route in held:
            route.continue_()

    return release


@pytest.mark.parametrize("early", [True, False])
def test_what_is_typed_before_the_index_is_known_stays(browser, address, searcher, early):
    """The server takes its time to describe the index; `early` presses Enter meanwhile."""
    with fresh_page(browser, address) as page:
        describe_index = hold_index(page)
        page.goto(address)
        page.fill("#text", "red")
        if early:
            page.press("#text", "Enter")
            expect(page.locator("#status")).to_have_text("Searching…")
        describe_index()
        expect(page.locator("#about")).to_contain_text("14 photos")
        expect(page.locator("#text")).to_have_value("red")
        if not early:
            page.press("#text", "Enter")
        assert shown(page) == expected(searcher, "red")


def test_an_address_with_a_query_comes_before_what_is_typed_at_first(browser, address, searcher):
    with fresh_page(browser, address) as page:
        describe_index = hold_index(page)
        page.goto(f"{address}/?q=red")
        page.fill("#text", "blu")
        describe_index()
        assert shown(page) == expected(searcher, "red")
        expect(page.locator("#text")).to_have_value("red")


def test_a_server_that_does_not_respond_at_first(browser, address):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.route("**/api/index", lambda route: route.abort())
    page.goto(address)
    expect(page.locator("#error")).to_contain_text("does not respond: is it still running? Reload this page.")
    page.fill("#text", "red")
    page.press("#text", "Enter")
    expect(page.locator("#error")).to_contain_text("reload it")
    page.unroute("**/api/index")
    page.route("**/api/index", lambda route: route.fulfill(status=429, json={"detail": "too many requests"}))
    page.goto(address)
    expect(page.locator("#error")).to_contain_text("answered 429: too many requests. Reload this page.")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(browser, address, scheme, tmp_path):
    """WCAG asks for a contrast ratio of at least 4.5."""
    context = browser.new_context(viewport={"width": 390, "height": 700}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/?q=red")
    shown(page)
    drag(page, [some_files(tmp_path) / "clip.mp4"], "dragEnter", "dragOver", "drop")
    expect(page.locator("#error")).to_be_in_viewport()
    expect(page.locator("#over")).to_be_hidden()
    colors = "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    for name in ("#error", "#status", "#about"):
        least, most = sorted(map(luminance, page.locator(name).evaluate(colors)))
        assert (most + 0.05) / (least + 0.05) >= 4.5, name
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%PDF-1.7", "not an image that can be read"),
        (b"", "empty"),
        (b"0" * 10_000_001, "10.0 MB: at most 10.0"),
    ],
)
def test_choose_an_invalid_photo(page, tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    page.set_input_files("#file", tmp_path / "a.jpg")
    expect(page.locator("#error")).to_contain_text(message)
    expect(page.locator("#results li")).to_have_count(0)
    page.click("#drop")
    assert len(ask(page, "red")) == 14 and page.locator("#error").is_hidden()


def test_errors_are_shown_and_cleared(page):
    page.fill("#text", "word " * 10_000)
    page.press("#text", "Enter")
    expect(page.locator("#error")).to_contain_text("at most 2000 characters")
    page.fill("#text", "red")
    page.click("#filters summary")
    page.fill("#where", "color = 3")
    page.press("#where", "Enter")
    expect(page.locator("#error")).to_contain_text("column 'color' is unknown")
    page.fill("#where", "")
    page.press("#text", "Enter")
    assert len(shown(page)) == 14
    expect(page.locator("#error")).to_be_hidden()
    page.fill("#text", "红衣服")
    page.press("#text", "Enter")
    expect(page.locator("#status")).to_contain_text("few of these words")


def test_a_newer_search_during_a_response(page):
    """It aborts reading the older response, which must not show an error."""
    abort_once = """() => {
        const real = Response.prototype.text;
        Response.prototype.text = function () {
            Response.prototype.text = real;
            window.aborted = true;
            return Promise.reject(new DOMException("", "AbortError"));
        };
    }"""
    page.evaluate(abort_once)
    page.fill("#text", "red")
    page.press("#text", "Enter")
    page.wait_for_function("() => window.aborted")
    page.wait_for_timeout(200)
    assert page.locator("#error").is_hidden()
    page.fill("#text", "blue")
    page.press("#text", "Enter")
    assert len(shown(page)) == 14
    assert page.locator("#error").is_hidden()


def test_keyboard_only(page):
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.type("a red coat")
    page.keyboard.press("Enter")
    found = shown(page)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.photo')"):
            break
    at = "document.activeElement.getAttribute('aria-label')?.split(',')[0]"
    assert page.evaluate(at) == found[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == found[1]
    page.keyboard.press("ArrowDown")
    below = found.index(page.evaluate(at))
    assert below > 2
    page.keyboard.press("ArrowUp")
    assert page.evaluate(at) == found[1]
    page.keyboard.press("Enter")
    expect(page.locator("#large")).to_be_visible()
    expect(page.locator("#caption")).to_contain_text(found[1])
    page.keyboard.press("ArrowRight")
    expect(page.locator("#caption")).to_contain_text(found[2])
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()
    expect(page.locator("#results .photo").nth(2)).to_be_focused()  # shortly after the dialog closes
    assert page.evaluate(at) == found[2]
    page.keyboard.press("m")
    expect(page.locator("#named")).to_have_text("like this photo")
    expect(page.locator("#results .photo").first).to_have_attribute("aria-label", re.compile(found[2]))
    alike = shown(page)
    assert page.evaluate(at) == alike[0] == found[2]  # the focus stays on the photo
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == alike[1]
    page.keyboard.press("Enter")
    expect(page.locator("#large")).to_be_visible()
    page.keyboard.press("m")  # also from the enlarged photo
    expect(page.locator("#results .photo").first).to_have_attribute("aria-label", re.compile(alike[1]))
    assert page.evaluate(at) == shown(page)[0] == alike[1]
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()


def test_two_tabs_reach_the_first_photo(page):
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_focused()  # there are no photos yet
    found = ask(page, "a red coat")
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("Tab")
    skip = page.get_by_role("button", name="Skip to the photos")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport(ratio=1)
    page.keyboard.press("Enter")
    assert found[0] in page.evaluate("document.activeElement.ariaLabel")
    page.locator("#text").focus()
    expect(skip).not_to_be_in_viewport()
    page.keyboard.press("ArrowDown")
    assert found[0] in page.evaluate("document.activeElement.ariaLabel")


def test_a_slash_focuses_the_text_and_can_be_typed_in_it(page):
    expect(page.locator("#text")).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#text")).to_have_value("")
    page.keyboard.type("black/white coat")
    expect(page.locator("#text")).to_have_value("black/white coat")
    page.keyboard.press("Control+a")
    page.keyboard.press("/")  # pressed twice by habit: the text is kept
    expect(page.locator("#text")).to_have_value("black/white coat")
    page.keyboard.press("End")
    page.keyboard.press("/")
    expect(page.locator("#text")).to_have_value("black/white coat/")


def test_says_how_many_of_how_many(page):
    ask(page, "a red coat")
    expect(page.locator("#status")).to_contain_text("All 14 photos, ")
    page.click("#filters summary")
    page.evaluate("document.getElementById('top_k').append(new Option('3'))")
    page.select_option("#top_k", "3")
    expect(page.locator("#status")).to_contain_text("Best 3 of 14 photos, ")
    page.select_option("select[data-column=camera]", "1")
    expect(page.locator("#status")).to_contain_text("Best 3 of 4 photos that match the filters, ")
    many = {"count": 3000, "matching": 3000, "engine": "cpu", "notes": [], "encode_ms": 1, "search_ms": 1}
    photo = {"rank": 1, "row": 1, "score": 0.5, "path": "a.png", "box": None, "columns": {}}
    results = [{**photo, "group": [photo]}, {**photo, "group": []}]
    answer = {**many, "version": page.evaluate("fetch('api/index').then(r => r.json())")["version"]}
    answer_with(page, "api/search", {**answer, "results": results})
    page.press("#text", "Enter")
    expect(page.locator("#status")).to_contain_text("Best 3 of 3,000 photos in 2 groups, 2 ms.")


def test_all_controls_have_names(page):
    ask(page, "red")
    page.click("#filters summary")
    nameless = """() => [...document.querySelectorAll("button, input, select, a, img")].filter(one =>
      !one.textContent.trim() && !one.ariaLabel && !one.labels?.length && !one.hasAttribute("alt")
    ).map(one => one.outerHTML)"""
    assert page.evaluate(nameless) == []


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone(browser, address, width):
    context = browser.new_context(viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/?q=red+coat&f.camera=1")
    assert len(shown(page)) == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # no horizontal scrolling
    assert (
        page.locator("#text").evaluate("e => parseFloat(getComputedStyle(e).fontSize)") >= 16
    )  # otherwise iOS zooms in
    for button in page.locator("form .main, #results .photo, #results .more").all():
        assert button.bounding_box()["height"] >= 40
    page.locator("#results .photo").first.tap()
    expect(page.locator("#large")).to_be_visible()
    box = page.locator("#large").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    context.close()


@pytest.mark.parametrize(("width", "height"), [(320, 568), (390, 664), (664, 390), (1100, 500)])
@pytest.mark.parametrize("extra", ["", " with a very long note" * 60])
def test_the_buttons_of_an_enlarged_photo_are_in_view(browser, address, width, height, extra):
    """Also under a tall photo, on a phone in either direction, and with long columns."""
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/?q=red+coat&f.camera=1")
    shown(page)
    page.locator("#results .photo").first.tap()
    page.locator("#caption").evaluate("(caption, extra) => caption.append(extra)", extra)
    page.wait_for_function("() => document.getElementById('full').naturalWidth > 0")
    for button in page.locator("#large button:visible").all():
        expect(button).to_be_in_viewport(ratio=1)
        inside, around = button.bounding_box(), page.locator("#large").bounding_box()
        assert inside["y"] + inside["height"] <= around["y"] + around["height"]
    assert page.locator("#full").bounding_box()["height"] >= min(60, height / 4)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_escapes_names_of_photos(browser, tiny, tmp_path):
    """A photo's path may contain markup."""
    names = search_galleries.photos(tmp_path / "photos", 2)
    evil = "<img src=x onerror=document.title='run'>.png"
    (tmp_path / "photos" / names[0]).rename(tmp_path / "photos" / evil)
    build(tmp_path / "photos", tmp_path / "index", tiny["clip"])
    with served.running(open_searcher(tmp_path / "index")) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/?q=red")
        expect(page.locator("#results li")).to_have_count(2)
        assert evil in page.locator("#results").inner_text() and page.title() == "red"
        page.context.close()


def test_times_have_one_format_per_column(browser, tiny, tmp_path):
    names = search_galleries.photos(tmp_path / "photos", 3)
    times = ["2024-05-01T10:01:00", "2024-05-01T10:01:01", "2024-05-01T00:00:00"]
    days = ["2024-05-01", "2024-05-02", "2024-05-03"]
    minutes = ["2024-05-01T10:01:00Z", "2024-05-01T10:02:00Z", "2024-05-01T10:03:00Z"]
    parts = ["2024-05-01T10:01:00", "2024-05-01T10:01:00.250", "2024-05-01T10:01:01"]
    rows = [
        {"image": name, "time": time, "day": day, "minute": minute, "part": part}
        for name, time, day, minute, part in zip(names, times, days, minutes, parts, strict=True)
    ]
    with results_of_table(browser, tiny, tmp_path, rows) as page:
        texts = sorted(page.locator("#results .what").all_inner_texts())
        assert texts == [
            "000.png · time 2024-05-01 10:01:00 · day 2024-05-01 · minute 2024-05-01 10:01+00:00 · "
            "part 2024-05-01 10:01:00.000",
            "001.png · time 2024-05-01 10:01:01 · day 2024-05-02 · minute 2024-05-01 10:02+00:00 · "
            "part 2024-05-01 10:01:00.250",
            "002.png · time 2024-05-01 00:00:00 · day 2024-05-03 · minute 2024-05-01 10:03+00:00 · "
            "part 2024-05-01 10:01:01.000",
        ]
        page.context.close()


@pytest.fixture
def changing(browser, tiny, tmp_path):
    """Yields a page, and a function that keeps some rows of the index and lets the server take that up."""
    folder = served.make_index(tmp_path, tiny["clip"])
    live = LiveIndex(open_searcher(folder))
    table = tmp_path / "photos" / "photos.jsonl"
    lines = table.read_text().splitlines(keepends=True)

    def keep(*rows):
        table.write_text("".join(lines[row] for row in rows))
        build(table, folder)
        live.swap(make_snapshot(open_searcher(folder, previous=live.current.searcher)))

    with served.running(live) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("14 photos")
        yield page, keep
        page.context.close()


LOOK = "dispatchEvent(new Event('visibilitychange'))"  # as every ten seconds


def test_the_page_follows_the_index(changing):
    page, keep = changing
    ask(page, "a red coat")
    assert page.locator("#changed").inner_text() == ""
    page.locator("#results .photo").nth(1).focus()
    label = page.evaluate("document.activeElement.ariaLabel.split(',')[0]")
    rows = sorted({int(label[:3]) if label[0] == "0" else served.SECRET, 0, 4, 8})
    keep(*rows)
    page.evaluate(LOOK)
    changed = page.locator("#changed")
    expect(changed).to_contain_text(f"The index has changed from 14 to {len(rows)} photos.")
    expect(page.locator("#about")).to_contain_text(f"{len(rows)} photos")
    expect(page.locator("#results li")).to_have_count(len(rows))
    assert page.evaluate("document.activeElement.ariaLabel.split(',')[0]") == label
    assert len(page.locator("select[data-column=note] option").all()) <= len(rows) + 1
    page.wait_for_function(
        "() => [...document.querySelectorAll('#results img')].every(one => one.naturalWidth > 0)"
    )
    assert len(ask(page, "black trousers")) == len(rows)
    expect(changed).to_have_text("")


def test_a_half_typed_text_is_not_searched_when_the_index_changes(changing):
    page, keep = changing
    found = ask(page, "a red coat")
    page.locator("#text").press_sequentially(" and a h")
    keep(1, 2)
    page.evaluate(LOOK)
    expect(page.locator("#changed")).to_have_text("The index has changed from 14 to 2 photos.")
    expect(page.locator("#about")).to_contain_text("2 photos")
    assert shown(page) == found and page.input_value("#text") == "a red coat and a h"
    page.locator("#text").press_sequentially("at")
    page.press("#text", "Enter")
    expect(page.locator("#results li")).to_have_count(2)


def test_a_search_after_the_index_has_changed(changing):
    """It does not wait for the page to look: the photos shown are those of the rows found."""
    page, keep = changing
    ask(page, "a red coat")
    keep(3, 7, 9)
    page.fill("#text", "black trousers")
    page.press("#text", "Enter")
    expect(page.locator("#results li")).to_have_count(3)
    expect(page.locator("#changed")).to_contain_text("The index has changed from 14 to 3 photos.")
    urls = page.locator("#results .photo img").evaluate_all("all => all.map(one => one.src)")
    version = page.evaluate("fetch('api/index').then(reply => reply.json())")["version"]
    assert all(url.endswith(f"v={version}") for url in urls)


def test_more_like_a_photo_of_the_index_before(changing):
    page, keep = changing
    found = ask(page, "a red coat")
    at = found.index("007.png")
    keep(11, 9, 7)
    page.locator("#results .more").nth(at).click()
    expect(page.locator("#results li")).to_have_count(3)
    assert shown(page)[0] == "007.png"
    keep(1, 2, 3, 7)
    page.evaluate(LOOK)
    expect(page.locator("#results li")).to_have_count(4)
    assert shown(page)[0] == "007.png"  # the second change, too
    keep(1, 2)
    page.evaluate(LOOK)
    expect(page.locator("#error")).to_contain_text("no longer in the index")


def test_an_enlarged_photo_stays_while_the_index_changes(changing):
    page, keep = changing
    ask(page, "a red coat")
    page.locator("#results .photo").first.click()
    keep(1, 2)
    page.evaluate(LOOK)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('full').naturalWidth > 0")
    expect(page.locator("#large")).to_be_visible()
    page.click("#close")
    page.evaluate(LOOK)
    expect(page.locator("#results li")).to_have_count(2)
