-- ARGV: lease, connection, user, member, Redis channel, header of the news, lease under which it was here before,
--       1 if it has been told that it is here
-- Answers 0, or why the lease may not write.
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused < 0 then
  return refused
end
local row = redis.call('HGET', KEYS[5], ARGV[2])
redis.call('HSET', KEYS[5], ARGV[2], 'P' .. ARGV[4])
if row and string.sub(row, 1, 1) == 'P' then
  return 0
end
-- What was told stands, if Redis has merely lost the row. If another instance has removed it, that was told.
local before = take_over(ARGV[7], ARGV[1], ARGV[2])
local told = before and string.sub(before, 1, 1) == 'P'
  or ARGV[8] == '1' and redis.call('SISMEMBER', KEYS[1], ARGV[7]) == 0
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
local connections = redis.call('HINCRBY', KEYS[3], ARGV[3], 1)
if ARGV[3] ~= '' then
  local awaited = redis.call('HDEL', KEYS[4], ARGV[3]) == 1
  told = told or awaited or connections > 1
end
if not told then
  redis.call('PUBLISH', ARGV[5], ARGV[6] .. ARGV[4])
end
return 0
