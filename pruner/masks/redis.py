"""What a Redis server holds under which key, and the two scripts that change it."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from torch import Tensor

from learner.registry import Swap
from pruner.config import StoreConfig
from pruner.masks import MaskDamagedError, content_hash, pack, unpack
from pruner.masks.store import (
    HISTORY,
    MaskMissingError,
    StoreAwayError,
    StoreError,
    StoreRefusedError,
    missing,
)

MODEL = "sparse"
"""The model whose head it is."""

COMMANDS = (
    *("get", "set", "del", "exists", "scan", "select"),
    *("hgetall", "hmget", "hset"),
    *("xadd", "xrange", "xrevrange", "xtrim"),
    *("evalsha", "script|load", "publish"),
)
"""All that is asked of the server."""

PUBLISH = """
-- KEYS  head, history, the blob of the new head's mask if it names one
-- ARGV  run, channel, entries kept, then version, snapshot, count, mask of versions, ascending;
--       the last one is to be the head
local head = redis.call('HMGET', KEYS[1], 'version', 'run')
if head[1] and head[2] ~= ARGV[1] then return 'other run' end
local at = #ARGV - 3
local version, now = tonumber(ARGV[at]), tonumber(head[1] or 0)
if version < now then return 'past' end
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 0 then return 'no mask' end

local known, rewrite, newest = {}, false, 0
local entries = redis.call('XRANGE', KEYS[2], '-', '+')
for _, entry in ipairs(entries) do
  newest = tonumber(string.match(entry[1], '^%d+'))
  known[newest] = true
end
for i = 4, at, 4 do
  local this = tonumber(ARGV[i])
  if not known[this] then
    rewrite = rewrite or this < newest
    local fields = {'snapshot', ARGV[i + 1], 'count', ARGV[i + 2], 'mask', ARGV[i + 3]}
    entries[#entries + 1] = {this .. '-0', fields}
    if not rewrite then redis.call('XADD', KEYS[2], this .. '-0', unpack(fields)) end
  end
end
if rewrite then
  local function number(entry) return tonumber(string.match(entry[1], '^%d+')) end
  table.sort(entries, function(a, b) return number(a) < number(b) end)
  redis.call('DEL', KEYS[2])
  for _, entry in ipairs(entries) do redis.call('XADD', KEYS[2], entry[1], unpack(entry[2])) end
end
redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[3])

if version > now then
  redis.call('HSET', KEYS[1], 'version', ARGV[at], 'snapshot', ARGV[at + 1],
    'count', ARGV[at + 2], 'mask', ARGV[at + 3], 'run', ARGV[1])
  redis.call('PUBLISH', ARGV[2], ARGV[at])
end
return 'done'
"""

RETAIN = """
-- KEYS  head, history, then the blobs that nobody asked to keep
-- ARGV  run, versions kept, then the masks in those blobs
local head = redis.call('HMGET', KEYS[1], 'mask', 'run')
if head[1] and head[2] ~= ARGV[1] then return 'other run' end
local used = {[head[1] or ''] = true}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[2])) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'mask' then used[entry[2][i + 1]] = true end
  end
end
for i = 3, #KEYS do
  if not used[ARGV[i]] then redis.call('DEL', KEYS[i]) end
end
return 'done'
"""


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of all keys.

    >>> keys = Keys("resprout")
    >>> keys.head, keys.history, keys.mask("0d5d")
    ('resprout:head:sparse', 'resprout:history:sparse', 'resprout:mask:0d5d')
    """

    prefix: str

    @property
    def head(self) -> str:
        """A hash: version, snapshot (ends in the hash of its weights), count, mask, run."""
        return f"{self.prefix}:head:{MODEL}"

    @property
    def history(self) -> str:
        """A stream of heads, oldest first; the id of version 7 is ``7-0``."""
        return f"{self.prefix}:history:{MODEL}"

    @property
    def hint(self) -> str:
        """A channel that gets the version of every new head; whoever misses it polls."""
        return f"{self.prefix}:hint:{MODEL}"

    def mask(self, name: str) -> str:
        """Return the key of a blob: the packed masks of that content hash."""
        return f"{self.prefix}:mask:{name}"


log = logging.getLogger(__name__)


class RedisMaskStore:
    """Keeps masks on a Redis server of version 5 or newer.

    Blobs are written once and never change; the head and the history move by one Lua script, so
    that whoever reads a head finds its mask, however many write. All of it can be filled again,
    so the server need not persist anything.

    Parameters
    ----------
    config
        Where the server is.
    run
        The identity of the ledger that is projected: what another run left is refused. None: for
        those who only read, whatever run it is.

    Examples
    --------
    >>> RedisMaskStore(StoreConfig(kind="redis", url="redis://:secret@masks:6379/2"), "7f")
    RedisMaskStore('redis://masks:6379/2', prefix='resprout')
    """

    def __init__(self, config: StoreConfig, run: str | None = None) -> None:
        self._config = config
        self._run = run
        self._keys = Keys(config.prefix)
        self._client = _connect(config)
        self._publish = self._client.register_script(PUBLISH)
        self._retain = self._client.register_script(RETAIN)

    def __repr__(self) -> str:
        return f"RedisMaskStore({self._config.url!r}, prefix={self._config.prefix!r})"

    def check(self) -> None:
        """See that the server lets us do all that a store does, on keys that go again.

        Raises :class:`~pruner.masks.store.StoreRefusedError` where only other settings would help,
        and
        :class:`~pruner.masks.store.StoreAwayError` where that cannot be told now.
        """
        trial = copy(self)
        trial._keys = Keys(f"{self._config.prefix}:check-{uuid4().hex[:8]}")
        trial._try()
        self.head()

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def put(self, masks: Mapping[str, Tensor]) -> str:
        """Keep masks and return their content hash."""
        packed = pack(masks)
        name = content_hash(packed)
        key = self._keys.mask(name)
        with self._asking():
            if not self._client.set(key, packed, nx=True) and self._client.get(key) != packed:
                log.warning("%s held something else at %s: written again", self, key)
                self._client.set(key, packed)
        return name

    def get(self, mask: str) -> dict[str, Tensor]:
        """Return masks by their content hash."""
        key = self._keys.mask(mask)
        with self._asking():
            packed = self._client.get(key)
        if packed is None:
            raise MaskMissingError(missing(mask, self.names()))
        if not isinstance(packed, bytes) or content_hash(packed) != mask:
            raise MaskDamagedError(
                f"{key} in {self._config.url} does not hold what it is named after; the version "
                "before stays, and the pruner writes it again from the snapshot"
            )
        return unpack(packed)

    def names(self) -> tuple[str, ...]:
        """Return the content hashes of all masks kept."""
        start = self._keys.mask("")
        with self._asking():
            keys = {_text(key) for key in self._client.scan_iter(f"{start}*", count=1000)}
        return tuple(sorted(key.removeprefix(start) for key in keys))

    def retain(self, masks: Collection[str]) -> None:
        """Forget all masks but these, the head's and those of the last versions."""
        others = [name for name in self.names() if name not in masks]
        keys = [self._keys.head, self._keys.history, *map(self._keys.mask, others)]
        with self._asking():
            answer = _text(self._retain(keys, [self._run or "", self._config.versions, *others]))
        if answer == "other run":
            raise StoreRefusedError(self._of_another_run())

    def publish(self, swap: Swap, earlier: Sequence[Swap] = ()) -> None:
        """Make this version the head if it is greater than the head's."""
        before = {one.version: one for one in earlier if one.version < swap.version}
        entries = [*(before[version] for version in sorted(before)), swap][-HISTORY:]
        keys = [self._keys.head, self._keys.history]
        if swap.mask is not None:
            keys.append(self._keys.mask(swap.mask))
        told = [part for one in entries for part in _entry(one)]
        with self._asking():
            answer = _text(self._publish(keys, [self._run or "", self._keys.hint, HISTORY, *told]))
        if answer == "other run":
            raise StoreRefusedError(self._of_another_run())
        if answer == "no mask" and swap.mask is not None:
            raise MaskMissingError(missing(swap.mask, self.names()))

    def head(self) -> Swap | None:
        """Return the version in force."""
        with self._asking():
            found = self._client.hgetall(self._keys.head)
        head = {_text(key): _text(value) for key, value in found.items()}
        if head and self._run not in (None, head.get("run")):
            raise StoreRefusedError(self._of_another_run())
        return self._swap(self._keys.head, head.get("version", ""), head) if head else None

    def history(self) -> tuple[Swap, ...]:
        """Return the last heads, oldest first."""
        with self._asking():
            found = self._client.xrange(self._keys.history) or []
        entries = [
            (_text(key or b""), {_text(name): _text(value) for name, value in (held or {}).items()})
            for key, held in found
        ]
        return tuple(
            self._swap(self._keys.history, key.partition("-")[0], held) for key, held in entries
        )

    def _swap(self, key: str, version: str, held: Mapping[str, str]) -> Swap:
        try:
            mask = held["mask"] or None
            return Swap(int(version), held["snapshot"], int(held["count"]), mask)
        except (KeyError, ValueError):
            raise StoreRefusedError(
                f"{key} in {self._config.url} holds {dict(held)}, which is no head; delete the "
                "key, and it is filled again, or choose another store.prefix"
            ) from None

    def _try(self) -> None:
        """Do everything once; a wipe that comes between is none of our concern."""
        try:
            with suppress(MaskMissingError, MaskDamagedError):
                name = self.put({})
                self.publish(Swap(1, "check", 0, name))
                self.get(name)
            self.head()
            self.history()
            self.retain(())
        finally:
            blob = self._keys.mask(content_hash(pack({})))
            with suppress(StoreError), self._asking():
                self._client.delete(self._keys.head, self._keys.history, blob)

    def _of_another_run(self) -> str:
        return (
            f"{self._config.url} holds the head of another run under {self._config.prefix!r}; "
            f"choose another store.prefix, or delete the keys {self._config.prefix}:*"
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Say what the server's errors mean here."""
        try:
            yield
        except redis.RedisError as error:
            raise _explained(error, self._config) from error


def _connect(config: StoreConfig) -> redis.Redis:
    """Make a client; it connects when it is first asked, and anew after every loss."""
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
        **_certificates(config),
    )


def _certificates(config: StoreConfig) -> dict[str, str]:
    files = {"cafile": config.cafile, "certfile": config.certfile, "keyfile": config.keyfile}
    named = {name: path for name, path in files.items() if path is not None}
    if named and not config.url.startswith("rediss://"):
        raise StoreRefusedError(
            f"store.{min(named)} is for TLS, and {config.url} is not; use rediss://"
        )
    for name, path in named.items():
        if not Path(path).is_file():
            raise StoreRefusedError(f"store.{name} = {path!r} is no file; name a file of PEM")
    options = {"cafile": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}
    return {options[name]: path for name, path in named.items()}


_PASSING = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)
"""What an operator or time may mend while we go on."""

_PASSING_WORDS = re.compile(
    r"(^|-)(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN) "
)
"""The same where the client knows no kind of error of its own, or a script met it."""


def _explained(error: redis.RedisError, config: StoreConfig) -> StoreError:
    """Say what an error means for a store: away for now, or refused until settings change."""
    said = f"{config.url}: {error}"
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return StoreRefusedError(
            f"{said}; name the user in store.url and the password in store.password "
            "(RESPROUT_STORE__PASSWORD)"
        )
    if _denied(error):
        return StoreRefusedError(
            f"{said}; let the user do this: ACL SETUSER NAME ~{config.prefix}:* "
            f"&{config.prefix}:* {' '.join(f'+{command}' for command in COMMANDS)}"
        )
    if _of_tls(error):
        return StoreRefusedError(
            f"{said}; name the certificate authority of the server in store.cafile, and what it "
            "asks for in store.certfile and store.keyfile; redis:// is for servers without TLS"
        )
    if isinstance(error, _PASSING) or _PASSING_WORDS.search(str(error)):
        return StoreAwayError(said + _hint(error, config))
    return StoreRefusedError(
        f"{said}; a Redis server of version 5 or newer is needed, and no others' keys under "
        f"{config.prefix}:"
    )


def _denied(error: redis.RedisError) -> bool:
    """Say whether the user lacks a permission; scripts tell that in words only."""
    return isinstance(error, redis.exceptions.NoPermissionError) or any(
        words in str(error) for words in ("NOPERM", "The user executing the script can't")
    )


def _of_tls(error: redis.RedisError) -> bool:
    """Say whether TLS failed for another reason than that the server went away."""
    return "[SSL" in str(error) and "UNEXPECTED_EOF" not in str(error)


def _hint(error: redis.RedisError, config: StoreConfig) -> str:
    """Name what else may look like a server that is away."""
    if "EOF occurred" in str(error):
        return " (a server that wants another certificate hangs up too: see store.certfile)"
    if config.url.startswith("rediss://") and isinstance(error, redis.TimeoutError):
        return " (a server without TLS never answers rediss://)"
    if config.url.startswith("redis://") and "reset by peer" in str(error):
        return " (a server with TLS hangs up on redis://; rediss:// is for TLS)"
    return ""


def _entry(swap: Swap) -> tuple[int, str, int, str]:
    return swap.version, swap.snapshot, swap.count, swap.mask or ""


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
