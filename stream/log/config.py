"""How to reach a Kafka broker: apart from :mod:`stream.log.kafka`, which needs kafka-python."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class KafkaConfig(BaseModel):
    """How to reach a Kafka broker, and what its topics are made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap: str = "localhost:9092"
    """``host:port`` of one broker or, with commas, of several."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """Needed where the protocol begins with SASL."""
    username: str | None = None
    password: SecretStr | None = None
    cafile: Path | None = None
    """Certificates (PEM) of the authorities to trust; None = those of the machine."""
    certfile: Path | None = None
    """Our own certificate (PEM), where the broker asks for one."""
    keyfile: Path | None = None
    """The key of ``certfile``, without a password, where that does not hold it."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=100)
    """Put before the name of a log to give its topic."""
    gone_seconds: float = Field(default=120, ge=1)
    """How long the broker may be away before that is an error."""
    session_seconds: float = Field(default=10, ge=1)
    """How long a writer that crashed keeps the next one out; brokers ask for 6 at least."""
    max_record_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    """``max.message.bytes`` of the topics made here."""
    retention_bytes: int = Field(default=8 * 1024**3, ge=-1)
    """``retention.bytes`` of the topics made here, a partition; -1 = they may fill the disk."""
    replication_factor: int = Field(default=-1, ge=-1)
    """Copies of the topics made here; -1 = what the broker has as its default."""
    allow_retention: bool = False
    """Accept topics that delete by event time: right where event time is the wall clock."""
    allow_trim: bool = False
    """Delete from the topics what ``stream.retention`` says is no longer needed; else only their
    own settings, such as ``retention_bytes``, delete. Others who read them lose it, too."""
    compression: Literal["none", "lz4", "zstd"] = "lz4"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        protocol, credentials = (
            self.security_protocol,
            (self.sasl_mechanism, self.username, self.password),
        )
        if protocol.startswith("SASL") and None in credentials:
            raise ValueError(
                f"security_protocol {protocol} needs sasl_mechanism, username and password"
            )
        if not protocol.startswith("SASL") and any(credentials):
            raise ValueError(
                "sasl_mechanism, username and password are not used with security_protocol "
                f"{protocol}; use SASL_SSL or SASL_PLAINTEXT"
            )
        if protocol.endswith("PLAINTEXT") and (self.cafile or self.certfile):
            raise ValueError(
                f"cafile and certfile are not used with security_protocol {protocol}; use SSL or "
                "SASL_SSL"
            )
        if self.keyfile and not self.certfile:
            raise ValueError("keyfile is the key of certfile; name that, too")
        return self
