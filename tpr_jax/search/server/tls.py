"""The certificate and key of the server."""

import os
import ssl

from tpr_jax.errors import UserError


def check_certificate(certificate: str | os.PathLike | None, key: str | os.PathLike | None) -> dict[str, str]:
    """Checks a certificate and its key; returns uvicorn's options, none without a certificate.

    Raises:
      UserError: one of them is missing, cannot be read, or does not belong to the other.
    """
    if certificate is None and key is None:
        return {}
    if certificate is None or key is None:
        raise UserError("--certificate and --key: give both, the certificate and its key as PEM files")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(
            f"--certificate {certificate}, --key {key}: cannot be used ({reason}): give a certificate and "
            "its key as PEM files, the key without a password"
        ) from None
    return {"ssl_certfile": os.fspath(certificate), "ssl_keyfile": os.fspath(key)}


def _no_password() -> str:
    raise ValueError("the key has a password")
