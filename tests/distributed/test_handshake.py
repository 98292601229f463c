"""The token of a run: where it is, who may read it, and proofs of it."""

import hashlib
import hmac
import os
import stat

import pytest

from tpr_jax.distributed import handshake
from tpr_jax.errors import UserError

LONG = "0123456789abcdef"


def test_proof_is_the_hmac_of_the_words():
    expected = hmac.new(b"token", b"a\n1\nb", hashlib.sha256).hexdigest()
    assert handshake.proof("token", "a", 1, "b") == expected
    assert handshake.is_proof(expected, "token", "a", 1, "b")
    for told, words in ((expected, ("a", 1)), (expected[:-1] + "x", ("a", 1, "b")), ("", ("a", 1, "b"))):
        assert not handshake.is_proof(told, "token", *words)
    assert not handshake.is_proof(expected, "other", "a", 1, "b")
    assert not handshake.is_proof("\u00e9", "token", "a")  # strangers may send anything


def test_challenges_are_all_different():
    assert len({handshake.challenge() for _ in range(100)}) == 100


def test_the_variable_overrides_the_workdir(tmp_path):
    environment = {handshake.VARIABLE: f" {LONG}\n"}
    with handshake.offer_token(environment, str(tmp_path / "run")) as token:
        assert token == LONG and handshake.token_reader(environment, "gs://x/y")() == LONG
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "call", [handshake.token_reader, lambda *words: handshake.offer_token(*words).__enter__()]
)
def test_rejects_a_short_token_and_a_bucket_without_token(call):
    with pytest.raises(UserError, match="TPR_RUN_TOKEN has 15 characters and needs at least 16: export"):
        call({handshake.VARIABLE: "x" * 15}, "run")
    with pytest.raises(UserError, match=r"--workdir gs://b/run need a token .* export TPR_RUN_TOKEN="):
        call({}, "gs://b/run")


@pytest.mark.parametrize("there", [False, True])
def test_the_file_is_private_and_removed_afterward(tmp_path, there):
    workdir = tmp_path / "runs" / "one"
    read = handshake.token_reader({}, str(workdir))
    if there:
        workdir.mkdir(parents=True)
        (workdir / handshake.FILE).write_text("an earlier run's, which was killed")
        (workdir / "config.json").write_text("{}")
        assert read() == "an earlier run's, which was killed"
    else:
        assert read() == ""
    mask = os.umask(0)
    try:
        with handshake.offer_token({}, str(workdir)) as token:
            assert read() == token and len(token) >= 16
            assert stat.S_IMODE((workdir / handshake.FILE).stat().st_mode) == 0o600
    finally:
        os.umask(mask)
    assert read() == ""
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "one", "config.json"] if there else [])


def test_does_not_remove_the_file_of_another_run(tmp_path):
    with handshake.offer_token({}, str(tmp_path)):
        (tmp_path / handshake.FILE).write_text("a later run's")
    assert (tmp_path / handshake.FILE).read_text() == "a later run's"


def test_ignores_a_file_that_is_not_text(tmp_path):
    (tmp_path / handshake.FILE).write_bytes(b"\xff\xfe")
    assert handshake.token_reader({}, str(tmp_path))() == ""


def test_removes_the_token_that_a_killed_process_left(tmp_path):
    (tmp_path / f"{handshake.FILE}.123.tmp").write_text("secret")
    with handshake.offer_token({}, str(tmp_path)):
        assert [path.name for path in tmp_path.iterdir()] == [handshake.FILE]
