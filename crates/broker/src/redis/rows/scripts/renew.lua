-- KEYS: alive
-- ARGV: lease, its milliseconds, 1 if it is a new one
-- Answers 1 if the lease holds: also if it was over, but nobody has ended it.
-- Taken out and put in again: a Redis whose memory is full lets nothing be added but by a script that has already
-- written, and a lease that is not renewed would be ended.
local held = redis.call('ZREM', KEYS[1], ARGV[1]) == 1
if ARGV[3] ~= '1' and not held then
  return 0
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
return 1
