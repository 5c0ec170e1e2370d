-- Numbers publications of one channel, appends them to its stream and publishes them, all or nothing.
-- KEYS  1 stream  2 meta  3 result of the idempotency key, if there is one; then there is one publication
-- ARGV  1 '1' if it is known that none of these has been appended  2 Redis channel  3 size  4 life of the stream, ms
--       5 life of the numbering, ms  6 the epoch, if a new one begins  7 life of the result, ms
--       8 version, 20 digits, or ''; then there is one publication  9 the version's epoch
--       and for each publication: its envelope before the position, and after it
-- Gives the epoch and the offset of each.
--
-- The meta hash holds the epoch `e`, the last offset `o`, and for each origin that has appended here what it appended
-- last: sequence, offset, time. By that a publication is known that was sent again because nobody knew what had become
-- of it; it is neither appended nor numbered twice. Where publishers give versions, it holds the newest as `v` and its
-- epoch as `ve`: what is not newer is neither appended nor published.
local FIRST = 10
if KEYS[3] then
  local result = redis.call('GET', KEYS[3])
  if result then
    return { string.sub(result, 9), (struct.unpack('>I8', result)) }
  end
end
local origin = string.sub(ARGV[FIRST], 5, 20)
local meta = redis.call('HMGET', KEYS[2], 'e', 'o', origin)
local epoch, offset, last = meta[1], tonumber(meta[2] or '0'), 0
local begins = not epoch
if begins then
  epoch, offset = ARGV[6], 0
elseif meta[3] then
  last = struct.unpack('>I8', meta[3])
elseif redis.call('HLEN', KEYS[2]) > 130 then
  -- Many origins: those that have been silent for an hour will not send anything again.
  local now = struct.unpack('>I8', ARGV[FIRST], 29)
  local fields = redis.call('HGETALL', KEYS[2])
  for i = 1, #fields, 2 do
    if #fields[i] == 16 and struct.unpack('>I8', fields[i + 1], 17) + 3600e6 < now then
      redis.call('HDEL', KEYS[2], fields[i])
    end
  end
end

if ARGV[8] ~= '' and not begins and struct.unpack('>I8', ARGV[FIRST], 21) > last then
  local version = redis.call('HMGET', KEYS[2], 'v', 've')
  if version[1] and version[1] >= ARGV[8] and (ARGV[9] == '' or ARGV[9] == version[2]) then
    return { epoch, offset }
  end
end

-- Where those are that have been appended already: searched for only then.
local known
local function find(id)
  if not known then
    known = {}
    for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 4096)) do
      local envelope = entry[2][2]
      known[string.sub(envelope, 5, 28)] = struct.unpack('>I8', envelope, 53)
    end
  end
  -- If it has been pushed out meanwhile: the offset of what its origin appended last is the nearest that is known.
  return known[id] or struct.unpack('>I8', meta[3], 9)
end

local answer = { epoch }
local fresh = {}
for i = FIRST, #ARGV, 2 do
  if struct.unpack('>I8', ARGV[i], 21) <= last and ARGV[1] ~= '1' then
    answer[#answer + 1] = find(string.sub(ARGV[i], 5, 28))
  else
    offset = offset + 1
    answer[#answer + 1] = offset
    fresh[#fresh + 1] = i
  end
end

if #fresh > 0 then
  local final = ARGV[fresh[#fresh]]
  local mark = string.sub(final, 21, 28)
  if last > struct.unpack('>I8', mark) then mark = struct.pack('>I8', last) end
  -- The first write, at which a Redis without memory or disk refuses.
  redis.call('HSET', KEYS[2], 'e', epoch, 'o', string.format('%.0f', offset),
    origin, mark .. struct.pack('>I8', offset) .. string.sub(final, 29, 36))
  if ARGV[8] ~= '' then redis.call('HSET', KEYS[2], 'v', ARGV[8], 've', ARGV[9]) end
  if begins then redis.call('DEL', KEYS[1]) end
  local place = string.char(#epoch) .. epoch .. string.rep('\0', 15 - #epoch)
  offset = offset - #fresh
  for _, i in ipairs(fresh) do
    offset = offset + 1
    local id = string.format('%.0f-0', offset)
    local envelope = ARGV[i] .. struct.pack('>I8', offset) .. place .. ARGV[i + 1]
    -- Roughly, because that is cheap: whole nodes of the stream go at a time.
    local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], id, 'd', envelope)
    if added.err then
      -- Entries from another numbering.
      redis.call('DEL', KEYS[1])
      redis.call('XADD', KEYS[1], id, 'd', envelope)
    end
    redis.call('PUBLISH', ARGV[2], envelope)
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
redis.call('PEXPIRE', KEYS[2], ARGV[5])
if KEYS[3] then
  redis.call('SET', KEYS[3], struct.pack('>I8', answer[2]) .. epoch, 'PX', ARGV[7])
end
return answer
