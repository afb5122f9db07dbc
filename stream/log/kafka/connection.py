"""Connecting to a broker: what each client is configured with, and what its errors mean."""

from __future__ import annotations

import itertools
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kafka import errors as kafka_errors

from stream.log.api import KafkaConfig, LogAccessError, LogError, LogUnreachableError
from stream.log.kafka.network import Network

log = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE_SECONDS: Final = 0.1
"""Between two attempts while the broker is away."""
_LOG_SECONDS: Final = 2.0
"""Trouble that passes sooner is not worth a line in the log."""
ATTEMPT_MS: Final = 3_000
"""For one attempt to connect."""
_NUMBERS = itertools.count(1)

_OURS: Final = (
    "asks for a certificate and does not accept ours; name one that it trusts in "
    "stream.kafka.certfile (now: {certfile}) and its key in stream.kafka.keyfile (now: {keyfile})"
)
_ACCESS: Final = {
    "SaslAuthenticationFailed": (
        "refused the password of user {username!r}; look at stream.kafka.username, "
        "stream.kafka.password and stream.kafka.sasl_mechanism"
    ),
    "UnsupportedSaslMechanism": (
        "does not speak {sasl_mechanism}; set stream.kafka.sasl_mechanism to one that it has"
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "showed a certificate that cannot be verified; name the authority that signed it in "
        "stream.kafka.cafile (now: {cafile})"
    ),
    "ALERT_BAD_CERTIFICATE": _OURS,
    "ALERT_CERTIFICATE_": _OURS,
    "ALERT_UNKNOWN_CA": _OURS,
    "ALERT_UNSUPPORTED_CERTIFICATE": _OURS,
    "[SSL:": (
        "could not agree on TLS; look at stream.kafka.security_protocol (now: {security_protocol})"
    ),
    "Invalid frame length": (
        "speaks something else, probably TLS; look at stream.kafka.security_protocol "
        "(now: {security_protocol})"
    ),
    "AuthorizationFailed": "does not allow this to user {username!r}; ask for an access rule (ACL)",
}
"""What an error contains, and what it means; the first that matches counts."""


def check_certificates(config: KafkaConfig) -> None:
    """See that the files can be read and fit together.

    Otherwise a client would name neither the file that it cannot use nor the setting, and would
    ask at the terminal for the password of a key.

    Raises
    ------
    LogAccessError
        A file is missing, holds something else, or is not the key of the certificate.
    """
    for name in ("cafile", "certfile", "keyfile"):
        path = getattr(config, name)
        if path is not None and not path.is_file():
            raise LogAccessError(f"no file {path}; look at stream.kafka.{name}")
    context, key = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), config.keyfile or config.certfile
    what = f"{config.cafile} does not hold certificates of authorities as PEM"
    look_at = "stream.kafka.cafile"

    def password() -> str:
        raise LogAccessError(
            f"the key in {key} has a password; write it without one, as `openssl pkey` does, and "
            f"look at stream.kafka.{'keyfile' if config.keyfile else 'certfile'}"
        )

    try:
        if config.cafile is not None:
            context.load_verify_locations(config.cafile)
        what = f"{config.certfile} does not hold a certificate as PEM whose key is in {key}"
        look_at = "stream.kafka.certfile and stream.kafka.keyfile"
        if config.certfile is not None:
            context.load_cert_chain(config.certfile, config.keyfile, password)
    except OSError as error:
        raise LogAccessError(f"{what} ({error}); look at {look_at}") from error


class Connector:
    """Makes clients of one broker, each with a name of its own.

    Parameters
    ----------
    config
        Where the broker is, and how long it may be away.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        # While a broker is away kafka-python logs several errors a second; this module logs one.
        logger = logging.getLogger("kafka")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL + 1)

    def connect(self, make: Callable[..., T], **options: Any) -> T:
        """Make a client; where that fails, close everything and raise the reason.

        A client for questions about topics and groups may be shared by several threads.
        """
        config, gone_ms = self.config, int(1000 * self.config.gone_seconds)
        check_certificates(config)
        settings = {
            "bootstrap_servers": config.bootstrap.split(","),
            "bootstrap_timeout_ms": min(ATTEMPT_MS, gone_ms),
            "request_timeout_ms": max(1_000, min(30_000, gone_ms // 2)),
            "reconnect_backoff_max_ms": 1_000,
            "security_protocol": config.security_protocol,
            "sasl_mechanism": config.sasl_mechanism,
            "sasl_plain_username": config.username,
            "sasl_plain_password": config.password and config.password.get_secret_value(),
            "ssl_cafile": config.cafile and str(config.cafile),
            "ssl_certfile": config.certfile and str(config.certfile),
            "ssl_keyfile": config.keyfile and str(config.keyfile),
        }

        def attempt() -> T:
            network = Network(lambda error: _access(error) is not None)
            named = {"client_id": client_name(), "kafka_client": network, **options}
            try:
                return make(**settings, **named)
            except kafka_errors.KafkaError as error:
                network.close()
                reasons = [*network.reasons, error]
                raise next(filter(_access, reasons), reasons[0]) from error

        return self.retried("connecting", attempt)

    def retried(self, doing: str, call: Callable[[], T]) -> T:
        """Ask something of the broker, again and again while it is away.

        Parameters
        ----------
        doing
            What is done, for the error: ``reading log 'clicks'``.
        call
            Is called again after an error that may pass.

        Raises
        ------
        LogUnreachableError
            The broker was away for longer than ``gone_seconds``.
        LogAccessError
            It is there, and does not let us in.
        """
        # The first attempt may take long itself.
        retry = RetryPolicy(self.config, doing, time.monotonic())
        while True:
            try:
                return call()
            except kafka_errors.KafkaError as error:
                retry.wait(error)


class NotYetError(Exception):
    """The broker has just answered, but what is waited for does not come; says what that is."""


@dataclass(slots=True)
class RetryPolicy:
    """How long something is tried again that fails; one for each thing that is done."""

    config: KafkaConfig
    """Where the broker is, and how long it may be away."""
    doing: str
    """What is done, for the error."""
    since: float | None = None
    """When the time began that is counted; None: with the first error."""
    logged: bool = False

    def wait(self, error: Exception) -> None:
        """Pause after an error that may pass; raise what it means where it will not."""
        meaning = explain(error, self.config, self.doing)
        if meaning is not None:
            raise meaning from error
        where, gone = f"the broker at {self.config.bootstrap}", self.config.gone_seconds
        self.since = time.monotonic() if self.since is None else self.since
        away = time.monotonic() - self.since
        if away >= _LOG_SECONDS and not self.logged:
            self.logged = True
            log.warning("%s: %s %s; trying for %g s", self.doing, where, _trouble(error), gone)
        if away >= gone:
            raise LogUnreachableError(
                f"{self.doing}: {where} {_trouble(error, away)}; stream.kafka.gone_seconds says "
                "how long to wait"
            ) from error
        time.sleep(PAUSE_SECONDS)


def explain(error: Exception, config: KafkaConfig, doing: str) -> LogError | None:
    """Say what an error of kafka-python means; None for one that may pass."""
    reason, meaning = _reason(error), _access(error)
    if meaning is not None:
        settings = {name: str(value) for name, value in config.model_dump().items()}
        meaning = meaning.format(**settings)
        return LogAccessError(f"{doing}: the broker at {config.bootstrap} {meaning} ({reason})")
    if isinstance(error, NotYetError | kafka_errors.RetriableError):
        return None
    return LogError(f"{doing}: the broker at {config.bootstrap} answers {reason}")


def client_name() -> str:
    """Name a client so that a person finds it: the host, the process and a number.

    >>> client_name().startswith("resprout-")
    True
    """
    host = "".join(c if c.isascii() and c.isalnum() else "-" for c in socket.gethostname())
    return f"resprout-{host}-{os.getpid()}-{next(_NUMBERS)}"


def _access(error: Exception) -> str | None:
    """Say what an error means, where it means that the broker does not let us in."""
    reason = _reason(error)
    return next((meaning for sign, meaning in _ACCESS.items() if sign in reason), None)


def _trouble(error: Exception, seconds: float | None = None) -> str:
    """Say what the broker does, and after so many seconds for how long it has, and where to look.

    A broker that answers is not said to be away, so that nobody starts another one.
    """
    reason = _reason(error)
    # The client makes a time-out by itself, too.
    answers = isinstance(error, kafka_errors.BrokerResponseError) and not isinstance(
        error, kafka_errors.RequestTimedOutError
    )
    if isinstance(error, NotYetError) or answers:
        does = f"answers, but {error}" if isinstance(error, NotYetError) else f"answers {reason}"
        more = "" if seconds is None else f", and that for {seconds:.0f} s; look at its own log"
        return f"{does}{more}"
    if seconds is None:
        return f"does not answer ({reason})"
    return (
        f"has not answered for {seconds:.0f} s ({reason}); start it, or look at "
        "stream.kafka.bootstrap and stream.kafka.security_protocol"
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
