"""Scenes, time line, marks and further descriptions on the page, in Chromium; see `test_page`."""

import json
import os
import re

import pytest
from playwright.sync_api import expect

from tests import served
from tests.chromium import CHROMIUM, PATIENCE, WITHOUT, answer_with, fresh_page, running_browser
from tests.footage.scenes import make_scenes, rows_of
from tests.footage.videos import open_cv
from tpr_jax.search.query.search import search
from tpr_jax.search.server import scenes

pytestmark = pytest.mark.skipif(not CHROMIUM, reason=WITHOUT)
open_cv()


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("scenes"), "gate.avi", "yard.webm")


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
    with fresh_page(browser, address) as page:
        page.goto(f"{address}/?q=a+red+coat")
        expect(page.locator("#results li")).to_have_count(6)
        yield page


def enlarge(page, searcher, video):
    """Opens the photo of a row of a video; returns the row."""
    row = rows_of(searcher, video)[0]
    page.locator(f"#results .photo:has(img[src*='photos/{row}?'])").press("Enter")
    expect(page.locator("#large")).to_be_visible()
    return row


def column(searcher, name, row):
    return searcher.index.table[name][row].as_py()


def box_drawn(page, width=320, height=240):
    """Returns x, y, width and height of the box on the screen, in pixels of the frame."""
    expect(page.locator("#outline rect").last).to_be_visible()
    script = """() => {
      const box = document.querySelector("#outline rect:last-child").getBoundingClientRect();
      const view = document.getElementById("frame").getBoundingClientRect();
      return [box.x, box.y, box.width, box.height, view.x, view.y, view.width, view.height];
    }"""
    x, y, w, h, left, top, shown_width, shown_height = page.evaluate(script)
    scale = min(shown_width / width, shown_height / height)
    left += (shown_width - scale * width) / 2
    top += (shown_height - scale * height) / 2
    return [(x - left) / scale, (y - top) / scale, w / scale, h / scale]


def test_a_photo_in_its_scene(page, searcher):
    row = enlarge(page, searcher, "gate.avi")
    expect(page.locator("#frame")).to_be_hidden()
    page.keyboard.press("s")
    page.wait_for_function("() => document.getElementById('frame').naturalWidth === 320")
    box = [column(searcher, name, row) for name in "xywh"]
    assert box_drawn(page) == pytest.approx(box, abs=2)
    expect(page.locator("#full")).to_be_hidden()
    page.keyboard.press("ArrowRight")  # the next photo is shown in its scene too
    expect(page.locator("#frame")).not_to_have_attribute("src", re.compile(f"/{row}/"))
    expect(page.locator("#frame")).to_be_visible()
    page.click("#in_scene")
    expect(page.locator("#frame")).to_be_hidden()
    expect(page.locator("#full")).to_be_visible()


def test_the_scene_of_a_photo_has_nothing_to_play(page, searcher):
    enlarge(page, searcher, None)
    page.keyboard.press("s")
    page.wait_for_function("() => document.getElementById('frame').naturalWidth === 320")
    expect(page.locator("#player")).to_be_hidden()
    page.keyboard.press("p")
    expect(page.locator("#moment")).to_be_hidden()


def test_frames_stand_for_a_video_that_the_browser_cannot_play(page, searcher):
    row = enlarge(page, searcher, "gate.avi")
    moment = column(searcher, "frame", row) / 10
    times = [one for one in scenes.moment_times(scenes.find_scene(searcher.index, "v", row)) if one < 6]
    page.keyboard.press("s")
    expect(page.locator("#play")).to_be_visible()
    page.keyboard.press("p")
    slider = page.locator("#moment")
    expect(slider).to_have_attribute("max", str(len(times) - 1))
    page.keyboard.press("p")  # pauses
    expect(page.locator("#play")).to_have_text("Play")
    page.locator("#moment").fill(str(times.index(moment)))
    expect(page.locator("#moment_time")).to_have_text("the moment")
    expect(page.locator("#outline")).not_to_have_class("off")
    page.locator("#moment").press("ArrowRight")  # moves in time, not to the next photo
    expect(page.locator("#moment_time")).to_have_text("0.5 s after")
    expect(page.locator("#outline")).to_have_class("off")
    expect(page.locator("#frame")).to_have_attribute("src", re.compile(rf"/{row}/moments/\d+\?"))
    page.click("#play")
    expect(slider).to_have_value(str(len(times) - 1))  # plays to the end, and stops there
    expect(page.locator("#play")).to_have_text("Play")
    page.keyboard.press("Escape")
    expect(page.locator("#large")).to_be_hidden()


def test_plays_the_seconds_around_the_moment(page, searcher, monkeypatch):
    """From the file, by ranges; from a few seconds before the moment, and it stops after it."""
    monkeypatch.setattr(scenes, "BEFORE", 0.4)  # shorter, so that the test is
    monkeypatch.setattr(scenes, "AFTER", 0.5)
    row = enlarge(page, searcher, "yard.webm")
    moment = column(searcher, "frame", row) / 10
    answers = []
    page.on("response", lambda one: answers.append(one.status) if one.url.count("/video") else None)
    page.keyboard.press("s")
    expect(page.locator("#play")).to_be_visible()
    page.evaluate("""() => {
      window.times = [];
      const film = document.getElementById("film");
      film.addEventListener("timeupdate", () => times.push(film.currentTime));
    }""")
    page.keyboard.press("p")
    page.wait_for_function("() => times.length && document.getElementById('film').paused")
    at = page.evaluate("() => document.getElementById('film').currentTime")
    assert moment + 0.5 <= at < 5.8 and min(page.evaluate("() => times")) >= max(moment - 0.45, 0)
    assert set(answers) == {206}
    expect(page.locator("#frame")).to_be_hidden()
    page.evaluate(f"() => {{ document.getElementById('film').currentTime = {moment}; }}")
    expect(page.locator("#outline")).not_to_have_class("off")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !document.getElementById('film').hasAttribute('src')")


def test_a_video_that_cannot_be_decoded_is_shown_by_frames(page, searcher):
    page.route("**/video?v=*", lambda route: route.fulfill(body=b"no video", content_type="video/webm"))
    page.reload()  # a page that is loaded may send its next requests past a new route
    enlarge(page, searcher, "yard.webm")
    page.keyboard.press("s")
    expect(page.locator("#play")).to_be_visible()
    page.keyboard.press("p")
    expect(page.locator("#moment")).to_be_visible()
    expect(page.locator("#film")).to_be_hidden()


def test_a_scene_that_is_gone_is_one_line_and_the_photo_stays(page, searcher):
    row = enlarge(page, searcher, "gate.avi")
    path = scenes.find_scene(searcher.index, "v", row).source.path
    before = os.stat(path)
    os.utime(path, ns=(0, 0))
    try:
        page.keyboard.press("s")
        said = "the video gate.avi has changed since it was indexed: index it again."
        expect(page.locator("#scene_said")).to_have_text(said)
        expect(page.locator("#full")).to_be_visible()
        expect(page.locator("#frame")).to_be_hidden()
    finally:
        os.utime(path, ns=(0, before.st_mtime_ns))


def test_without_playback_there_is_no_button(browser, searcher):
    from tpr_jax.search.server.api import make_app
    from tpr_jax.search.server.live import LiveIndex

    with served.running_app(lambda limits: make_app(LiveIndex(searcher), limits, playback=False)) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{address}/?q=red")
        enlarge(page, searcher, "gate.avi")
        expect(page.locator("#in_scene")).to_be_hidden()
        page.keyboard.press("s")
        expect(page.locator("#frame")).to_be_hidden()
        page.context.close()


def test_time_line(page, searcher):
    """A row for each camera, marks by time; the photo without a time has none."""
    cameras = page.locator("#timeline .camera")
    expect(cameras).to_have_text(["gate", "yard"])
    expect(page.locator("#timeline .mark")).to_have_count(4)
    rows = [*rows_of(searcher, "gate.avi"), *rows_of(searcher, "yard.webm")]
    times = [column(searcher, "time", row).timestamp() for row in rows]
    lefts = page.locator("#timeline .mark").evaluate_all("all => all.map(one => parseFloat(one.style.left))")
    span = max(times) - min(times)
    assert sorted(lefts) == pytest.approx(sorted(100 * (one - min(times)) / span for one in times))
    first = page.locator("#timeline .mark[tabindex='0']")
    assert first.count() == 1
    first.focus()
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("Enter")  # goes to the photo
    rank = int(re.match(r"#(\d+) · (gate|yard) · 10:00:0\d", label)[1])
    expect(page.locator("#results .photo").nth(rank - 1)).to_be_focused()
    expect(page.locator("#timeline .current")).to_have_attribute("aria-label", label)
    page.locator("#timeline .mark[tabindex='0']").focus()
    where = page.evaluate("document.activeElement.ariaLabel")
    page.keyboard.press("ArrowDown" if "gate" in where else "ArrowUp")
    other = page.evaluate("document.activeElement.ariaLabel")
    assert ("gate" in where) != ("gate" in other)
    cameras.nth(1).click()
    expect(page.locator("#results li")).to_have_count(2)
    expect(page.locator("#active")).to_have_text(" (1)")
    assert "f.camera=yard" in page.url
    cameras.first.click()
    expect(page.locator("#results li")).to_have_count(6)


def test_a_span_of_time_includes_its_last_second(page, searcher):
    page.click("#filters summary")
    frames = sorted(column(searcher, "frame", row) for row in rows_of(searcher, "gate.avi"))
    assert frames[-1] % 10  # its time has a fraction
    end = f"2024-05-01T10:00:{frames[-1] // 10:02d}"
    page.fill("input[aria-label='time to']", end)
    page.dispatch_event("input[aria-label='time to']", "change")
    expected = [
        one for one in searcher.index.table["frame"].to_pylist() if one and one // 10 <= frames[-1] // 10
    ]
    expect(page.locator("#results li")).to_have_count(len(expected))


def test_groups_say_how_often_and_arrows_move_in_them(page, searcher):
    page.click("#filters summary")
    page.fill("#where", "camera = 'gate'")
    page.evaluate("document.getElementById('group').click()")
    answer = search(searcher, "a red coat", where="camera = 'gate'", group=0.95)["results"]
    expect(page.locator("#results li")).to_have_count(len(answer))
    many = {"count": 3, "matching": 3, "engine": "cpu", "notes": [], "encode_ms": 1, "search_ms": 1}
    photo = {"row": 1, "score": 0.5, "path": "a.png", "box": None, "columns": {}}
    others = [{**photo, "row": row, "path": f"{row}.png"} for row in (2, 3)]
    results = [
        {"rank": 1, **photo, "group": others, "seen": "seen 3 times, 10:02 to 10:17"},
        {"rank": 2, **photo, "row": 0, "path": "last.png", "group": [], "seen": None},
    ]
    version = page.evaluate("fetch('api/index').then(r => r.json())")["version"]
    body = {**many, "version": version, "right": [], "wrong": [], "results": results}
    answer_with(page, "api/search", body)
    page.press("#text", "Enter")
    expect(page.locator("#results .seen")).to_have_text("seen 3 times, 10:02 to 10:17")
    page.locator("#results .photo").first.focus()
    at = "document.activeElement.getAttribute('aria-label').split(',')[0]"
    seen = []
    for key in ("g", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "g", "ArrowUp", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(page.evaluate(at))
    assert seen == ["2.png", "3.png", "3.png", "2.png", "a.png", "2.png", "a.png", "last.png"]


def test_marks_are_counted_when_asked_and_are_in_the_link(page, browser, searcher):
    photos = page.locator("#results .photo")
    paths = photos.evaluate_all("all => all.map(one => one.ariaLabel.split(',')[0])")
    photos.nth(2).focus()
    page.keyboard.press("r")
    page.locator("#results [data-mark=wrong]").first.click()
    expect(page.locator("#marked")).to_have_text("Marked: 1 right, 1 wrong.")
    assert page.locator("#results [aria-pressed=true]").count() == 2
    assert photos.evaluate_all("all => all.map(one => one.ariaLabel.split(',')[0])") == paths  # not yet
    page.click("#use_marks")
    expect(page.locator("#marked")).to_have_text("Marked: 1 right, 1 wrong, counted in this search.")
    rows = {kind: [int(one) for one in re.findall(rf"{kind}=(\d+)", page.url)] for kind in ("right", "wrong")}
    wanted = search(searcher, "a red coat", **rows)["results"]
    scores = [f"{one['score']:.3f}" for one in wanted]
    expect(page.locator("#results .score b")).to_have_text(scores)
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#results .score b")).to_have_text(scores)
    expect(other.locator("#results [aria-pressed=true]")).to_have_count(2)
    other.context.close()
    photos.first.focus()
    page.keyboard.press("w")  # right or wrong, not both
    expect(page.locator("#use_marks")).to_be_visible()
    page.click("#clear_marks")
    plain = [f"{one['score']:.3f}" for one in search(searcher, "a red coat")["results"]]
    expect(page.locator("#results .score b")).to_have_text(plain)
    expect(page.locator("#marks")).to_be_hidden()
    photos.first.focus()
    page.keyboard.press("r")
    page.fill("#text", "blue trousers")  # another person
    page.press("#text", "Enter")
    expect(page.locator("#marks")).to_be_hidden()
    assert "right=" not in page.url


def hold_first(page) -> list:
    """Returns a list for the first search that the page asks for, which does not reach the server."""
    held = []
    page.route("**/api/search*", lambda route: route.continue_() if held else held.append(route))
    return held


def test_marks_made_during_a_search_stay_and_wait_for_the_next(page):
    held = hold_first(page)
    with page.expect_request("**/api/search*"):
        page.press("#text", "Enter")
    page.locator("#results.old [data-mark=right]").first.click()
    held[0].continue_()
    page.locator("#results:not(.old)").wait_for()
    expect(page.locator("#marked")).to_have_text("Marked: 1 right.")
    expect(page.locator("#results [aria-pressed=true]")).to_have_count(1)
    page.click("#use_marks")
    expect(page.locator("#marked")).to_have_text("Marked: 1 right, counted in this search.")


def test_marks_made_during_a_search_of_a_newer_index_are_counted(page):
    """A mark names a row of the index before: the page asks the server again, which finds the photo."""
    held = hold_first(page)
    with page.expect_request("**/api/search*"):
        page.press("#text", "Enter")
    page.locator("#results.old [data-mark=right]").first.click()
    answer = held[0].fetch()
    with page.expect_request("**/api/search*") as asked:
        held[0].fulfill(
            response=answer, body=re.sub(r'"version": ?"\w+"', '"version":"newer"', answer.text())
        )
    assert len(asked.value.post_data_json["right"]) == 1 and asked.value.post_data_json["version"]
    expect(page.locator("#marked")).to_have_text("Marked: 1 right, counted in this search.")


def test_several_descriptions_and_what_the_person_lacks(page, browser, searcher):
    page.click("#add_text")
    page.keyboard.type("blue trousers")
    page.click("#add_not")
    page.keyboard.type("a green coat")
    page.keyboard.press("Enter")
    wanted = search(searcher, ["a red coat", "blue trousers"], without="a green coat")["results"]
    scores = [f"{one['score']:.3f}" for one in wanted]
    expect(page.locator("#results .score b")).to_have_text(scores)
    assert page.title() == "a red coat + blue trousers − a green coat"
    other = browser.new_context().new_page()
    other.goto(page.url)
    expect(other.locator("#results .score b")).to_have_text(scores)
    expect(other.locator("#more input")).to_have_value("blue trousers")
    other.context.close()
    page.click("#more button")
    wanted = search(searcher, "a red coat", without="a green coat")["results"]
    expect(page.locator("#results .score b")).to_have_text([f"{one['score']:.3f}" for one in wanted])
    page.click("#add_not")
    plain = [f"{one['score']:.3f}" for one in search(searcher, "a red coat")["results"]]
    expect(page.locator("#results .score b")).to_have_text(plain)
    for _ in range(8):
        page.click("#add_text")
    expect(page.locator("#add_text")).to_be_hidden()


def test_marks_and_texts_go_along_with_an_uploaded_photo(page, searcher):
    page.locator("#results [data-mark=right]").first.click()
    page.click("#add_text")
    page.keyboard.type("blue trousers")
    photo = searcher.index.folder.parent / "footage" / "street.png"
    with page.expect_request("**/api/search/photo?*") as asked:
        page.set_input_files("#file", photo)
    assert asked.value.url.count("texts=blue") == 1 and "right=" not in asked.value.url  # another person
    page.locator("#results:not(.old)").wait_for()  # the answer is shown
    page.locator("#results [data-mark=right]").first.click()
    with page.expect_request("**/api/search/photo?*") as asked:
        page.click("#use_marks")
    assert re.search(r"right=\d+&version=\w+", asked.value.url)
    expect(page.locator("#marked")).to_contain_text("counted")


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone(browser, address, searcher, width):
    context = browser.new_context(viewport={"width": width, "height": 700}, is_mobile=True, has_touch=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(f"{address}/?q=red+coat&q=blue&not=a+hat&right=0")
    expect(page.locator("#results li")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator("#results .marking button").all():
        assert button.bounding_box()["height"] >= 40
    enlarge(page, searcher, "gate.avi")
    page.locator("#in_scene").tap()
    page.locator("#play").tap()
    expect(page.locator("#moment")).to_be_visible()
    for name in ("#moment", "#play", "#in_scene", "#close", "#before"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= 700, name
    context.close()


def test_all_controls_have_names(page, searcher):
    page.click("#add_text")
    page.click("#add_not")
    enlarge(page, searcher, "gate.avi")
    page.keyboard.press("s")
    nameless = """() => [...document.querySelectorAll("button, input, select, a, img")].filter(one =>
      !one.textContent.trim() && !one.ariaLabel && !one.labels?.length && !one.hasAttribute("alt")
    ).map(one => one.outerHTML)"""
    assert page.evaluate(nameless) == []


def test_conditions_of_times(page):
    """The last second of a span counts as a whole where times have fractions."""
    script = """async column => {
      const { condition } = await import("/question.js");
      return condition(column, "2024-05-01T10:02..2024-05-01T10:17:59");
    }"""
    fraction = {"name": "time", "kind": "time", "resolution": "fraction"}
    least = "`time` >= '2024-05-01T10:02' and "
    assert page.evaluate(script, fraction) == least + "`time` < '2024-05-01T10:18:00'"
    assert (
        page.evaluate(script, {**fraction, "resolution": "second"})
        == least + "`time` <= '2024-05-01T10:17:59'"
    )


def test_columns_of_the_time_line(page):
    script = """async columns => (await import("/timeline.js")).placeAndTime(columns)"""
    names = lambda found: found and [found["camera"]["name"], found["time"]["name"]]  # noqa: E731
    camera, seen = {"name": "Camera", "kind": "number"}, {"name": "seen", "kind": "time"}
    seconds, video = {"name": "time", "kind": "number"}, {"name": "video", "kind": "text"}
    assert names(page.evaluate(script, [camera, seen])) == ["Camera", "seen"]
    assert names(page.evaluate(script, [video, seconds])) == ["video", "time"]
    assert page.evaluate(script, [camera, seen, {**seen, "name": "stored"}]) is None
    assert page.evaluate(script, [seen]) is None and page.evaluate(script, [camera]) is None
    assert json.dumps(page.evaluate(script, [])) == "null"
