-- Reads a channel's history and where it stands.
-- KEYS  1 stream  2 meta
-- ARGV  1 the epoch, if a new one begins  2 life of the numbering, ms  3 most publications
--       4 'newer' or 'older'  5 the first or last offset  6 the epoch that is asked for, or ''
--       7 an offset that was surely reached in that epoch  8 publications that are kept
-- Gives epoch, offset, whether the epoch is the one, entries.
local meta = redis.call('HMGET', KEYS[2], 'e', 'o')
local epoch, offset = meta[1], tonumber(meta[2] or '0')
-- A Redis that has lost what it had written (a failover, a restart from an older snapshot) would give offsets out for
-- a second time: that is a new epoch, too.
if not epoch or (epoch == ARGV[6] and offset < tonumber(ARGV[7])) then
  epoch, offset = ARGV[1], 0
  redis.call('HSET', KEYS[2], 'e', epoch, 'o', 0)
  redis.call('DEL', KEYS[1])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
elseif redis.call('PTTL', KEYS[2]) < ARGV[2] / 2 then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
local matches = ARGV[6] == '' or ARGV[6] == epoch
local entries = {}
if matches and ARGV[3] ~= '0' then
  -- The stream is trimmed roughly, because that is cheap; what is too old by count is passed over here.
  local first = string.format('%.0f', math.max(offset - tonumber(ARGV[8]) + 1, 1))
  if ARGV[4] == 'older' then
    entries = redis.call('XREVRANGE', KEYS[1], ARGV[5], first, 'COUNT', ARGV[3])
  else
    if tonumber(ARGV[5]) > tonumber(first) then first = ARGV[5] end
    entries = redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[3])
  end
end
return { epoch, offset, matches and 1 or 0, entries }
