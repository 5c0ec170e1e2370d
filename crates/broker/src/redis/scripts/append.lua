-- Numbers publications of any number of channels, publishes them and appends them to their streams. If Redis refuses
-- what belongs to one channel, nothing of that part is done, and the others are.
-- KEYS  1 the sender's mark: how far what it sends to these channels has come
--       and for each part: stream, top, and where it has an idempotency key, the place of the result
-- ARGV  1 '1' if it is known that none of these has been appended  2 the sequence of the first  3 of the last
--       4 the epoch of numberings that begin, 16 bytes as in an envelope  5 how many kinds of retention there are
--       for each of these: 1 size  2 life of the stream, ms  3 life of the numbering, ms
--       and for each part: 1 Redis channel  2 which retention, from 1  3 how many publications  4 these, as in a
--       bundle; and where their number is '0', for one alone:
--       5 life of the result, ms, or ''  6 version, 20 digits, or ''  7 the version's epoch
-- Gives two values for each part: the epoch, and the offset of the first or those of all, or where none was published
-- an offset and why not ('repeated', 'outdated'); or '' and a fault, or '' and nothing if what was published under the
-- same key is in no history.
--
-- A sender sends what goes by one mark in the order of its sequences. What is not beyond the mark is sent again because
-- nobody knew what had become of it: it is neither appended nor numbered twice. Behind that number a mark holds the
-- sequences that were refused.
-- A top holds the last offset (8 bytes), when the stream ends (ms since 1970, 8 bytes), the epoch (16), and where
-- publishers give versions, the newest (20 digits) and its epoch: what is not newer is neither appended nor published.
-- A result is 'n' with the offset (8) and the epoch's name, or '-' with the sender's origin and sequence (`once.lua`).
-- An entry of a stream is a bundle, as it was published, by the offset of its last publication. Numbers are big-endian.
local call, try = redis.call, redis.pcall
local pack, unpack, sub, format = struct.pack, struct.unpack, string.sub, string.format
local HEADER = '\250\3\28\0'
local HOUR = 3600000
local MOST_REFUSED = 256

local mark = call('GET', KEYS[1])
local sent = mark and unpack('>I8', mark) or 0
local again = ARGV[1] ~= '1' and tonumber(ARGV[2]) <= sent
local refused = mark and sub(mark, 9) or ''
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function write_mark()
  local last = pack('>I8', math.max(sent, tonumber(ARGV[3])))
  -- Who has been silent for an hour will not send anything again.
  call('SET', KEYS[1], last .. sub(refused, -8 * MOST_REFUSED), 'PX', HOUR)
end

-- Calls `see` with each publication's origin and sequence, and with where it begins and ends.
local function each(publications, see)
  local at = 1
  while at <= #publications do
    local last = at + 3 + unpack('>I4', publications, at)
    see(sub(publications, at + 8, at + 31), at, last)
    at = last + 1
  end
end

local function refuse(publications)
  each(publications, function(id) refused = refused .. sub(id, 17) end)
  write_mark()
end

-- Whether a sequence was refused; then that is forgotten.
local function was_refused(sequence)
  for at = 1, #refused, 8 do
    if sub(refused, at, at + 7) == sequence then
      refused = sub(refused, 1, at - 1) .. sub(refused, at + 8)
      return true
    end
  end
  return false
end

-- Where those are that have been appended already.
local function find(stream)
  local known = {}
  for _, entry in ipairs(call('XREVRANGE', stream, '+', '-', 'COUNT', 4096)) do
    local message = entry[2][2]
    local offset = unpack('>I8', message, 5)
    each(sub(message, #HEADER + 25), function(id)
      known[id] = offset
      offset = offset + 1
    end)
  end
  return known
end

-- Those of them that are new, how many these are, and the offsets that all of them get.
local function winnow(stream, publications, offset)
  local known, fresh, offsets, top = nil, {}, {}, offset
  each(publications, function(id, first, last)
    local sequence = sub(id, 17)
    if unpack('>I8', sequence) > sent or was_refused(sequence) then
      fresh[#fresh + 1] = sub(publications, first, last)
      offset = offset + 1
      offsets[#offsets + 1] = offset
    else
      known = known or find(stream)
      -- If it has been pushed out meanwhile, where the history stood is the nearest that is known.
      offsets[#offsets + 1] = known[id] or top
    end
  end)
  return table.concat(fresh), #fresh, offsets
end

local retentions = {}
for at = 6, 5 + 3 * ARGV[5], 3 do
  local size, life, top_life = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  retentions[#retentions + 1] = {
    size = size,
    -- How often, in publications, older ones are trimmed off.
    step = math.ceil(size / 4),
    -- A life is prolonged when a tenth of it is gone, and by that tenth it is longer, because that is cheap.
    least = now + life,
    ends = now + math.ceil(1.1 * life),
    most = now + math.ceil(1.2 * life),
    top_life = top_life + math.ceil(0.1 * life),
  }
end

local answer, parts, key, arg = {}, 0, 2, 6 + 3 * ARGV[5]
local publications

local function append()
  local stream, place, at = KEYS[key], KEYS[key + 1], arg
  local count, result, version = tonumber(ARGV[at + 2]), nil, nil
  publications = ARGV[at + 3]
  parts, key, arg = parts + 1, key + 2, at + 4
  if count == 0 then
    count, arg = 1, at + 7
    if ARGV[at + 4] ~= '' then
      result, key = KEYS[key], key + 1
      local first = call('GET', result)
      if first then
        if sub(first, 1, 1) ~= 'n' then
          answer[2 * parts - 1], answer[2 * parts] = '', {}
          return
        end
        local offset = unpack('>I8', first, 2)
        answer[2 * parts - 1], answer[2 * parts] = sub(first, 10), { offset, 'repeated' }
        -- Unless it is this very one, sent again.
        each(publications, function(id)
          if again and find(stream)[id] then answer[2 * parts] = offset end
        end)
        return
      end
    end
    version = ARGV[at + 5] ~= '' and ARGV[at + 5]
  end

  local top, offset, ends, epoch = call('GET', place), 0, 0, ARGV[4]
  if top then
    offset, ends = unpack('>I8I8', top)
    epoch = sub(top, 17, 32)
  end
  local name, offsets = sub(epoch, 2, 1 + string.byte(epoch)), offset + 1
  if again and top then
    publications, count, offsets = winnow(stream, publications, offset)
  end
  if version and top and #top > 32 and count > 0 and sub(top, 33, 52) >= version
    and (ARGV[at + 6] == '' or ARGV[at + 6] == sub(top, 53)) then
    answer[2 * parts - 1], answer[2 * parts] = name, { offset, 'outdated' }
    return
  end

  if count > 0 then
    local message = HEADER .. pack('>I8', offset + 1) .. epoch .. publications
    call('PUBLISH', ARGV[at], message)
    offset = offset + count
    local retention = retentions[tonumber(ARGV[at + 1])]
    local renew = ends < retention.least or ends > retention.most
    if not top then call('DEL', stream) end
    local id, added = format('%d', offset), nil
    if offset % retention.step < count and offset > retention.size then
      -- Roughly: whole nodes of the stream go at a time.
      local oldest = format('%d', offset - retention.size + 1)
      added = try('XADD', stream, 'NOMKSTREAM', 'MINID', '~', oldest, id, 'd', message)
    else
      added = try('XADD', stream, 'NOMKSTREAM', id, 'd', message)
    end
    if not added or added.err then
      -- There is none, or there are entries from another numbering.
      if added then call('DEL', stream) end
      call('XADD', stream, id, 'd', message)
      renew = true
    end
    if renew or version then
      call('PEXPIRE', stream, retention.ends - now)
      local versions = version and version .. ARGV[at + 6] or top and sub(top, 33) or ''
      local value = pack('>I8I8', offset, retention.ends) .. epoch .. versions
      call('SET', place, value, 'PX', retention.top_life)
    else
      call('SETRANGE', place, 0, pack('>I8', offset))
    end
  end
  answer[2 * parts - 1], answer[2 * parts] = name, offsets
  if result then
    local first = type(offsets) == 'table' and offsets[1] or offsets
    call('SET', result, 'n' .. pack('>I8', first) .. name, 'PX', ARGV[at + 4])
  end
end

local function append_rest()
  while arg <= #ARGV do append() end
end

-- The first write, at which a Redis without memory or disk refuses.
write_mark()
repeat
  local done, fault = pcall(append_rest)
  if not done then
    answer[2 * parts - 1], answer[2 * parts] = '', type(fault) == 'table' and fault.err or tostring(fault)
    refuse(publications)
  end
until arg > #ARGV
if again then write_mark() end
return answer
