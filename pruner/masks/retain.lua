-- KEYS  head, then the blobs that nobody asked to keep
-- ARGV  run, then the masks in those blobs
local head = redis.call('HMGET', KEYS[1], 'version', 'run', 'recent')
if head[1] and head[2] ~= ARGV[1] then return 'other run' end
local used = {}
for mask in string.gmatch(head[3] or '', '%S+') do used[mask] = true end
for i = 2, #KEYS do
  if not used[ARGV[i]] then redis.call('DEL', KEYS[i]) end
end
return 'done'
