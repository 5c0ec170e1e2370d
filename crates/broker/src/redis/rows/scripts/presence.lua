-- Stands before each script about members. A member's row is 'P' and the member while it is present; after that, for
-- as long as its user may be back, 'L', 15 digits of the time until then (milliseconds by Redis' clock), the member.
-- 'leaving' has the same digits for each user who is waited for, so that the row knows whether it is the last word.

local function millis()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function user_of(member)
  return string.sub(member, 21, 20 + struct.unpack('>I4', member, 17))
end

-- Counts down, and never below nothing, whatever Redis may have lost.
local function one_less(key, field)
  local left = redis.call('HINCRBY', key, field, -1)
  if left <= 0 then
    redis.call('HDEL', key, field)
  end
  return left
end

