"""The files of certificates and keys, looked at before anybody connects with them."""

from __future__ import annotations

import ssl
from pathlib import Path

from stream.kafka.config import KafkaConfig
from stream.log import LogAccessError


def check(config: KafkaConfig) -> None:
    """See that the files can be read and fit together.

    Without that a client would tell neither which file it cannot use nor by what setting it came to
    it, and would ask at the terminal for the password of a key.

    Raises
    ------
    LogAccessError
        A file is missing, holds something else, or is not the key of the certificate.
    """
    for name in ("cafile", "certfile", "keyfile"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            raise LogAccessError(f"no file {path}; look at stream.kafka.{name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if config.cafile is not None:
        _load_authorities(context, config.cafile)
    if config.certfile is not None:
        _load_own(context, config.certfile, config.keyfile)


def _load_authorities(context: ssl.SSLContext, cafile: Path) -> None:
    try:
        context.load_verify_locations(cafile)
    except OSError as error:
        raise LogAccessError(
            f"{cafile} does not hold certificates of authorities as PEM ({error}); look at "
            "stream.kafka.cafile"
        ) from error


def _load_own(context: ssl.SSLContext, certfile: Path, keyfile: Path | None) -> None:
    key = keyfile or certfile

    def password() -> str:
        raise LogAccessError(
            f"the key in {key} has a password; write it without one, as `openssl pkey` does, and "
            f"look at stream.kafka.{'keyfile' if keyfile else 'certfile'}"
        )

    try:
        context.load_cert_chain(certfile, keyfile, password)
    except OSError as error:
        raise LogAccessError(
            f"{certfile} does not hold a certificate as PEM whose key is in {key} ({error}); look "
            "at stream.kafka.certfile and stream.kafka.keyfile"
        ) from error
