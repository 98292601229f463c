"""TLS: a server with a certificate made here, and certificates that cannot be used."""

import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request

import pytest

from tests import served
from tests.conftest import ROOT, _environment
from tpr_jax.errors import UserError
from tpr_jax.search.server import serve
from tpr_jax.search.server.tls import check_certificate

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="makes certificates: install openssl")


def make_certificate(folder, name="server", password=None):
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / f"{name}.key"]
    words += ["-out", folder / f"{name}.pem"]
    words += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
    return folder / f"{name}.pem", folder / f"{name}.key"


@needs_openssl
def test_serves_over_tls_with_a_token(tiny, tmp_path):
    index = served.make_index(tmp_path, tiny["clip"])
    certificate, key = make_certificate(tmp_path)
    command = [sys.executable, "-m", "tpr_jax.search", "serve", "--index", index, "--port", "0"]
    command += ["--certificate", certificate, "--key", key, "--token_env", "TPR_TOKEN"]
    environment = _environment() | {"TPR_TOKEN": "0123456789abcdef"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        try:
            address = re.search(r"https://\S+", served.read_line(process, 300))[0]
            trusting = ssl.create_default_context(cafile=certificate)
            headers = {"content-type": "application/json", "authorization": "Bearer 0123456789abcdef"}
            asked = urllib.request.Request(f"{address}api/search", b'{"text": "a red coat"}', headers)
            with urllib.request.urlopen(asked, timeout=served.PATIENCE, context=trusting) as reply:
                assert len(json.load(reply)["results"]) == 14
            with pytest.raises(OSError):
                urllib.request.urlopen(address.replace("https", "http"), timeout=served.PATIENCE)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=served.PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "ended\n") and "Traceback" not in errors, errors


@needs_openssl
def test_certificates_that_cannot_be_used(tmp_path):
    certificate, key = make_certificate(tmp_path)
    _, other = make_certificate(tmp_path, "other")
    _, locked = make_certificate(tmp_path, "locked", password="secret")
    assert check_certificate(certificate, key) == {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}
    for pair in ((certificate, other), (certificate, locked), (key, key), (tmp_path / "none", key)):
        with pytest.raises(UserError, match=r"--certificate .*, --key .*: cannot be used"):
            check_certificate(*pair)


def test_both_files_are_needed(tmp_path):
    assert check_certificate(None, None) == {}
    for pair in ((tmp_path / "a", None), (None, tmp_path / "a")):
        with pytest.raises(UserError, match="--certificate and --key: give both"):
            check_certificate(*pair)


@needs_openssl
def test_warnings_for_others(tiny, tmp_path, monkeypatch):
    """Without accounts, and with accounts but without TLS."""
    index = served.make_index(tmp_path, tiny["clip"])
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setenv("TPR_TOKEN", "0123456789abcdef")
    said = []

    def warnings(**flags):
        said.clear()
        serve.serve(index, host="0.0.0.0", port=0, log=said.append, **flags)
        return [line for line in said if line.startswith("warning")]

    assert "anyone who can reach this machine" in warnings()[0]
    assert "travel unencrypted" in warnings(token_env="TPR_TOKEN")[0]
    assert warnings(token_env="TPR_TOKEN", certificate=certificate, key=key) == []
    assert said[-1].startswith("14 photos at https://")
