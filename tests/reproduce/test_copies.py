"""The check of the copies, and the hashes that describe them."""

import hashlib
import json
import os

import pytest

from tests import benchmark_folders
from tests.reproduce.stand_in import NAMES, benchmarks_fixture  # noqa: F401
from tpr_jax.errors import UserError
from tpr_jax.reproduce import copies


def test_the_digest_of_an_image_list_is_that_of_its_sorted_lines():
    by_hand = hashlib.sha256(b"imgs/a.jpg\t7\nimgs/b.jpg\t12\n").hexdigest()
    assert copies.image_list_digest({"imgs/b.jpg": 12, "imgs/a.jpg": 7}) == by_hand
    assert copies.image_list_digest({"imgs/b.jpg": 12, "imgs/a.jpg": 8}) != by_hand
    assert copies.image_list_digest({"imgs/B.jpg": 12, "imgs/a.jpg": 7}) != by_hand


@pytest.mark.parametrize("name", NAMES)
def test_describes_each_layout(name, tmp_path):
    folder = benchmark_folders.ALL[name](tmp_path / "one")
    found = copies.describe(name, str(folder), "")
    images = sorted((folder / "imgs").rglob("*.jpg"))
    annotation = next(folder.glob("*.json"))
    assert (found.annotation, found.images) == (annotation.name, len(images))
    assert found.image_bytes == sum(image.stat().st_size for image in images)
    assert found.annotation_sha256 == hashlib.sha256(annotation.read_bytes()).hexdigest()
    lines = [f"{image.relative_to(folder).as_posix()}\t{image.stat().st_size}\n" for image in images]
    assert found.images_sha256 == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    # The same copy elsewhere has the same hashes.
    assert copies.describe(name, str(benchmark_folders.ALL[name](tmp_path / "two")), "") == found


def test_checks_each_copy_once(benchmarks, tmp_path, monkeypatch):
    said, checked = [], []
    original = copies.check.check

    def check(dataset, folder, progress):
        checked.append(dataset)
        return original(dataset, folder)

    monkeypatch.setattr(copies.check, "check", check)
    data = {name: str(folder) for name, folder in benchmarks.items()}
    first = copies.check_copies(data, tmp_path, False, said.append)
    assert checked == list(NAMES) and all(line.endswith("; whole") for line in said)
    assert copies.check_copies(data, tmp_path, False, said.append) == first and checked == list(NAMES)
    assert said[3].endswith("18 images, 0.0 MB; the same files were checked before")
    # A changed size, a changed annotation and a damaged record are noticed.
    image = next((benchmarks["cuhk_pedes"] / "imgs").rglob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    copies.check_copies(data, tmp_path, False, said.append)
    path = benchmarks["rstp_reid"] / "data_captions.json"
    path.write_text(path.read_text() + "\n")
    copies.check_copies(data, tmp_path, False, said.append)
    assert checked == [*NAMES, "cuhk_pedes", "rstp_reid"]
    for damaged in ("", "[]", '{"cuhk_pedes": 1, "icfg_pedes": {"subset": 3}}'):
        del checked[:]
        (tmp_path / "copies.json").write_text(damaged)
        copies.check_copies(data, tmp_path, False, said.append)
        assert checked == list(NAMES)


def test_a_problem_names_the_first_line_and_the_command_that_lists_all(benchmarks, tmp_path):
    folder = benchmarks["cuhk_pedes"]
    images = sorted((folder / "imgs").rglob("*.jpg"))
    for image in images[:3]:
        image.write_bytes(b"")
    with pytest.raises(UserError) as raised:
        copies.check_copies({"cuhk_pedes": str(folder)}, tmp_path, True, print)
    line = str(raised.value)
    assert line.startswith(f"--data cuhk_pedes={folder}: unreadable pictures: ") and "(and 2 more)" in line
    assert line.endswith(f"; python -m tpr_jax.data.check cuhk_pedes --data_dir {folder} lists all problems")


def test_a_missing_folder_or_annotation_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        copies.check_copies({"cuhk_pedes": str(tmp_path / "none")}, tmp_path, False, print)
    with pytest.raises(UserError, match=r"reid_raw\.json: no such file"):
        copies.check_copies({"cuhk_pedes": str(tmp_path)}, tmp_path, False, print)


def test_a_subset_is_described_by_its_first_difference(tmp_path):
    folder = str(benchmark_folders.rstp_reid(tmp_path / "copy"))
    with pytest.raises(
        UserError, match=r"officially 3,701 identities.* \(and 2 more\); get the authors' copy"
    ):
        copies.check_copies({"rstp_reid": folder}, tmp_path, False, print)
    said = []
    found = copies.check_copies({"rstp_reid": folder}, tmp_path, True, said.append)["rstp_reid"]
    assert found.subset.startswith("train has 4 identities, 20 images") and "; a subset: train has" in said[0]
    assert json.loads((tmp_path / "copies.json").read_text())["rstp_reid"]["subset"] == found.subset
    assert os.path.basename(found.annotation) == "data_captions.json"
