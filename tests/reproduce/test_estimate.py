"""The estimate of the hours, from measurements made by hand."""

import json

import pytest

from tests.reproduce.stand_in import stand_in_fixture  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.reproduce import estimate, plan
from tpr_jax.reproduce.estimate import Line, Measurement

GPU = {"platform": "gpu", "device": "H200", "devices": 2}
WEIGHTS = {"name": "clip", "revision": None, "sha256": "a" * 64}


def measurement(mode="train", **changes) -> Measurement:
    """1,000 steps of 2 s, 500 images of 0.4 s, and 50 s until the first step: 2,250 s."""
    values = {"steps": 1000, "step_seconds": 2.0, "encoded_images": 500, "image_seconds": 0.4}
    values |= {"startup_seconds": 50.0, "test_images": 30, "environment": GPU, "weights": WEIGHTS}
    return Measurement(mode, **(values | changes))


def test_seconds_of_a_run():
    assert measurement().run_seconds == 2250.0
    assert measurement("eval", steps=0, step_seconds=0.0).run_seconds == 250.0


def test_a_line_for_each_recipe_with_runs_left(tmp_path, monkeypatch):
    recipes = plan.plan(["zero_shot", "dm_adapter"], {"cuhk_pedes": "/c", "rstp_reid": "/r"}, 4, tmp_path, [])
    measured = {
        ("zero_shot", "cuhk_pedes"): measurement("eval", steps=0, step_seconds=0.0),
        ("dm_adapter", "cuhk_pedes"): measurement(),
        ("zero_shot", "rstp_reid"): measurement("eval", steps=0, step_seconds=0.0, test_images=70),
        ("dm_adapter", "rstp_reid"): measurement(image_seconds=0.2, test_images=70),
    }
    done = {"dm_adapter:cuhk_pedes": (0,), "zero_shot:rstp_reid": (0,)}
    monkeypatch.setattr(estimate.outcome, "is_complete", lambda run: run.seed in done.get(run.name, ()))
    lines = estimate.summarize(recipes, measured, with_cross=True)
    assert lines == [
        Line("zero_shot", "cuhk_pedes", 1, None, pytest.approx(250 / 3600)),
        Line("dm_adapter", "cuhk_pedes", 3, 2.0, pytest.approx(3 * 2250 / 3600)),
        Line("dm_adapter", "rstp_reid", 4, 2.0, pytest.approx(4 * 2150 / 3600)),
        # Four models of each benchmark encode 100 images, in 0.4 and in 0.2 seconds each.
        Line("across data sets", "", 16, None, pytest.approx(4 * 100 * (0.4 + 0.2) / 3600)),
    ]
    assert estimate.summarize(recipes, measured, with_cross=False) == lines[:3]


def test_renders_hours_and_what_they_are_hours_of():
    lines = [Line("dm_adapter", "cuhk_pedes", 3, 0.1234, 12.4), Line("across data sets", "", 6, None, 0.25)]
    assert estimate.render(lines, GPU).splitlines() == [
        "method            data set    runs  s/step  hours",
        "dm_adapter        CUHK-PEDES     3   0.123     12",
        "across data sets  all            6           0.25",
        "in all 25 GPU hours: 13 hours on 2 x H200",
    ]
    assert estimate.total(lines, GPU | {"devices": 1}) == "in all 13 GPU hours: 13 hours on H200"
    cpu = {"platform": "cpu", "device": "Xeon", "devices": 1}
    assert estimate.total(lines, cpu) == "in all 13 hours on this CPU (Xeon); an accelerator is far faster"


@pytest.mark.parametrize(
    ("hours", "text"),
    [(1234.4, "1,234"), (9.96, "10"), (9.94, "9.9"), (0.96, "1.0"), (0.94, "0.94"), (0.009, "< 0.01")],
)
def test_formats_hours(hours, text):
    assert estimate.format_hours(hours) == text


def test_reads_a_measurement_only_of_this_machine_and_config(stand_in, tmp_path, capsys):
    (recipe,) = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])
    found = estimate.measure(recipe, tmp_path, lambda: False, "1 of 1")
    assert found.steps == 3600 and found.environment["device"] == "NVIDIA H200"
    assert capsys.readouterr().out == "[1 of 1] measuring a few steps of cskt:cuhk_pedes\n"
    path = estimate.file_of(recipe, tmp_path)
    assert path == tmp_path / "estimate" / "cskt-cuhk_pedes" / "measured.json"
    assert estimate.measure(recipe, tmp_path, lambda: False, "1 of 1") == found
    assert capsys.readouterr().out == ""
    (other,) = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, ["--config.batch_size=64"])
    content = json.loads(path.read_text())
    assert estimate.read(path, other.runs[0]) is None
    for change in ({"host": "elsewhere"}, {"steps": None}):
        path.write_text(
            json.dumps({key: value for key, value in (content | change).items() if value is not None})
        )
        assert estimate.read(path, recipe.runs[0]) is None
    for damaged in ("", "[1]", "null"):
        path.write_text(damaged)
        assert estimate.read(path, recipe.runs[0]) is None


def test_a_failed_measurement_is_one_line(stand_in, tmp_path):
    (recipe,) = plan.plan(["cskt"], {"cuhk_pedes": "/c"}, 1, tmp_path, [])
    stand_in({"measure cskt-cuhk_pedes": "fail"})
    with pytest.raises(UserError) as raised:
        estimate.measure(recipe, tmp_path, lambda: False, "1 of 1")
    log = tmp_path / "estimate" / "cskt-cuhk_pedes" / "log.txt"
    line = "cskt:cuhk_pedes cannot run here: 5.jpg cannot be read: fix it"
    assert str(raised.value) == f"{line} (see {log})" and "5.jpg" in log.read_text()
