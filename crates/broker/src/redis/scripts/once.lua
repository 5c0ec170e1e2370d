-- Publishes, unless that was done under the same key.
-- KEYS  1 the key's
-- ARGV  1 Redis channel  2 envelope  3 life of the key, ms
-- Gives whether it was done now.
if not redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[3]) then return 0 end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
