-- Lets a lease write members into a channel. Its place there has been noted before.
-- KEYS: fence, instances
-- ARGV: lease
-- Answers 1, or -1 if the lease is lost.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then
  return -1
end
redis.call('HSETNX', KEYS[2], ARGV[1], 0)
return 1
