-- KEYS: leaving, members
-- ARGV: connection, Redis channel, header of the news
-- Answers 0 if all is done, or the milliseconds that are left.
local row = redis.call('HGET', KEYS[2], ARGV[1])
if not row or string.sub(row, 1, 1) == 'P' then
  return 0
end
local deadline = string.sub(row, 2, 16)
local left = tonumber(deadline) - millis()
if left > 0 then
  return left
end
redis.call('HDEL', KEYS[2], ARGV[1])
local member = string.sub(row, 17)
if redis.call('HGET', KEYS[1], user_of(member)) == deadline then
  redis.call('HDEL', KEYS[1], user_of(member))
  redis.call('PUBLISH', ARGV[2], ARGV[3] .. member)
end
return 0
