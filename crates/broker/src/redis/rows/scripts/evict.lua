-- Removes members of a lease that has ended, and keeps it from writing here again.
-- ARGV: lease, milliseconds that the fence stands, rows to look at, Redis channel, header of the news
-- Answers how many were removed and how many are left. Who is waited for is left until its time is over.
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local rows = redis.call('HRANDFIELD', KEYS[5], ARGV[3], 'WITHVALUES')
local now = millis()
local removed = 0
for at = 1, #rows, 2 do
  local connection, row = rows[at], rows[at + 1]
  local member, told = nil, false
  if string.sub(row, 1, 1) == 'P' then
    member = string.sub(row, 2)
    local user = user_of(member)
    one_less_here(KEYS[2], ARGV[1])
    told = one_less_of(KEYS[3], user) <= 0 or user == ''
  elseif tonumber(string.sub(row, 2, 16)) <= now then
    member = string.sub(row, 17)
    local user = user_of(member)
    if redis.call('HGET', KEYS[4], user) == string.sub(row, 2, 16) then
      redis.call('HDEL', KEYS[4], user)
      told = true
    end
  end
  if member then
    redis.call('HDEL', KEYS[5], connection)
    removed = removed + 1
  end
  if told then
    redis.call('PUBLISH', ARGV[4], ARGV[5] .. member)
  end
end
local left = redis.call('HLEN', KEYS[5])
if left == 0 then
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return {removed, left}
