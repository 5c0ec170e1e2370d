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

-- Whether a lease may write: 0 if it may, -1 if others have ended it, -2 if Redis has forgotten that it was admitted.
local function refusal(fence, instances, lease)
  if redis.call('SISMEMBER', fence, lease) == 1 then
    return -1
  end
  return redis.call('HEXISTS', instances, lease) == 1 and 0 or -2
end

-- Both count down, and never below nothing, whatever Redis may have lost.
local function one_less_here(instances, lease)
  if redis.call('HINCRBY', instances, lease, -1) < 0 then
    redis.call('HSET', instances, lease, 0)
  end
end

local function one_less_of(users, user)
  local left = redis.call('HINCRBY', users, user, -1)
  if left <= 0 then
    redis.call('HDEL', users, user)
  end
  return left
end

