-- ARGV: lease, connection, member, Redis channel, header of the news, lease under which it was here before,
--       1 if it has been told that it is here, grace in milliseconds, grace if Redis has lost the row
-- Answers 0 if all is done, milliseconds until 'settle' is due, or why the lease may not write.
local refused = refusal(KEYS[1], KEYS[2], ARGV[1])
if refused < 0 then
  return refused
end
local grace = tonumber(ARGV[8])
local row = redis.call('HGET', KEYS[5], ARGV[2])
if row and string.sub(row, 1, 1) == 'L' then
  return math.max(tonumber(string.sub(row, 2, 16)) - millis(), 1)
end
local member, left
if row then
  member = string.sub(row, 2)
  one_less_here(KEYS[2], ARGV[1])
  left = one_less_of(KEYS[3], user_of(member))
else
  row = take_over(ARGV[6], ARGV[1], ARGV[2])
  if row and string.sub(row, 1, 1) == 'P' then
    member = string.sub(row, 2)
  elseif ARGV[7] == '0' or redis.call('SISMEMBER', KEYS[1], ARGV[6]) == 1 then
    return 0
  else
    -- Other connections of the user may not have been written again yet.
    member = ARGV[3]
    grace = math.max(grace, tonumber(ARGV[9]))
  end
  left = tonumber(redis.call('HGET', KEYS[3], user_of(member)) or 0)
end
local user = user_of(member)
if user ~= '' and left > 0 then
  redis.call('HDEL', KEYS[5], ARGV[2])
  return 0
end
if user == '' or grace == 0 then
  redis.call('HDEL', KEYS[5], ARGV[2])
  redis.call('HDEL', KEYS[4], user)
  redis.call('PUBLISH', ARGV[4], ARGV[5] .. member)
  return 0
end
local deadline = string.format('%015d', millis() + grace)
redis.call('HSET', KEYS[5], ARGV[2], 'L' .. deadline .. member)
redis.call('HSET', KEYS[4], user, deadline)
return grace
