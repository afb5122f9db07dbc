"""What a Redis server holds under which key, and the two scripts that change it."""

from __future__ import annotations

from dataclasses import dataclass

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
