-- Publishes, unless that was done under the same key.
-- KEYS  1 the key's
-- ARGV  1 Redis channel  2 envelope  3 life of the key, ms  4 the sender's origin and sequence
-- Gives 1 if it was this one that was published, now or when it was sent before, and 0 if it was another one; or where
-- that one is in the channel's history: epoch, offset.
-- What results hold is said in `append.lua`.
local first, this = redis.call('GET', KEYS[1]), '-' .. ARGV[4]
if first == this then return 1 end
if first and string.sub(first, 1, 1) == 'n' then return { string.sub(first, 10), (struct.unpack('>I8', first, 2)) } end
if first then return 0 end
redis.call('SET', KEYS[1], this, 'PX', ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
