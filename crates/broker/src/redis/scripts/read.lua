-- Reads a channel's history and where it stands. Whoever asks for a channel that nothing was published to begins a
-- numbering, so that all are told the same; it lives shortly, because anybody can ask for any name.
-- KEYS  1 stream  2 top
-- ARGV  1 the epoch, if a new one begins, 16 bytes as in an envelope  2 life of the numbering, ms  3 most publications
--       4 'newer' or 'older'  5 the first or last offset  6 the epoch that is asked for, or ''
--       7 an offset that was surely reached in that epoch  8 publications that are kept  9 the most that a bundle has
--       10 life of a numbering without publications, ms  11 if all are more than so many bytes, none is given
--       12 origin and sequence of the publication before the first, in that epoch, or ''
-- Gives epoch, offset, whether the epoch is the one, entries: all that hold what is asked for, and some more; and how
-- many bytes these are, or would be.
-- What streams and tops hold is said in `append.lua`.
local function plain(number) return string.format('%.0f', number) end
local top, offset, epoch = redis.call('GET', KEYS[2]), 0, nil
if top then
  offset = struct.unpack('>I8', top)
  epoch = string.sub(top, 18, 17 + string.byte(top, 17))
end
-- Whether something else is kept where that publication was.
local function is_another(author, place)
  local entry = author ~= '' and redis.call('XRANGE', KEYS[1], plain(place), '+', 'COUNT', 1)[1]
  if not entry then return false end
  local message, at = entry[2][2], 29
  local first = struct.unpack('>I8', message, 5)
  if first > place then return false end
  for _ = first, place - 1 do at = at + 4 + struct.unpack('>I4', message, at) end
  return string.sub(message, at + 8, at + 31) ~= author
end
-- A Redis that has lost what it had written (a failover, a restart from an older snapshot) would give offsets out for
-- a second time, or already has: that is a new epoch, too.
if not top or (epoch == ARGV[6] and (offset < tonumber(ARGV[7]) or is_another(ARGV[12], ARGV[5] - 1))) then
  epoch, offset = string.sub(ARGV[1], 2, 1 + string.byte(ARGV[1])), 0
  redis.call('SET', KEYS[2], struct.pack('>I8I8', 0, 0) .. ARGV[1], 'PX', ARGV[10])
  redis.call('DEL', KEYS[1])
else
  local life = tonumber(offset > 0 and ARGV[2] or ARGV[10])
  if redis.call('PTTL', KEYS[2]) < life / 2 then redis.call('PEXPIRE', KEYS[2], life) end
end
local matches = ARGV[6] == '' or ARGV[6] == epoch
local entries, bytes, room = {}, 0, tonumber(ARGV[11])
local function size(entry) return #entry[2][2] end
local oldest = math.max(offset - tonumber(ARGV[8]) + 1, 1)
local from, most, reach = tonumber(ARGV[5]), tonumber(ARGV[3]), tonumber(ARGV[9]) - 1
if matches and most > 0 and ARGV[4] == 'older' then
  from = math.min(from, offset)
  if from >= oldest then
    local count = math.min(most + reach, from - oldest + 1 + reach)
    entries = redis.call('XREVRANGE', KEYS[1], plain(from + reach), plain(oldest), 'COUNT', plain(count))
    for _, entry in ipairs(entries) do bytes = bytes + size(entry) end
  end
elseif matches and most > 0 then
  from = math.max(from, oldest)
  -- Up to `last`, whose bundle may go on behind it.
  local to, last = offset, offset
  -- So that no more is read than asked for, though a bundle counts as one. Older ones may be missing.
  if from + most <= offset then
    local first = redis.call('XRANGE', KEYS[1], plain(from), '+', 'COUNT', 1)[1]
    last = first and tonumber(string.match(first[1], '^%d+')) + most - 1 or 0
    to = last + reach
  end
  -- Piece by piece, so that what is too much costs Redis little; how much it is is told from what was read of it.
  local at, count = from, room < 2 ^ 53 and 16 or 2 ^ 30
  while at <= to and bytes <= room do
    local piece = redis.call('XRANGE', KEYS[1], plain(at), plain(to), 'COUNT', plain(count))
    for _, entry in ipairs(piece) do
      bytes = bytes + size(entry)
      entries[#entries + 1] = entry
      at = tonumber(string.match(entry[1], '^%d+')) + 1
      if at > last then break end
    end
    if #piece < count or at > last then at = to + 1 end
    count = count * 2
  end
  if bytes > room and at <= last then
    local first = math.max(from, tonumber(string.match(entries[1][1], '^%d+')) - reach)
    bytes = math.ceil(bytes / (at - first) * (last - first + 1))
  end
end
return { epoch, offset, matches and 1 or 0, bytes > room and {} or entries, bytes }
