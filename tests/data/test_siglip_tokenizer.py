"""Tokenizers of SigLIP and SigLIP 2: ids by hand, and what each of their files decides."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from tests.siglip_folder import gemma_backend, unigram_backend, write_siglip
from tpr_jax.data.siglip_tokenizer import siglip_tokenizer
from tpr_jax.errors import UserError

UNIGRAM, GEMMA = unigram_backend(), gemma_backend()


def ids_of(backend, *tokens):
    return [backend.token_to_id(token) for token in tokens]


@pytest.fixture
def first(tmp_path):
    return write_siglip(tmp_path, 1)


@pytest.fixture
def second(tmp_path):
    return write_siglip(tmp_path, 2)


def test_siglip_by_hand(first):
    """Text is lower case, without punctuation; end of text and padding are both 1."""
    tokenizer = siglip_tokenizer(first, 9)
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.pad_id, tokenizer.mask_id) == (None, 1, 1, None)
    rows = tokenizer(["A  red coat!", ""])
    assert rows.dtype == np.int32
    expected = ids_of(UNIGRAM, "▁", "a", "▁red", "▁coat")
    np.testing.assert_array_equal(rows, [[*expected, 1, 1, 1, 1, 1], [1] * 9])


def test_siglip_2_by_hand(second):
    """Text is made lower case, which Gemma's own tokenizer does not do; padding is 0."""
    tokenizer = siglip_tokenizer(second, 8)
    assert (tokenizer.sot_id, tokenizer.eot_id, tokenizer.pad_id, tokenizer.mask_id) == (None, 1, 0, 4)
    expected = ids_of(GEMMA, "a", "▁red")
    np.testing.assert_array_equal(tokenizer(["A RED", "red"]), [[*expected, 1, 0, 0, 0, 0, 0], [
        *ids_of(GEMMA, "red"), 1, 0, 0, 0, 0, 0, 0
    ]])  # fmt: skip
    assert tokenizer.words == range(5, GEMMA.get_vocab_size())


@pytest.mark.parametrize("version", [1, 2])
def test_agrees_with_the_file_itself(tmp_path, version):
    """The library alone, with the file's truncation and padding, gives the same rows for lower-case text."""
    folder = write_siglip(tmp_path, version)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad = {1: 1, 2: 0}[version]
    backend.enable_truncation(10)
    backend.enable_padding(length=10, pad_id=pad)
    texts = ["a man in a blue coat, with white shoes.", "", "red", "x" * 40, "né 東"]
    expected = [backend.encode(text).ids for text in texts]
    np.testing.assert_array_equal(siglip_tokenizer(folder, 10)(texts), expected)


def test_a_long_text_is_cut_and_still_padded(first):
    tokenizer = siglip_tokenizer(first, 8, max_length=4)
    assert tokenizer.length == 4
    expected = ids_of(UNIGRAM, "▁red", "▁red", "▁red")
    np.testing.assert_array_equal(tokenizer(["red " * 9]), [[*expected, 1, 1, 1, 1, 1]])
    assert (tokenizer.words_cut("red red red"), tokenizer.words_cut("red " * 4)) == (0, 3)
    assert tokenizer.words_cut("red " * 4, 8) == 0


def test_a_saved_file_gives_the_same_tokenizer(tmp_path):
    """The other files are not needed any more: tokenizer.json has everything."""
    for version in (1, 2):
        folder = write_siglip(tmp_path / str(version), version)
        tokenizer = siglip_tokenizer(folder, 9)
        saved = tmp_path / f"saved{version}" / "tokenizer.json"
        saved.parent.mkdir()
        tokenizer.save(saved)
        again = siglip_tokenizer(saved, 9)
        for name in ("sot_id", "eot_id", "pad_id", "mask_id", "vocab_size"):
            assert getattr(again, name) == getattr(tokenizer, name), name
        texts = ["A Red coat", "WOMAN"]
        np.testing.assert_array_equal(again(texts), tokenizer(texts))
        # The library alone gives the same ids.
        alone = tokenizers.Tokenizer.from_file(str(saved))
        np.testing.assert_array_equal([alone.encode(text).ids for text in texts], tokenizer(texts))


def edit(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {k: v for k, v in {**content, **changes}.items() if v is not None}
    path.write_text(json.dumps(content))


def test_padding_comes_from_the_first_file_that_has_it(second):
    tokenizer_file = second / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    backend.enable_padding(pad_id=7, pad_token="x", length=3)
    backend.save(str(tokenizer_file))
    assert siglip_tokenizer(second, 9).pad_id == 7
    backend.no_padding()
    backend.save(str(tokenizer_file))
    assert siglip_tokenizer(second, 9).pad_id == 0
    edit(second / "tokenizer_config.json", pad_token=None)
    edit(second / "special_tokens_map.json", pad_token="<unk>")
    assert siglip_tokenizer(second, 9).pad_id == 3
    (second / "special_tokens_map.json").unlink()
    assert siglip_tokenizer(second, 9).pad_id == 1  # pad_token_id of config.json
    (second / "config.json").unlink()
    assert siglip_tokenizer(second, 9).pad_id == 0  # <pad>


def test_padding_of_siglip_without_other_files(first):
    for name in ("tokenizer_config.json", "config.json"):
        (first / name).unlink()
    assert siglip_tokenizer(first, 9).pad_id == 1


def test_what_is_added_around_a_text(second):
    def around(post_processor, **flags):
        backend = gemma_backend()
        if post_processor != "$A <eos>":
            backend.post_processor = processors.TemplateProcessing(
                single=post_processor, special_tokens=[("<bos>", 2), ("<eos>", 1)]
            )
        backend.save(str(second / "tokenizer.json"))
        edit(second / "tokenizer_config.json", **{"add_bos_token": None, "add_eos_token": None, **flags})
        tokenizer = siglip_tokenizer(second, 5)
        return tokenizer.sot_id, tokenizer.eot_id, tokenizer(["b"])[0].tolist()

    b = GEMMA.token_to_id("b")
    assert around("$A <eos>") == (None, 1, [b, 1, 0, 0, 0])
    assert around("<bos> $A <eos>") == (2, 1, [2, b, 1, 0, 0])
    assert around("<bos> $A", add_bos_token=False, add_eos_token=True) == (None, 1, [b, 1, 0, 0, 0])
    assert around("$A <eos>", add_eos_token=False) == (None, None, [b, 0, 0, 0, 0])


def test_without_a_post_processor_the_end_is_added(second):
    content = json.loads((second / "tokenizer.json").read_text())
    content["post_processor"] = None
    (second / "tokenizer.json").write_text(json.dumps(content))
    edit(second / "tokenizer_config.json", add_bos_token=None, add_eos_token=None)
    assert siglip_tokenizer(second, 5).eot_id == 1


def test_a_file_without_padding_is_an_error(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json: does not define the padding"):
        siglip_tokenizer(tmp_path, 5)
    with pytest.raises(UserError, match="no such file"):
        siglip_tokenizer(tmp_path / "other", 5)
