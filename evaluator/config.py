"""The settings of the evaluator."""

from __future__ import annotations

from typing import Final, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from stream import model_of
from stream.messages import DetectorName

DETECTORS: Final[tuple[DetectorName, ...]] = get_args(DetectorName)


class AlarmsConfig(BaseModel):
    """What counts as drift. Alarms are reported and decide nothing.

    By ``bench/alarms.py``, in windows of 10 000 events: none on five streams of 3 M events without
    drift; after an abrupt shift dense loss raises an alarm within 40 000 events and relative loss
    within 60 000; after the beginning of a gradual one, relative loss within 400 000, dense loss
    within 300 000 in four of five.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    detectors: tuple[DetectorName, ...] = DETECTORS
    """Which there are."""
    window_events: PositiveInt | None = None
    """Size of the windows that they look at, one of ``evaluator.windows``; null: the smallest."""
    adwin_delta: float = Field(default=0.002, gt=0, lt=1)
    """Of ADWIN, on dense loss and on the click rate: its chance of a false alarm."""
    page_hinkley_tolerance: float = Field(default=0.5, ge=0)
    """Of Page and Hinkley's test on relative loss: a rise that is ignored, in standard errors of
    one window."""
    page_hinkley_threshold: float = Field(default=10.0, gt=0)
    """Of the same test: how far rises beyond that may add up, in standard errors of one window."""
    psi_threshold: float = Field(default=0.2, gt=0)
    """Population stability index above which a feature has drifted; 0.1 is a moderate change, 0.25
    a major one."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.detectors)) != len(self.detectors):
            raise ValueError(f"detectors are {', '.join(self.detectors)}; name each once")
        return self


class EvaluatorConfig(BaseModel):
    """What is scored, and over how many events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows: tuple[PositiveInt, ...] = (10_000, 50_000, 100_000, 1_000_000)
    """Sizes of the tumbling windows, in events; each a multiple of the batch."""
    models: tuple[str, ...] = (model_of("root"), model_of("served"))
    """Whose predictions a window waits for, ``dense`` first. All others begin where the first mask
    takes over, and are not waited for before."""
    min_clicks: int = Field(default=10, ge=1)
    """Normalised entropy, the areas under curves and ECE stay empty with fewer clicks than this, or
    with fewer events without one."""
    checkpoint_events: int = Field(default=50_000, gt=0)
    """Events between two checkpoints; a multiple of the batch."""
    segments: tuple[str | tuple[str, ...], ...] = ()
    """Categorical features, or lists of them that are crossed, whose most frequent values are
    scored apart."""
    segments_top: int = Field(default=10, ge=1)
    """Values of each that have a segment of their own."""
    baseline_every: int = Field(default=50, ge=0)
    """After the first 20 000 events, one in so many is also predicted, and then learned, by two
    simple models that any model should be better than: the click rate so far, and River's logistic
    regression. 0: none at all."""
    alarms: AlarmsConfig = AlarmsConfig()

    @property
    def alarm_events(self) -> int:
        """Size of the windows that alarms look at."""
        return self.alarms.window_events or min(self.windows)

    @property
    def counted_events(self) -> int:
        """The first events, in which it is counted which values are the most frequent ones."""
        return min(10_000, *self.windows)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        root = model_of("root")
        if self.models[:1] != (root,) or len(set(self.models)) != len(self.models):
            raise ValueError(
                f"models are {', '.join(self.models) or 'empty'}; name {root} first and each once"
            )
        if not self.windows or len(set(self.windows)) != len(self.windows):
            raise ValueError(f"windows are {self.windows}; name at least one size and each once")
        if len(set(self.segments)) != len(self.segments) or () in self.segments:
            raise ValueError(f"segments are {self.segments}; name features, and each once")
        if self.alarm_events not in self.windows:
            raise ValueError(
                f"alarms.window_events is {self.alarms.window_events}, none of the windows "
                f"{self.windows}; add it there"
            )
        return self
