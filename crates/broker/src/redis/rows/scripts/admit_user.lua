-- Lets a lease claim connections of a user. Its place there has been noted before.
-- KEYS: fence, admitted
-- ARGV: lease
-- Answers 1, or -1 if the lease is lost.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then
  return -1
end
redis.call('SADD', KEYS[2], ARGV[1])
return 1
