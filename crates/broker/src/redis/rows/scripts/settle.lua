-- KEYS: fence, instances, leaving, members
-- ARGV: lease, connection, Redis channel, header of the news
-- Answers 0 if all is done, the milliseconds that are left, or why the lease may not write.
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused < 0 then
  return refused
end
local row = redis.call('HGET', KEYS[4], ARGV[2])
if not row or string.sub(row, 1, 1) == 'P' then
  return 0
end
local deadline = string.sub(row, 2, 16)
local left = tonumber(deadline) - millis()
if left > 0 then
  return left
end
redis.call('HDEL', KEYS[4], ARGV[2])
local member = string.sub(row, 17)
if redis.call('HGET', KEYS[3], user_of(member)) == deadline then
  redis.call('HDEL', KEYS[3], user_of(member))
  redis.call('PUBLISH', ARGV[3], ARGV[4] .. member)
end
return 0
