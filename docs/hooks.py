"""What makes a site of pages that GitHub shows as they are: called by mkdocs, see mkdocs.yml.

Pages and notebooks of the repository that lie elsewhere come along, links between all of them are turned to
where they are on the site, and in api.md a module's name is followed by its docstrings.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# In the repository -> on the site.
ELSEWHERE = {
    "README.md": "readme.md",
    "configs/README.md": "configs.md",
    "launch/README.md": "launch.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
MODULE = re.compile(r"^### \[`(tpr_jax[\w.]*)`\]\(.*\)\n\n.+", re.MULTILINE)


def on_files(files, config):
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):  # as files to fetch
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    here = {page: source for source, page in ELSEWHERE.items()}.get(page.file.src_uri)
    here = here or f"docs/{page.file.src_uri}"
    if here == "docs/api.md":
        markdown = MODULE.sub(r"### `\1`\n\n::: \1\n", markdown)
    return LINK.sub(lambda link: moved(link[0], posixpath.dirname(here)), markdown)


def moved(link: str, folder: str) -> str:
    """Where a link of a page in `folder` of the repository leads on the site; unchanged where to no page."""
    target = posixpath.normpath(posixpath.join(folder, link))
    return ELSEWHERE.get(target) or (target[5:] if target.startswith("docs/") else link)
