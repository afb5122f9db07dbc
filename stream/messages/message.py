"""The base of all that travels as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Message(BaseModel):
    """Base of the messages that travel as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
