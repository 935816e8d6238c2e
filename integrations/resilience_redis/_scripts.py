"""The machines of a store in Lua, one script each. The reference is `resilience/_ledger.py` and `_ledger_circuit.py`.

A script works on one key, so it runs anywhere in a cluster. `ARGV` is the time in seconds (-1: the server's own, which
is what everybody uses but the test that compares the two languages), the verb, and its arguments. It answers with
numbers in a string, because Redis cuts the fractions off those it is given.
"""

from __future__ import annotations

import hashlib

_BEGIN = """
local key = KEYS[1]
local now = tonumber(ARGV[1])
if now < 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local verb = ARGV[2]
local function number(place) return tonumber(ARGV[place]) end
local function answer(values)
  for place = 1, #values do values[place] = string.format('%.17g', values[place]) end
  return table.concat(values, ' ')
end
local function milliseconds(seconds) return string.format('%.0f', math.min(math.ceil(seconds * 1000), 1e14) + 1000) end
"""

# The value is the arrival times in a string. It lives as long as it differs from a fresh one.
_LIMITER = """
if verb == 'take' and #ARGV == 9 then -- one limit, which most have: the same as below, spelled out
  local cost, interval, tolerance, allowance = number(4), number(7), number(8), number(9)
  local before = math.max(tonumber(redis.call('GET', key) or now) or now, now)
  local tat, start, after = before, now, before + cost * interval
  if after - now > allowance then start = math.max(start, after - tolerance) end
  local wait, admitted = start - now, 0
  if wait <= number(5) and wait <= number(6) then
    admitted = 1
    if ARGV[3] == '1.0' then
      tat = math.max(before, start) + cost * interval
      if tat > now then
        redis.call('SET', key, string.format('%.17g', tat), 'PX', milliseconds(tat - now))
      else
        redis.call('DEL', key)
      end
    end
  end
  local room, one = math.max(0, (allowance - (tat - now)) / interval), tat + interval
  local next_one = one - now > allowance and math.max(0, one - tolerance - now) or 0
  return string.format('%d %.17g %.17g %.17g %.17g %.17g %.17g',
    admitted, wait, room, next_one, tat - now, tat, before)
end

local tats = {}
for tat in string.gmatch(redis.call('GET', key) or '', '%S+') do tats[#tats + 1] = tonumber(tat) end
if #tats > 0 and math.max(unpack(tats)) <= now then tats = {} end
local function fit(count)
  if #tats ~= count then
    tats = {}
    for place = 1, count do tats[place] = now end
  end
end
local function keep()
  local texts = {}
  for place = 1, #tats do texts[place] = string.format('%.17g', tats[place]) end
  local rest = math.max(unpack(tats)) - now
  if rest > 0 then
    redis.call('SET', key, table.concat(texts, ' '), 'PX', milliseconds(rest))
  else
    redis.call('DEL', key)
  end
end

if verb == 'take' then
  local cost, max_wait, left = number(4), number(5), number(6)
  local first, count = 7, (#ARGV - 6) / 3
  fit(count)
  local function earliest(amount)
    local start = now
    for place = 1, count do
      local rule = first + (place - 1) * 3
      local after = math.max(tats[place], now) + amount * number(rule)
      if after - now > number(rule + 2) then start = math.max(start, after - number(rule + 1)) end
    end
    return start
  end
  local before = tats
  local start = earliest(cost)
  local wait = start - now
  local admitted = wait <= max_wait and wait <= left
  if admitted and number(3) == 1 then
    tats = {}
    for place = 1, count do
      tats[place] = math.max(before[place], start) + cost * number(first + (place - 1) * 3)
    end
    keep()
  end
  local room, latest = math.huge, -math.huge
  for place = 1, count do
    local rule = first + (place - 1) * 3
    room = math.min(room, math.max(0, (number(rule + 2) - math.max(0, tats[place] - now)) / number(rule)))
    latest = math.max(latest, tats[place])
  end
  local values = { admitted and 1 or 0, wait, room, earliest(1) - now, math.max(0, latest - now) }
  for place = 1, count do values[#values + 1] = tats[place] end
  for place = 1, count do values[#values + 1] = before[place] end
  return answer(values)
elseif verb == 'charge' then
  local cost = number(3)
  fit(#ARGV - 3)
  for place = 1, #tats do tats[place] = math.max(tats[place], now) + cost * number(place + 3) end
  keep()
elseif verb == 'refund' then
  local count = (#ARGV - 2) / 2
  if #tats ~= count then return '0' end
  for place = 1, count do
    if tats[place] ~= number(place + 2) then return '0' end
  end
  for place = 1, count do tats[place] = number(place + 2 + count) end
  keep()
  return '1'
elseif verb == 'reset' then
  redis.call('DEL', key)
end
return ''
"""

# A hash: d<bucket> and w<bucket>.
_BUDGET = """
local width, deposits, withdrawals = number(3), number(4), number(5)
local index = math.floor(now / width)
if deposits > 0 or withdrawals > 0 then
  redis.call('HINCRBY', key, 'd' .. string.format('%.0f', index), string.format('%.0f', deposits))
  redis.call('HINCRBY', key, 'w' .. string.format('%.0f', index), string.format('%.0f', withdrawals))
  redis.call('PEXPIRE', key, milliseconds((index + 10) * width - now))
end
local sums = { d = 0, w = 0 }
local fields = redis.call('HGETALL', key)
for place = 1, #fields, 2 do
  if tonumber(string.sub(fields[place], 2)) <= index - 10 then
    redis.call('HDEL', key, fields[place])
  else
    local kind = string.sub(fields[place], 1, 1)
    sums[kind] = sums[kind] + tonumber(fields[place + 1])
  end
end
return answer({ sums.d, sums.w })
"""

# A hash: the owner's id to the end of its lease, and "#" to the last fencing number.
_BULKHEAD = """
local held, count, soonest, latest, fence = {}, 0, math.huge, now, 0
local fields = redis.call('HGETALL', key)
for place = 1, #fields, 2 do
  local owner, value = fields[place], tonumber(fields[place + 1])
  if owner == '#' then
    fence = value
  elseif value <= now then
    redis.call('HDEL', key, owner)
  else
    held[owner] = value
    count = count + 1
    soonest = math.min(soonest, value)
    latest = math.max(latest, value)
  end
end
local function lease(owner, seconds)
  redis.call('HSET', key, owner, string.format('%.17g', now + seconds))
  latest = math.max(latest, now + seconds)
  redis.call('PEXPIRE', key, milliseconds(latest - now))
end
if verb == 'acquire' then
  local owner, seconds, capacity = ARGV[3], number(4), number(5)
  if not held[owner] and count >= capacity then return answer({ 0, 0, count, soonest - now }) end
  fence = math.max(fence + 1, math.floor(now * 1000000))
  redis.call('HSET', key, '#', string.format('%.0f', fence))
  lease(owner, seconds)
  return answer({ 1, fence, held[owner] and count or count + 1, 0 })
elseif verb == 'renew' then
  local values = {}
  for place = 4, #ARGV do
    values[place - 3] = held[ARGV[place]] and 1 or 0
    if held[ARGV[place]] then lease(ARGV[place], number(3)) end
  end
  return answer(values)
elseif verb == 'release' then
  for place = 3, #ARGV do redis.call('HDEL', key, ARGV[place]) end
  return ''
end
return answer({ count })
"""

# A hash: the fields of the circuit by name, c<bucket>, f<bucket> and s<bucket>, and l<lease> to the end of the lease.
_BREAKER = """
local CLOSED, OPEN, HALF_OPEN, ISOLATED = 0, 1, 2, 3
local state = { state = 0, round = 0, serial = 0, ['until'] = 0, reopened = 0, streak = 0, good = 0, bad = 0 }
local buckets, leases = {}, {}
local fields = redis.call('HGETALL', key)
for place = 1, #fields, 2 do
  local name, value = fields[place], tonumber(fields[place + 1])
  local kind, rest = string.match(name, '^([cfsl])(%d+)$')
  if kind == 'l' then
    leases[tonumber(rest)] = value
  elseif kind then
    local index = tonumber(rest)
    buckets[index] = buckets[index] or { c = 0, f = 0, s = 0 }
    buckets[index][kind] = value
  else
    state[name] = value
  end
end

if state.expires and state.expires <= now then
  state = { state = 0, round = 0, serial = 0, ['until'] = 0, reopened = 0, streak = 0, good = 0, bad = 0 }
  buckets, leases = {}, {}
end

local given = { probe = 4, report = 10, settle = 7 }
local base = given[verb]
local function setting(place) return number(base + place) end
local expires

local function keep(at)
  local window = base and setting(0) * setting(1) or 0
  if state.state == ISOLATED then expires = math.huge else expires = at + 3600 + window end
end
local function enter(new, at)
  state.state = new
  state.round = math.max(state.round + 1, math.floor(at * 1000000))
  leases = {}
  state.good, state.bad, state.streak = 0, 0, 0
  if new == CLOSED then state.reopened = 0 end
  if new ~= HALF_OPEN then buckets = {} end
  keep(at)
end
local function open(at, retry_after, jitter)
  local pause = math.min(setting(6) * 2 ^ math.min(state.reopened, 1000), setting(7)) * jitter
  pause = math.max(pause, math.min(retry_after, setting(7)))
  local reopened = state.reopened + 1
  enter(OPEN, at)
  state['until'], state.reopened = at + pause, reopened
  keep(state['until'])
end
local function probe_failed(at, retry_after, jitter)
  state.bad = state.bad + 1
  if setting(8) - state.bad < setting(9) then open(at, retry_after, jitter) end
end
local function first_lease()
  local first
  for lease in pairs(leases) do
    if not first or lease < first then first = lease end
  end
  return first
end
local function prepare(jitter)
  local oldest = math.floor(now / setting(0)) - setting(1)
  for index in pairs(buckets) do
    if index <= oldest then buckets[index] = nil end
  end
  local lease = first_lease()
  while lease and now >= leases[lease] do
    local expiry = leases[lease]
    leases[lease] = nil
    probe_failed(expiry, 0, jitter)
    lease = first_lease()
  end
end
local function sums()
  local calls, failures, slow = 0, 0, 0
  for _, bucket in pairs(buckets) do
    calls, failures, slow = calls + bucket.c, failures + bucket.f, slow + bucket.s
  end
  return calls, failures, slow
end
local function under_way()
  local count, soonest = 0, math.huge
  for _, expiry in pairs(leases) do
    count = count + 1
    soonest = math.min(soonest, expiry)
  end
  return count, soonest
end
local function save()
  redis.call('DEL', key)
  local values = {}
  local function write()
    if #values > 0 then redis.call('HSET', key, unpack(values)) end
    values = {}
  end
  local function put(name, value)
    values[#values + 1] = name
    values[#values + 1] = string.format('%.17g', value)
    if #values >= 1000 then write() end -- unpack() takes no more than 8000, and a window may have many buckets
  end
  for name, value in pairs(state) do put(name, value) end
  for index, bucket in pairs(buckets) do
    local text = string.format('%.0f', index)
    put('c' .. text, bucket.c)
    put('f' .. text, bucket.f)
    put('s' .. text, bucket.s)
  end
  for lease, expiry in pairs(leases) do put('l' .. string.format('%.0f', lease), expiry) end
  put('expires', expires or state.expires or now)
  write()
  local rest = (expires or state.expires or now) - now
  if rest < math.huge then redis.call('PEXPIRE', key, milliseconds(math.max(rest, 0))) end
end
local function news(first)
  local probes, soonest = under_way()
  local wait = 0
  if state.state == OPEN then
    wait = math.max(0, state['until'] - now)
  elseif state.state == HALF_OPEN and state.good + state.bad + probes >= setting(8) then
    wait = soonest - now
  end
  local calls, failures, slow = sums()
  local values = { state.state, state.round, wait, state.reopened, calls, failures, slow, state.streak, probes }
  if first then table.insert(values, 1, first) end
  if expires or next(fields) then save() end
  return answer(values)
end

if verb == 'report' then
  local round, successes, failures, slow = number(3), number(4), number(5), number(6)
  local trailing, retry_after, jitter = number(7), number(8), number(9)
  prepare(jitter)
  if state.round == 0 then state.round = round end
  if state.state == CLOSED and round == state.round and successes + failures > 0 then
    local index = math.floor(now / setting(0))
    local bucket = buckets[index] or { c = 0, f = 0, s = 0 }
    buckets[index] = bucket
    bucket.c, bucket.f, bucket.s = bucket.c + successes + failures, bucket.f + failures, bucket.s + slow
    state.streak = successes > 0 and trailing or state.streak + failures
    local calls, failed, slowed = sums()
    local enough = calls >= setting(3)
    local slack = 1e-9 * calls
    if (failures > 0 and setting(4) > 0 and state.streak >= setting(4))
      or (failures > 0 and enough and setting(2) > 0 and failed >= setting(2) * calls - slack)
      or (slow > 0 and enough and slowed >= setting(5) * calls - slack) then
      open(now, retry_after, jitter)
    else
      keep(now)
    end
  end
  return news()
elseif verb == 'probe' then
  prepare(number(3))
  if state.state == OPEN and now >= state['until'] then enter(HALF_OPEN, now) end
  local lease = 0
  local probes = under_way()
  if state.state == HALF_OPEN and state.good + state.bad + probes < setting(8) then
    state.serial = math.max(state.serial + 1, math.floor(now * 1000000))
    lease = state.serial
    leases[lease] = now + setting(10)
    keep(now)
  end
  return news(lease)
elseif verb == 'settle' then
  local lease, verdict, retry_after, jitter = number(3), number(4), number(5), number(6)
  prepare(jitter)
  if leases[lease] then
    leases[lease] = nil
    if verdict == 1 then
      state.good = state.good + 1
      if state.good >= setting(9) then enter(CLOSED, now) end
    elseif verdict == 0 then
      probe_failed(now, retry_after, jitter)
    end
  end
  return news()
elseif verb == 'isolate' then
  if state.state ~= ISOLATED then enter(ISOLATED, now) end
  return news()
end
enter(CLOSED, now)
return news()
"""

SCRIPTS = {
    machine: (_BEGIN + body).encode()
    for machine, body in {
        "limiter": _LIMITER,
        "budget": _BUDGET,
        "bulkhead": _BULKHEAD,
        "breaker": _BREAKER,
    }.items()
}
DIGESTS = {machine: hashlib.sha1(script, usedforsecurity=False).hexdigest() for machine, script in SCRIPTS.items()}
