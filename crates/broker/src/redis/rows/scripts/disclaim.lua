-- Removes the claims of a lease that has ended, and keeps it from writing here again.
-- KEYS: fence, claims of the user
-- ARGV: lease, milliseconds that the fence stands
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local claims = redis.call('HGETALL', KEYS[2])
for at = 1, #claims, 2 do
  if claims[at + 1] == ARGV[1] then
    redis.call('HDEL', KEYS[2], claims[at])
  end
end
return {0, 0}
