-- KEYS  head, the blob of the new head's mask if it names one
-- ARGV  run, channel, masks remembered, version, sequence, snapshot, count, mask
local head = redis.call('HMGET', KEYS[1], 'version', 'sequence', 'run', 'recent')
if head[1] and head[3] ~= ARGV[1] then return 'other run' end
local version, sequence = tonumber(ARGV[4]), tonumber(ARGV[5])
local before, after = tonumber(head[1] or 0), tonumber(head[2] or -1)
if version < before or version == before and sequence <= after then return 'past' end
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return 'no mask' end

local recent, known = {}, {}
for mask in string.gmatch(ARGV[8] .. ' ' .. (head[4] or ''), '%S+') do
  if not known[mask] and #recent < tonumber(ARGV[3]) then recent[#recent + 1] = mask end
  known[mask] = true
end
redis.call('HSET', KEYS[1], 'version', ARGV[4], 'sequence', ARGV[5], 'snapshot', ARGV[6],
  'count', ARGV[7], 'mask', ARGV[8], 'run', ARGV[1], 'recent', table.concat(recent, ' '))
redis.call('PUBLISH', ARGV[2], ARGV[4] .. ' ' .. ARGV[5])
return 'done'
