-- Reads a piece of a hash, unless that is more than there is room for.
-- KEYS  1 the hash
-- ARGV  1 cursor  2 about how many fields  3 a pattern for their names  4 what each takes beside its bytes  5 how many
--       bytes there is room for
-- Gives the next cursor, fields and values in turn, and how many bytes these are; if that is too much, none of them.
local scanned = redis.call('HSCAN', KEYS[1], ARGV[1], 'MATCH', ARGV[3], 'COUNT', ARGV[2])
local bytes = 0
for at, text in ipairs(scanned[2]) do bytes = bytes + #text + at % 2 * ARGV[4] end
return { scanned[1], bytes > tonumber(ARGV[5]) and {} or scanned[2], bytes }
