-- Publishes, unless that was done under the same key.
-- KEYS  1 the key's
-- ARGV  1 Redis channel  2 envelope  3 life of the key, ms  4 the sender's origin and sequence
-- Gives 1 if it was this one that was published, now or when it was sent before, and 0 if it was another one.
local first = redis.call('GET', KEYS[1])
if first then return first == ARGV[4] and 1 or 0 end
redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
