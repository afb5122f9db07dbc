"""What has drifted: by all that the evaluator sees, and in truth."""

from __future__ import annotations

from typing import Literal

from stream.messages.message import Message

DetectorName = Literal["dense_loss", "relative_loss", "click_rate", "input"]


class Alarm(Message):
    """Something has drifted, by all that the evaluator sees; it decides nothing."""

    kind: Literal["alarm"] = "alarm"
    detector: DetectorName
    """What it listens to."""
    feature: str | None
    """The feature that has drifted, of ``input``."""
    count: int
    """The end of the window that raised it."""
    since: int
    """Events before the change began, as far as the windows tell."""
    statistic: float
    """What was found; larger than ``threshold``."""
    threshold: float
    reason: str
    """In words, with the figures that made it."""

    @property
    def key(self) -> str:
        """Kind, detector, count and feature."""
        of = f"/{self.feature}" if self.feature is not None else ""
        return f"alarm/{self.detector}/{self.count}{of}"


class Stability(Message):
    """How far each feature is from where it was in the window that it is compared with."""

    kind: Literal["stability"] = "stability"
    begin: int
    end: int
    psi: dict[str, float]
    """Population stability index by feature, 0 or more; without those that have nothing to be
    compared with yet."""

    @property
    def key(self) -> str:
        """Kind and end."""
        return f"stability/{self.end}"


class DriftSpan(Message):
    """A true drift of a synthetic stream."""

    drift: str
    """The kind, such as ``gradual``."""
    begin: int
    end: int
    """The count at which it ends; equal to ``begin`` for an abrupt one."""
