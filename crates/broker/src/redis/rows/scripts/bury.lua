-- Forgets a lease that has ended, once none of its rows is left.
-- KEYS: dying, places of the lease
-- ARGV: lease
if redis.call('SCARD', KEYS[2]) > 0 then
  return 0
end
redis.call('SREM', KEYS[1], ARGV[1])
return 1
