-- Writes down where the rows of a lease are, before they are written.
-- KEYS: alive, places of the lease
-- ARGV: lease, places
-- Answers 1, or 0 if the lease is lost.
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('SADD', KEYS[2], unpack(ARGV, 2))
return 1
