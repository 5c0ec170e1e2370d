-- Ends a lease, if it has not been renewed since it was looked at. From then on it can be neither renewed nor used.
-- KEYS: alive, dying
-- ARGV: lease, what it read when it was looked at; nothing, if it is the asker's own
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or (ARGV[2] ~= '' and score ~= ARGV[2]) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
