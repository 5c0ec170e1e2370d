-- KEYS: fence, admitted, claims of the user
-- ARGV: lease, connection, limit, or -1 for none
-- Answers 1 if the claim holds, -1 if the lease is lost, -2 if Redis has forgotten that it was admitted. If there is no
-- room: the leases under which it is taken, each with how many places it takes.
if redis.call('SISMEMBER', KEYS[1], ARGV[1]) == 1 then
  return -1
end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then
  return -2
end
local limit = tonumber(ARGV[3])
if limit >= 0 and redis.call('HLEN', KEYS[3]) >= limit and redis.call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  local counts, holders = {}, {}
  for _, lease in ipairs(redis.call('HVALS', KEYS[3])) do
    counts[lease] = (counts[lease] or 0) + 1
  end
  for lease, count in pairs(counts) do
    holders[#holders + 1] = lease
    holders[#holders + 1] = count
  end
  return holders
end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[1])
return 1
