"""Turns the pages that GitHub shows into a site. mkdocs calls these hooks; see mkdocs.yml.

They add the pages and notebooks that lie outside docs/, rewrite the links between all of them, and insert the
docstrings of each module into api.md.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# Path in the repository -> path on the site.
ELSEWHERE = {
    "README.md": "readme.md",
    "configs/README.md": "configs.md",
    "launch/README.md": "launch.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
MODULE = re.compile(r"^### \[`(tpr_jax[\w.]*)`\]\(.*\)\n\n.+", re.MULTILINE)


def on_files(files, config):
    """Adds the pages and notebooks that lie outside docs/."""
    for source, page in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):  # for download
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Rewrites the links of a page, and adds the docstrings to api.md."""
    here = {page: source for source, page in ELSEWHERE.items()}.get(page.file.src_uri)
    here = here or f"docs/{page.file.src_uri}"
    if here == "docs/api.md":
        markdown = MODULE.sub(r"### `\1`\n\n::: \1\n", markdown)
    return LINK.sub(lambda link: site_link(link[0], posixpath.dirname(here)), markdown)


def site_link(link: str, folder: str) -> str:
    """Returns the link on the site for a link of a page in `folder` of the repository.

    Links that do not lead to a page are returned unchanged.
    """
    target = posixpath.normpath(posixpath.join(folder, link))
    return ELSEWHERE.get(target) or (target[5:] if target.startswith("docs/") else link)
