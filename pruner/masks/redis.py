"""The store of masks on a Redis server: what it holds under which key, and what its errors mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry
from torch import Tensor

from learner import Publication
from pruner.config import StoreConfig
from pruner.masks import store

COMMANDS = (
    *("get", "set", "del", "exists", "scan", "select"),
    *("hgetall", "hmget", "hset"),
    *("evalsha", "script|load", "publish"),
)
"""The commands that the server must allow."""

PUBLISH = Path(__file__).with_name("publish.lua").read_text("utf-8")
RETAIN = Path(__file__).with_name("retain.lua").read_text("utf-8")


log = logging.getLogger(__name__)


class RedisMaskStore:
    """Keeps masks on a Redis server of version 5 or newer.

    Blobs are written once and never change; the head moves by one Lua script, so that whoever reads
    a head finds its mask, however many write. All of it can be filled again, so the server need not
    persist anything. All keys begin with the prefix of the settings:

    - ``head:sparse``, a hash: version, sequence, snapshot, count, mask, run, recent. ``snapshot``
      ends in the hash of its weights, ``recent`` are the masks of the last heads.
    - ``mask:<content hash>``, the packed masks.
    - ``hint:sparse``, a channel that gets version and sequence of every new head; whoever misses
      one polls.

    Parameters
    ----------
    config
        Where the server is.
    run
        The identity of the run's ledger: the head of another run is refused. None: for those who
        only read, whatever run it is.

    Examples
    --------
    >>> RedisMaskStore(StoreConfig(kind="redis", url="redis://:secret@masks:6379/2"), "7f")
    RedisMaskStore('redis://masks:6379/2', prefix='resprout')
    """

    def __init__(self, config: StoreConfig, run: str | None = None) -> None:
        self._config = config
        self._run = run
        self._prefix = config.prefix
        self._client = _connect(config)
        self._publish = self._client.register_script(PUBLISH)
        self._retain = self._client.register_script(RETAIN)

    def __repr__(self) -> str:
        return f"RedisMaskStore({self._config.url!r}, prefix={self._config.prefix!r})"

    def check(self) -> None:
        """Do all that a store does, on keys that are deleted again.

        Raises :class:`~pruner.masks.StoreRefusedError` where only other settings would help, and
        :class:`~pruner.masks.StoreAwayError` where that cannot be found out now.
        """
        trial = copy(self)
        trial._prefix = f"{self._config.prefix}:check-{uuid4().hex[:8]}"
        try:
            # A wipe that comes in between does not matter.
            with suppress(store.MaskMissingError, store.MaskDamagedError):
                name = trial.put({})
                trial.publish(Publication(1, 0, "check", 0, name))
                trial.get(name)
            trial.head()
            trial.retain(())
        finally:
            blob = trial._blob(store.content_hash(store.pack({})))
            with suppress(store.StoreError), self._asking():
                self._client.delete(trial._head, blob)
        self.head()

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = store.pack(masks)
        name = store.content_hash(packed)
        key = self._blob(name)
        with self._asking():
            if not self._client.set(key, packed, nx=True) and self._client.get(key) != packed:
                log.warning("%s held something else at %s: written again", self, key)
                self._client.set(key, packed)
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        key = self._blob(mask)
        with self._asking():
            packed = self._client.get(key)
        if packed is None:
            raise store.MaskMissingError(store.missing(mask, self.names()))
        if not isinstance(packed, bytes) or store.content_hash(packed) != mask:
            raise store.MaskDamagedError(
                f"{key} in {self._config.url} does not hold what it is named after; the version "
                "before stays, and the pruner writes it again from the snapshot"
            )
        return store.unpack(packed)

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        start = self._blob("")
        with self._asking():
            keys = {_text(key) for key in self._client.scan_iter(f"{start}*", count=1000)}
        return tuple(sorted(key.removeprefix(start) for key in keys))

    def retain(self, masks: Collection[str]) -> None:
        """Delete all masks but these and those of the last heads."""
        others = [name for name in self.names() if name not in masks]
        self._run_script(self._retain, map(self._blob, others), others)

    def publish(self, publication: Publication) -> None:
        """Make this the head if it is newer."""
        one, mask = publication, publication.mask
        arguments: list[str | int] = [f"{self._prefix}:hint:sparse", self._config.versions]
        arguments += [one.version, one.sequence, one.snapshot, one.count, mask or ""]
        blobs = [] if mask is None else [self._blob(mask)]
        if self._run_script(self._publish, blobs, arguments) == "no mask":
            raise store.MaskMissingError(store.missing(mask or "", self.names()))

    def head(self) -> Publication | None:
        """Return the publication in force."""
        with self._asking():
            found = self._client.hgetall(self._head)
        head = {_text(key): _text(value) for key, value in found.items()}
        if not head:
            return None
        if self._run not in (None, head.get("run")):
            raise self._of_another_run()
        try:
            version, sequence, count = (int(head[n]) for n in ("version", "sequence", "count"))
            return Publication(version, sequence, head["snapshot"], count, head["mask"] or None)
        except (KeyError, ValueError):
            raise store.StoreRefusedError(
                f"{self._head} in {self._config.url} holds {head}, which is no head; delete "
                "the key, and it is filled again, or choose another store.prefix"
            ) from None

    @property
    def _head(self) -> str:
        return f"{self._prefix}:head:sparse"

    def _blob(self, mask: str) -> str:
        return f"{self._prefix}:mask:{mask}"

    def _run_script(
        self, script: Script, blobs: Iterable[str], arguments: Iterable[str | int]
    ) -> str:
        """Run a script on the head and some blobs, and return its answer."""
        with self._asking():
            answer = _text(script([self._head, *blobs], [self._run or "", *arguments]))
        if answer == "other run":
            raise self._of_another_run()
        return answer

    def _of_another_run(self) -> store.StoreRefusedError:
        return store.StoreRefusedError(
            f"{self._config.url} holds the head of another run under {self._config.prefix!r}; "
            f"choose another store.prefix, or delete the keys {self._config.prefix}:*"
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise the server's errors as those of a store."""
        try:
            yield
        except redis.RedisError as error:
            raise _explained(error, self._config) from error


def _connect(config: StoreConfig) -> redis.Redis:
    """Make a client; it connects when it is first asked, and anew after every loss."""
    options = {"cafile": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}
    named = {name: path for name, path in config if name in options and path is not None}
    if named and not config.url.startswith("rediss://"):
        raise store.StoreRefusedError(
            f"store.{min(named)} is for TLS, and {config.url} is not; use rediss://"
        )
    for name, path in named.items():
        if not Path(path).is_file():
            raise store.StoreRefusedError(f"store.{name} = {path!r} is no file; name a file of PEM")
    secret = config.password
    return redis.Redis.from_url(
        config.url,
        password=secret.get_secret_value() if secret else None,
        protocol=2,
        driver_info=None,
        socket_timeout=config.timeout_seconds,
        socket_connect_timeout=config.timeout_seconds,
        # A connection that the server closed meanwhile is noticed only when it is used.
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        **{options[name]: path for name, path in named.items()},
    )


_PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
"""Errors that an operator or time may mend while learning continues."""

_PASSING_WORDS = re.compile(
    r"(^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN) "
)
"""The same where the client has no class for the error, or a script raised it."""


def _explained(error: redis.RedisError, config: StoreConfig) -> store.StoreError:
    """Return the error of a store that means the same: away for now, or refused for good."""
    words, said = str(error), f"{config.url}: {error}"
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return store.StoreRefusedError(
            f"{said}; name the user in store.url and the password in store.password "
            "(RESPROUT_STORE__PASSWORD)"
        )
    # Scripts say in words only that the user lacks a permission.
    denied = ("NOPERM", "The user executing the script can't")
    if isinstance(error, redis.exceptions.NoPermissionError) or any(w in words for w in denied):
        return store.StoreRefusedError(
            f"{said}; let the user do this: ACL SETUSER NAME ~{config.prefix}:* "
            f"&{config.prefix}:* {' '.join(f'+{command}' for command in COMMANDS)}"
        )
    # TLS that failed for another reason than that the server went away.
    if "[SSL" in words and "UNEXPECTED_EOF" not in words:
        return store.StoreRefusedError(
            f"{said}; name the certificate authority of the server in store.cafile, and what it "
            "asks for in store.certfile and store.keyfile; redis:// is for servers without TLS"
        )
    if not isinstance(error, _PASSING) and not _PASSING_WORDS.search(words):
        return store.StoreRefusedError(
            f"{said}; a Redis server of version 5 or newer is needed, and no others' keys under "
            f"{config.prefix}:"
        )
    if "EOF occurred" in words:
        said += " (a server that wants another certificate hangs up too: see store.certfile)"
    elif config.url.startswith("rediss://") and isinstance(error, redis.TimeoutError):
        said += " (a server without TLS never answers rediss://)"
    elif config.url.startswith("redis://") and "reset by peer" in words:
        said += " (a server with TLS hangs up on redis://; rediss:// is for TLS)"
    return store.StoreAwayError(said)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
