"""What the files beside an index hold of people who were forgotten; videos are in `test_forget`."""

import pytest

from tests import search_galleries
from tpr_jax.search.index import names
from tpr_jax.search.index.build import build
from tpr_jax.search.index.forgotten import Forgotten, ForgottenPhoto, write_forgotten
from tpr_jax.search.index.scrub import scrub


@pytest.mark.parametrize("somebody", [True, False])
def test_scores_and_unfinished_vectors_go_if_somebody_was_forgotten(tiny, tmp_path, somebody):
    search_galleries.photos(tmp_path / "photos", 2)
    build(tmp_path / "photos", tmp_path / "index", tiny["clip"])
    scores = tmp_path / "index" / names.CHANCE
    part = tmp_path / "index" / "parts" / f"part-0-{'0' * 32}.npz"
    part.parent.mkdir(exist_ok=True)
    for path in (scores, part):
        path.write_bytes(b"of everybody")
    if somebody:
        write_forgotten(tmp_path / "index", Forgotten((ForgottenPhoto(1, "ab", None),)))
    assert scrub(tmp_path / "index") == 0
    assert scores.exists() is part.exists() is not somebody
