-- Removes the claims of a lease that has ended, and keeps it from writing here again.
-- KEYS: fence, admitted, claims of the user
-- ARGV: lease, milliseconds that the fence stands
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SREM', KEYS[2], ARGV[1])
local claims = redis.call('HGETALL', KEYS[3])
for at = 1, #claims, 2 do
  if claims[at + 1] == ARGV[1] then
    redis.call('HDEL', KEYS[3], claims[at])
  end
end
return {0, 0}
