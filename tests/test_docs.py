"""Runs the Python examples of README and docs, and checks links, numbers and the site."""

import importlib.util
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests import search_galleries
from tests.conftest import made_once
from tests.pages import PAGES, ROOT, anchors, blocks, links, prose, read
from tests.saved_models import trained
from tpr_jax.models.methods import dm_adapter
from tpr_jax.search.index.build import build
from tpr_jax.search.index.export import export
from tpr_jax.search.index.store import open_index
from tpr_jax.weights.backbone import clip_mini_dir


def is_skipped(block) -> bool:
    """Returns whether a block is not run here. "needs PACKAGE" names the package that it requires."""
    package = re.fullmatch(r"needs (\w+)", block.skip_reason)
    return bool(block.skip_reason) and not (package and importlib.util.find_spec(package[1]))


SKIPPED = [block for page in PAGES for block in blocks(page) if is_skipped(block)]
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
PYTHON = [block for block in PYTHON if not is_skipped(block)]
PAGES_WITH_PYTHON = sorted({block.page for block in PYTHON})


@pytest.fixture(scope="module")
def example_files(tmp_path_factory):
    """Makes small versions of the files that the examples name: photos, a run, a checkpoint, an index."""

    def make(folder) -> None:
        names = search_galleries.photos(folder / "photos", 4)
        for name, source in zip(("a.jpg", "b.jpg"), names, strict=False):
            (folder / name).write_bytes((folder / "photos" / source).read_bytes())
        trained(clip_mini_dir(), dm_adapter(num_experts=2, top_k=1), (192, 64)).save_pretrained(
            folder / "runs/demo/model"
        )
        state = load_file(ROOT / "tests/golden/dm_adapter.safetensors")
        state = {name[6:]: array for name, array in state.items() if name.startswith("state/")}
        save_file(state, folder / "best.safetensors")
        lines = [json.dumps({"image": name, "camera": i % 2 + 3}) for i, name in enumerate(names)]
        (folder / "photos/photos.jsonl").write_text("\n".join(lines))
        build(folder / "photos/photos.jsonl", folder / "DIR", "clip-mini", batch_size=4)
        export(open_index(folder / "DIR"), folder / "people.parquet")

    return made_once(tmp_path_factory, "docs_example_files", make)


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_examples_run(page, example_files, tmp_path, monkeypatch):
    """Runs all examples of a page in order, in one namespace."""
    for path in example_files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    # Reading .pth requires PyTorch, which is optional.
    replacements = {"best.pth": "best.safetensors", "/where/the/clip/is/now": clip_mini_dir()}
    names: dict = {"__name__": "__main__"}
    for block in (block for block in PYTHON if block.page == page):
        code = block.code
        for original, replacement in replacements.items():
            code = code.replace(original, replacement)
        exec(compile("\n" * (block.line - 1) + code, ROOT / page, "exec"), names)
    if page == "README.md":
        assert names["scores"].shape == (2, 2) and set(names["metrics"]) == {"t2i", "i2t"}
    if page == "docs/train.md":
        assert (tmp_path / "merged/config.json").is_file()
    if page == "docs/search.md":
        assert [result["columns"]["camera"] for result in names["results"]["results"]] == [3, 3]


@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: f"{block.page}:{block.line}")
def test_skipped_examples_compile(block):
    """Lists each as skipped, with its reason."""
    if block.language == "python":
        compile(block.code, block.page, "exec")
    pytest.skip(block.skip_reason)


def test_every_fenced_block_is_run_or_skipped():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("", "python", "sh") or block.skip_reason, f"{page}:{block.line}"


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.startswith("docs/") and page != "docs/api.md"]
)
def test_links_lead_to_files_that_the_site_has(page):
    """The site has docs/, other pages and the notebooks, and `make docs` rejects links to anything else."""
    for link in links(page):
        path = link.partition("#")[0]
        if path and not re.match(r"\w+:", link):
            target = (ROOT / page).parent.joinpath(path).resolve().relative_to(ROOT)
            assert target.parts[0] == "docs" or target.suffix in (".md", ".ipynb"), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_python_files_in_sentences_exist(page):
    """Paths start at the repository or at the package; capitals are placeholders."""
    for path in re.findall(r"`([a-z_0-9]+/[a-z_0-9/]+\.py)`", prose(page)):
        assert (ROOT / path).is_file() or (ROOT / "tpr_jax" / path).is_file(), path


@pytest.mark.parametrize("page", PAGES)
def test_lists_follow_an_empty_line_and_images_have_alt_text(page):
    """mkdocs does not recognize a list directly after a line of text, and GitHub does."""
    assert not re.findall(r"\n[^\n\s|#>*<-][^\n]*\n(?:- |1\. )", prose(page))
    for alt_text in re.findall(r"!\[([^\]]*)\]", prose(page)):
        assert len(alt_text) > 10


def test_the_site_has_every_page():
    def pages(nav):
        for entry in nav:
            for target in entry.values():
                yield from pages(target) if isinstance(target, list) else [target]

    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    elsewhere = dict(re.findall(r'"([\w/.]+\.md)": "(\w+\.md)"', (ROOT / "docs/hooks.py").read_text()))
    assert spec and all((ROOT / source).is_file() for source in elsewhere)
    wanted = {path.name for path in (ROOT / "docs").glob("*.md")} | set(elsewhere.values())
    assert sorted(pages(settings["nav"])) == sorted(wanted)


def test_modules_of_the_api_page_exist():
    modules = re.findall(
        r"^### \[`([\w.]+)`\]\(\.\./([\w/]+\.py)\)$", read("docs/api.md"), flags=re.MULTILINE
    )
    assert len(modules) > 15
    for module, path in modules:
        stem = module.replace(".", "/")
        assert path in (f"{stem}.py", f"{stem}/__init__.py") and (ROOT / path).is_file()


def test_the_layout_lists_every_folder_of_the_package():
    listed = re.findall(r"^\| `(\w+)/` \|.*\| \w+ \|$", read("CONTRIBUTING.md"), flags=re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "tpr_jax").glob("*/*.py")}
    assert len(listed) == len(set(listed)) and set(listed) == folders


def test_parameter_counts_match_the_configs_page():
    """`tests/config/test_configs.py` compares that page with the code."""
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \|$", read("configs/README.md"), flags=re.MULTILINE))
    for name in ("dm_adapter", "up_person", "cskt"):
        for page in ("docs/methods.md", "docs/faithful.md", "README.md"):
            assert rows[name] in read(page), (name, page)


def test_the_golden_table_is_the_same_on_both_pages():
    rows = [  # of errors of several methods
        set(re.findall(r"^\|(?: [^|]*\|)+(?: [\d.]+e-\d+ \|){2}.*$", read(page), flags=re.MULTILINE))
        for page in ("README.md", "docs/faithful.md")
    ]
    assert len(rows[1]) == 4 and rows[1] < rows[0]


def scores_of_configs(page: str) -> dict[str, dict[str, str]]:
    """Returns config -> column -> cell of the page's table of scores on MiniPEDES."""
    header, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in read(page).splitlines()
        if (line.startswith("| config |") and "R@1" in line) or " ± " in line
    )
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_the_readme_quotes_the_table_of_the_comparison():
    full, extract = scores_of_configs("docs/compare.md"), scores_of_configs("README.md")
    assert len(extract) == 10 and full.keys() == extract.keys()
    for config, cells in extract.items():
        assert len(cells) > 4 and cells.items() <= full[config].items()


def test_the_script_draws_all_figures(tmp_path):
    """Compares names and sizes; the bytes depend on the version of matplotlib."""
    script = ROOT / "docs/figures/draw.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=300)
    drawn = {path.name: ElementTree.parse(path).getroot().attrib["viewBox"] for path in tmp_path.iterdir()}
    committed = {path.name: path for path in script.parent.glob("*.svg")}
    assert drawn == {
        name: ElementTree.parse(path).getroot().attrib["viewBox"] for name, path in committed.items()
    }
    for name in committed:
        assert f"figures/{name}" in read("docs/methods.md")


def test_the_site_builds_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: `make docs` does that")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    api = (tmp_path / "site/api.html").read_text()
    assert "L2-normalized float32 features of texts" in api  # from a docstring
    assert "figures/dm_adapter.svg" in (tmp_path / "site/methods.html").read_text()
