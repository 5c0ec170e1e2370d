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

-- KEYS of 'enter', 'leave' and 'evict': fence, instances, users, leaving, members; of the first two also the members of
-- the lease before.

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

-- Takes away the row that a connection has under the lease before, if nobody has ended that one: it has been lost some
-- other way, and nobody else would. Thus a member is never there twice.
local function take_over(previous, lease, connection)
  if previous == '' or previous == lease or redis.call('SISMEMBER', KEYS[1], previous) == 1 then
    return false
  end
  local row = redis.call('HGET', KEYS[6], connection)
  if not row then
    return false
  end
  redis.call('HDEL', KEYS[6], connection)
  if string.sub(row, 1, 1) == 'P' then
    one_less_here(KEYS[2], previous)
    one_less_of(KEYS[3], user_of(string.sub(row, 2)))
  end
  if redis.call('HLEN', KEYS[6]) == 0 then
    redis.call('HDEL', KEYS[2], previous)
  end
  return row
end

