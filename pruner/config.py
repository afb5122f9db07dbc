"""The settings of the pruner, of its trigger and of the registry."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator


class PrunerConfig(BaseModel):
    """How a sparse model is made from the dense one, and when it takes over."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    regime: Literal["graft", "d2s"] = "graft"
    """How the mask of the served model follows the dense one: ``graft``: every ``graft_events`` it
    is selected anew from the evidence of the dense model, with which the served one shares
    embeddings and process; rebuilds remain for what that cannot follow. ``d2s``, adaptive
    dense-to-sparse: it is fixed from one rebuild to the next. With ``d2s``, unless they are set,
    ``evidence`` is ``candidate``, ``criterion`` ``aux`` and ``allocation`` ``global``."""
    graft_events: int = Field(default=25_000, gt=0)
    """``graft``: events between two selections, a multiple of the batch."""
    graft_pull: float = Field(default=0.05, ge=0, le=1)
    """``graft``: how far a weight that stays moves to the dense model's value at a selection: 0 not
    at all, 1 all the way."""
    evidence: Literal["dense", "candidate"] = "dense"
    """Whose gradients say which weights a rebuild keeps: those of the ``candidate``, in a prune
    phase of its own; or the ``dense`` model's, from the first event on: then there is no prune
    phase, the mask is cut in one shot from the dense snapshot and is fine-tuned from there on."""
    criterion: str = "fisher_ema"
    """Name of a criterion: ``aux``, ``fisher_ema``, ``magnitude``, ``mop``, ``random``,
    ``snip_momentum``, ``taylor``, ``taylor_ema``, ``wanda``, or one from the entry-point group
    ``resprout.criteria``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The criterion's own options, such as ``penalty`` of ``aux``."""
    sparsity: float = Field(default=0.8, ge=0, lt=1)
    """Share of the prunable weights to remove, over all layers together."""
    allocation: Literal["global_layer_mean", "global", "lamp", "uniform", "erk"] = (
        "global_layer_mean"
    )
    """How much of which layer. Ranked over all layers together: scores as they are, divided by
    their layer's mean, or squared and divided by the squares of the layer's that are not smaller
    (``lamp``). Or whatever the scores: the same share of each, or a larger share of smaller ones in
    proportion to (in + out) / (in · out) (``erk``)."""
    pattern: str = "unstructured"
    """Which weights may be kept beside each other: ``unstructured``, any; ``N:M`` such as ``2:4``,
    at most N of M neighbouring inputs of an output; ``ROWSxCOLUMNS`` such as ``4x1``, whole blocks.
    Criteria that learn a mask, as ``aux``, keep to it from the freeze on."""
    schedule: Literal["one_shot", "linear", "cubic", "cosine"] = "linear"
    """How sparsity grows over the prune phase."""
    ramp_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the prune phase after which the schedule has reached the target."""
    update_batches: int = Field(default=5, gt=0)
    """Batches between two changes of the mask in the prune phase."""
    first_mask_events: int = Field(default=1_000_000, gt=0)
    """Events that the dense model matures on before the first mask is made from it."""
    rebuild_events: int = Field(default=100_000, gt=0)
    """Events from the window that decides a rebuild to the swap."""
    prune_events: int = Field(default=50_000, gt=0)
    """Events from the dense snapshot to the freeze of the mask; then it is fine-tuned. Where
    ``evidence`` is ``dense`` the mask is frozen from the snapshot on."""
    judge_events: int = Field(default=50_000, gt=0)
    """Events before the swap on which the candidate is scored against the incumbent."""
    inconclusive: Literal["keep_incumbent", "lower_mean"] = "keep_incumbent"
    """What follows where the 95 % interval of the candidate's CE against the incumbent's reaches
    across zero, so that it is not shown better: ``keep_incumbent``, or ``lower_mean``: it takes
    over where its mean is lower, which may be chance."""
    lead_events: int = Field(default=50_000, ge=0)
    """How far the sparse model may run ahead of an undecided window."""
    checkpoint_events: int = Field(default=50_000, gt=0)
    """Events between two checkpoints of an open rebuild."""

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, given: Any) -> Any:
        """Fill in what the regime implies where nothing else is said."""
        if isinstance(given, dict) and given.get("regime") == "d2s":
            return {**_D2S, **given}
        return given

    @model_validator(mode="after")
    def _has_evidence(self) -> PrunerConfig:
        if self.regime == "graft" and self.evidence != "dense":
            raise ValueError(
                "pruner.regime = 'graft' selects by the evidence of the dense model; leave "
                "pruner.evidence out, or set pruner.regime to 'd2s'"
            )
        return self


_D2S: dict[str, Any] = {"evidence": "candidate", "criterion": "aux", "allocation": "global"}


class ComparisonConfig(BaseModel):
    """A further model that begins as the first mask's and is compared with the served one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    updater: str = "fixed"
    """Name of a mask updater, built in or from the entry-point group ``resprout.updaters``:
    ``fixed`` or ``adaptation``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The updater's own options."""
    criterion: str | None = None
    """The criterion that its updater ranks weights by; None: ``pruner.criterion``."""
    criterion_options: dict[str, Any] = Field(default_factory=dict)
    """The options of that criterion; those of the pruner where neither is set."""


class TriggerConfig(BaseModel):
    """When the sparse model is rebuilt."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = "divergence"
    """``divergence``: by its distance to the dense model; ``periodic``: by the clock of events; or
    a trigger from the entry-point group ``resprout.triggers``."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options of a trigger of another package; the built-in ones have the settings below."""
    window_events: int = Field(default=50_000, gt=0)
    """Events of a window that is decided on."""
    threshold: float = Field(default=0.003, gt=0)
    """``divergence``: rise of the relative CE over its level since the swap that is large enough to
    matter.
    """
    confidence: float = Field(default=0.95, ge=0, lt=1)
    """``divergence``: that no rebuild between two swaps starts by chance alone, however many
    windows are looked at. 0: the threshold alone decides; at a click rate of 20 % and 50 000 events
    a window it should then be 0.0015 at least, and more where clicks are rarer.
    """
    patience: int = Field(default=1, gt=0)
    """``divergence``: the fewest windows that the rise lasts; they are pooled, or at a confidence
    of 0 each of them lies above the threshold."""
    cooldown_events: int = Field(default=50_000, ge=0)
    """``divergence``: events after a rebuild's end, whatever its verdict, in which none starts."""
    budget: int | None = Field(default=None, ge=0)
    """Rebuilds after the first mask, in the whole run; None: as many as it takes."""
    every_events: int = Field(default=250_000, gt=0)
    """``periodic``: events between two rebuilds."""
    phase_events: int = Field(default=0, ge=0)
    """``periodic``: events by which the clock starts later than the end of the first rebuild."""


class StoreConfig(BaseModel):
    """Where masks are kept.

    A password in the URL is taken out of it, so that the URL can be shown.

    Examples
    --------
    >>> config = StoreConfig(kind="redis", url="redis://ann:s%40cret@masks:6379/2")
    >>> config.url, config.password, config.password.get_secret_value()
    ('redis://ann@masks:6379/2', SecretStr('**********'), 's@cret')
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )

    kind: Literal["disk", "memory", "redis"] = "disk"
    """In the state folder, gone with the process, or on a server; the ledger can fill each again.
    """
    url: str = "redis://localhost:6379/0"
    """``redis``: ``redis://[user@]host[:port][/database]``, ``rediss://`` for TLS."""
    password: SecretStr | None = None
    """``redis``: goes before the one in the URL."""
    prefix: str = Field(default="resprout", pattern=r"^[A-Za-z0-9_.:-]+$")
    """``redis``: what the names of all keys begin with; one run, one prefix."""
    cafile: str | None = None
    """``rediss://``: the certificate authority to trust beside the system's."""
    certfile: str | None = None
    """``rediss://``: what this side shows, where the server asks for it."""
    keyfile: str | None = None
    """``rediss://``: the key of ``certfile``."""
    timeout_seconds: float = Field(default=1.0, gt=0)
    """``redis``: how long one answer is waited for; nothing is learned meanwhile."""
    check_seconds: float = Field(default=5.0, gt=0)
    """Between two looks whether the store holds what it should, and the first pause before a
    store that is away is tried again.
    """
    versions: int = Field(default=3, gt=0)
    """How many versions of the sparse model are kept."""

    @model_validator(mode="before")
    @classmethod
    def _hide_password(cls, given: Any) -> Any:
        """Take the password out of the URL, so that neither errors nor listings can show it."""
        if not isinstance(given, dict) or "@" not in str(given.get("url", "")):
            return given
        login, _, host = str(given["url"]).rpartition("@")
        scheme, slashes, user = login.partition("//")
        if not slashes:
            return given
        user, _, password = user.partition(":")
        url = f"{scheme}{slashes}{user}{'@' if user else ''}{host}"
        named = given.get("password") or (unquote(password) if password else None)
        return {**given, "url": url, "password": named}

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        """Refuse a URL that names no server; options have settings of their own."""
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "rediss"} or not parts.hostname or parts.query:
            # What stands before @ or after ? may be a password.
            shown = url.partition("?")[0].rpartition("@")[2] + ("?..." if "?" in url else "")
            raise ValueError(
                f"{shown!r} names no Redis server; use redis://[user@]host[:port][/database], or "
                "rediss:// for TLS; options have settings of their own"
            )
        return url
