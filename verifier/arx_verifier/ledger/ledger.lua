#!lua name=arx2_ledger
-- SPDX-License-Identifier: Apache-2.0
--
-- The budgets of a realm, as functions of the instance that keeps nonces.  SPEC 17.  The model of the tests does the same.
--
-- Keys of a realm R, one hash slot:  arx:budget:{R}:h         hash  run number since whole seen wakes sealed sole replid
--                                    arx:budget:{R}:pools     zset  pool -> last drawn on, ms
--                                    arx:budget:{R}:p:POOL    hash  a pool, in one period:
--      p period   c committed   r reserved   l leased   x topped up   m max   b opened
--      o why it is not lost: `whole` if it was topped up since, HERE - `whole` if its mint registered it, else -1
--      u in the index since
--      r:OP, l:OP  what a reservation or a lease has
--                                    arx:budget:{R}:marks     zset  session -> last marked, ms
--                                    arx:budget:{R}:m:SESSION hash  the marks of a session, SPEC 21:
--      w:OF:MARK, p:OF:MARK  a warning, a proof: `MS TOOL SERVICE` of the call that set it
--      n:SET, d:SET:DIGEST   how many values a set of `distinct` has, and each of them
--      a when a warning was set last
--      o as of a pool, u in the index since, s what a session of this time or earlier set may have been lost before
--
-- The first argument of each function is the beginning that the caller remembers: its number, the run of that server and
-- the MAC of these functions; empty if it remembers none; `new` if no ledger has kept a pool of this realm before.  If
-- it is not the beginning of this ledger, the function does nothing and replies BEGUN with the ledger's.
--
-- A later beginning ends all open pools.  So of a service's caller it counts only with a MAC, which only functions with
-- the same secret can make; of the mint's, which alone may call arx2_register, it always counts, and `new` too.
--
-- `since` is when the ledger began: it knows all draws on a pool that was opened later.  `whole` is the same for the
-- pools that it has, if its server ended cleanly: then it is earlier.  A ledger with `sealed` changes nothing until it
-- is opened, or its new server begins anew.
--
-- In a cluster the keys of a bucket NN begin with arx:budget:{R.NN}:, and its header is `w`: every caller sends WAIT
-- behind a function, and counts as done only what the replicas of the shard have.  So a replica that takes over goes on
-- with the pools; `replid` is the replication that it continues.
--
-- `sole` is the run of a server whose supervisor saw the server before it end, so that no other one gives out pools.
--
-- All amounts are millionths, below 2^53: a double has each of them, and each sum of four, exactly.
--
-- A function runs with the rights of its caller, so a service needs the commands that are below, and could send them
-- alone.  The loader therefore may put a secret into HIDDEN, which is part of each key's name: arx:budget:{R}:SECRETh.
-- A service names the keys without it, and has no command that lists keys or shows this text.

local HIDDEN = ''

local KEEP_MS = 604860000      -- 7 days, and a minute by which the index may be late
local LOST_MS = 604800000
local MARGIN_MS = 60000        -- after another server took over: three clocks, each within 30 s of the time
local QUIET_MS = 30000         -- callers look every 2 s: unseen for this long, a server may have been replaced
local WAKE_MS = 5000           -- then each caller has looked, and has sent what it remembers
local OPEN_MS = 10000          -- what starts a server with sealed data opens them within this time
local UP_MS = 2000             -- how much older than the last look a process must be that was a replica then
local MAX_HELD = 1000          -- open reservations and leases of a pool: each is a field until it is settled
local MAX_WITH_HOLDS = 2000    -- with those that a verifier settles in the decision that made them
local HERE = -2                -- a pool that its mint registered, as `o`
local FIELDS = 9
local AT_ONCE = 10             -- pools, and sessions with marks, that one call forgets
local MOST_AHEAD = 1000        -- of a beginning that a caller of functions without a secret remembers: each can be forged
local MAX_FIELDS = 4096        -- of the marks of a session: a holder can delegate, and each link may have marks

local function int(number)
  return string.format('%.0f', number)
end

-- A library lives as long as the server process, unless a copy of another server's data replaces it: that copy may lack
-- what this process gave out.  A primary that was cut off and is back has its own library, and its own data: that
-- another server took draws meanwhile only its callers know.
local run, born
local function run_id(time)
  if not run then
    born = tonumber(time[1]) * 1000
    run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' .. time[1] .. '.' .. time[2]
  end
  return run
end

local function replication(name)
  return string.match(redis.call('INFO', 'replication'), name .. ':(%x+)')
end

-- Whether this process was a replica of the server that wrote the header, up to that one's end: then it has all that any
-- caller counts as done.  A process that has started since then may have an older file.
local function took_over(header, replid, seen, clock)
  if string.sub(header, -1) ~= 'w' or not replid or replication('master_replid2') ~= replid then
    return false
  end
  local up = tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)') or 0)
  return clock - up * 1000 + UP_MS <= seen
end

local behind = true -- whether more may be forgotten than one call has

-- Forgets what was not used for long, given its index and how its keys begin; returns whether there may be more.
local function forget(index, prefix, now)
  local forgotten = redis.call('ZRANGEBYSCORE', index, '-inf', int(now - KEEP_MS), 'LIMIT', 0, AT_ONCE)
  if #forgotten > 0 then
    for _, name in ipairs(forgotten) do
      redis.call('DEL', prefix .. name)
    end
    redis.call('ZREM', index, unpack(forgotten))
  end
  return #forgotten == AT_ONCE
end

-- The header's key, with the secret, is the last: of a hash with it before them, others could make one of a longer text.
local function mac_of(header, beginning)
  return redis.sha1hex(beginning .. ' ' .. header)
end

-- Returns the number and the run of a beginning that a caller remembers; 0 and nothing if it does not count.
local function believed(header, remembered, number, of_mint)
  local beginning, latest, its_run, mac = string.match(remembered, '^((%d+) ([^ ]+)) ?(.*)$')
  if not latest or #latest > 15 then -- a double has each number of that length, and the one after it
    return 0
  end
  latest = tonumber(latest)
  if of_mint or HIDDEN == '' and latest <= number + MOST_AHEAD or HIDDEN ~= '' and mac == mac_of(header, beginning) then
    return latest, its_run
  end
  return 0
end

-- Compares the history with this server process and with what the caller remembers.  Returns the time, which never goes
-- back, a table of `since` and `whole`, the clock, and for how long nothing is drawn yet; or nothing and the reply: the
-- beginning, if the caller does not know it, or an error.
local function begin(header, index, remembered, of_mint)
  local time = redis.call('TIME')
  local clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local known = redis.call('HMGET', header, 'run', 'since', 'seen', 'number', 'wakes', 'whole', 'sealed', 'replid')
  local since, seen, number = tonumber(known[2]), tonumber(known[3] or 0), tonumber(known[4] or 0)
  local own = run_id(time)
  if known[7] then
    if known[1] == own or clock - born < OPEN_MS then
      return nil, redis.error_reply('SEALED nothing is drawn while its server ends or starts')
    end
    redis.call('HDEL', header, 'sealed') -- no supervisor opens it: a server of an operator has these data
  end
  local now = math.max(clock, seen)
  if not since or known[1] ~= own or string.match(remembered, '^%d+ [^ ]+') ~= (known[4] or '') .. ' ' .. own then
    local latest, its_run = believed(header, remembered, number, of_mint)
    local newer = latest > number or (latest == number and its_run ~= known[1])
    if since and not newer and known[1] ~= own and took_over(header, known[8], seen, clock) then
      number = number + 1
      redis.call('HSET', header, 'run', own, 'number', int(number), 'replid', replication('master_replid'))
    elseif not since or known[1] ~= own or newer then
      -- Without a header the latest time that was seen is lost too, and this clock may be behind.
      -- Later than the one before, also while the time stands still: a pool that was topped up then is lost again.
      since = (not since and of_mint and remembered == 'new') and now or math.max((since or 0) + 1, now + MARGIN_MS)
      number = math.max(number, latest) + 1
      redis.call(
        'HSET', header, 'run', own, 'number', int(number), 'since', int(since), 'seen', int(now), 'wakes', '0',
        'replid', replication('master_replid') or ''
      )
      redis.call('HDEL', header, 'whole')
    end
    local beginning = int(number) .. ' ' .. own
    return nil, {'BEGUN', beginning .. ' ' .. mac_of(header, beginning)}
  end
  local wakes = tonumber(known[5] or 0)
  if now - seen > QUIET_MS then
    wakes = clock + WAKE_MS
    redis.call('HSET', header, 'wakes', int(wakes))
  end
  if behind or now - seen >= 1000 then
    local prefix = string.sub(header, 1, -2)
    local more = forget(index, prefix .. 'p:', now)
    behind = forget(prefix .. 'marks', prefix .. 'm:', now) or more
    redis.call('HSET', header, 'seen', int(now))
    if known[8] and known[8] ~= replication('master_replid') then
      redis.call('HSET', header, 'replid', replication('master_replid') or '')
    end
  end
  local wait = wakes - clock
  local past = {since = since, whole = tonumber(known[6]) or since}
  return now, past, clock, wait <= WAKE_MS and math.max(0, wait) or 0
end

-- A pool in its period: a later one begins anew, an earlier one never comes again.
local COLUMNS = {'p', 'c', 'r', 'l', 'x', 'o', 'u', 'm', 'b'}
local function read(key, max, period_ms, opened, now, past)
  local period = period_ms > 0 and math.floor(now / period_ms) or 0
  local had = redis.call('HMGET', key, 'p', 'c', 'r', 'l', 'x', 'o', 'u', 'm', 'b')
  for place = 1, #COLUMNS do
    had[place] = tonumber(had[place])
  end
  local p, c, r, l, x, o, u, m, b = unpack(had, 1, #COLUMNS)
  local pool = {key = key, max = math.max(max, m or 0), period = period, known = p ~= nil, b = b or opened, had = had}
  if p and p >= period then
    pool.period, pool.c, pool.r, pool.l, pool.x, pool.o, pool.u, pool.used = p, c, r, l, x, o, u, c + r + l
  else
    pool.anew, pool.c, pool.r, pool.l, pool.x, pool.o, pool.u, pool.used = p ~= nil, 0, 0, 0, 0, -1, 0, 0
    -- No other ledger gave out the later period either, unless this one has ended since.
    if o == HERE - past.whole and past.whole == past.since then
      pool.o = o
    end
  end
  local from = math.max(opened, pool.period * period_ms)
  if from <= (pool.known and not pool.anew and past.whole or past.since) then
    pool.lost = pool.o ~= past.whole and pool.o ~= HERE - past.whole
  else
    pool.lost = not pool.known and from <= now - LOST_MS
  end
  if pool.lost then
    pool.left = 0
  else
    pool.left = (pool.o >= 0 and pool.x or max + pool.x) - pool.used
  end
  return pool
end

-- Adds a field and its value to what is written.
local function put(changes, name, value)
  changes[#changes + 1] = name
  changes[#changes + 1] = value
end

-- Writes what changed: most draws change one field.
local function write(index, pool, now)
  if pool.anew then
    redis.call('DEL', pool.key)
    pool.anew, pool.had = false, {}
  end
  if now - pool.u >= 60000 then
    pool.u = now
    redis.call('ZADD', index, int(now), string.match(pool.key, '}:' .. HIDDEN .. 'p:(.*)$'))
  end
  local has, changed = {pool.period, pool.c, pool.r, pool.l, pool.x, pool.o, pool.u, pool.max, pool.b}, {}
  for place, column in ipairs(COLUMNS) do
    if has[place] ~= pool.had[place] then
      put(changed, column, int(has[place]))
    end
  end
  if #changed > 0 then
    redis.call('HSET', pool.key, unpack(changed))
  end
end

-- Whether what a session has set before may have been lost.
local function is_lost(key, opened, now, past)
  local known = redis.call('HMGET', key, 's', 'o')
  -- A mark that is set after a loss does not undo it: what was set before is still not known.
  local since = known[1] and math.max(past.whole, tonumber(known[1])) or math.max(past.since, now - LOST_MS)
  return opened <= since and tonumber(known[2] or -1) ~= HERE - past.whole
end

-- The marks of a session that these fields have.
local function set_in(key, fields)
  local found = {}
  for _, value in ipairs(redis.call('HMGET', key, unpack(fields))) do
    found[#found + 1] = value or nil
  end
  return found
end

-- Whether the approver of a call was shown all of these settings of a mark.
local function were_shown(values, times)
  local shown = {}
  for _, at in ipairs(times or {}) do
    shown[int(at)] = true
  end
  for _, value in ipairs(values) do
    if not shown[string.match(value, '^%d+')] then
      return false
    end
  end
  return true
end

-- Judges a question about marks, as of ``MarkQuestion`` from `opened` on.  Returns the fields to write, names and values
-- by turns; or nothing and the reply.  `beside` is for how long another server may answer as well, in ms.
local function judge(key, question, now, past, beside)
  local opened, at, by, after, only_after, distinct, sets, approved = unpack(question)
  if opened > now + MARGIN_MS then -- its mint's clock is ahead: a loss up to then would not count
    return nil, {'MARK', 'early', 0}
  end
  local lost, unapproved = is_lost(key, opened, now, past), nil
  for index, marks in ipairs(after) do
    local shown = approved and approved[index - #after + #approved]
    local found, counts = {}, shown and not lost -- no approver was shown what may be lost
    for place, fields in ipairs(marks) do
      local values = set_in(key, fields)
      found[place] = (lost and shown and '') or values[1] or (lost and '')
      if not found[place] then
        break
      end
      counts = counts and were_shown(values, shown[place])
    end
    if #marks > 0 and found[#marks] and not counts then
      local reply = {'MARK', 'after', index - 1, unpack(found)}
      if lost or not shown then
        return nil, reply
      end
      unapproved = unapproved or reply
    end
  end
  for index, row in ipairs(only_after) do
    local value = not lost and set_in(key, row[1])[1]
    local set = value and tonumber(string.match(value, '^%d+'))
    if not set or (row[2] > 0 and math.max(now, at) - set >= row[2]) then
      return nil, {'MARK', 'only_after', index - 1, value or nil}
    end
  end
  local changes = {}
  for index, row in ipairs(distinct) do
    local set, most, digests = unpack(row)
    local count, new = tonumber(redis.call('HGET', key, 'n:' .. set) or 0), 0
    for _, digest in ipairs(digests) do
      local field = 'd:' .. set .. ':' .. digest
      if not redis.call('HGET', key, field) then
        new = new + 1
        put(changes, field, '')
      end
    end
    if new > 0 and (lost or count + new > most) then
      return nil, {'MARK', 'distinct', index - 1}
    end
    if new > 0 then
      put(changes, 'n:' .. set, int(count + new))
    end
  end
  if unapproved then -- last: a call that is refused for another reason must not ask for approval
    return nil, unapproved
  end
  local last, warned = redis.call('HGET', key, 'a'), nil
  for _, field in ipairs(sets) do
    local kind = string.match(field, '^([wp]):')
    if kind == 'w' and beside > 0 then -- the other server would not see it, and let through what it forbids
      return nil, {'SHORT', 0, -4, beside}
    end
    -- The first call that set a warning; the last one that set a proof, which counts for a time.
    if kind == 'p' or (kind == 'w' and not redis.call('HGET', key, field)) then
      if kind == 'w' then
        -- Also while the clock stands still: an approval counts for the settings of marks that its approver was shown.
        warned = math.max(now, tonumber(last or 0) + 1)
      end
      put(changes, field, int(kind == 'w' and warned or now) .. ' ' .. by)
    end
  end
  if #changes > 0 and redis.call('HLEN', key) - (last and 1 or 0) + #changes / 2 > MAX_FIELDS then
    return nil, {'MARK', 'full', 0}
  end
  if warned then
    put(changes, 'a', int(warned))
  end
  return changes
end

-- The key of a session's marks, if the last key is one.
local function session_of(keys)
  local prefix = string.sub(keys[1], 1, -2) .. 'm:'
  return string.sub(keys[#keys], 1, #prefix) == prefix and keys[#keys] or nil
end

-- Writes fields of a session's marks, and keeps those that it has: a call that sets nothing anew uses them.
local function set_marks(header, key, changes, now, past)
  local used = redis.call('HGET', key, 'u')
  if #changes == 0 and not used then
    return
  end
  if not used then
    put(changes, 's', int(math.max(past.since, now - LOST_MS)))
  end
  if now - tonumber(used or 0) >= 60000 then
    put(changes, 'u', int(now))
    redis.call('ZADD', string.sub(header, 1, -2) .. 'marks', int(now), string.sub(key, #header + 2))
  end
  for first = 1, #changes, 1000 do  -- Lua has room for 8 000 arguments at most
    redis.call('HSET', key, unpack(changes, first, math.min(first + 999, #changes)))
  end
end

-- arx2_take  KEYS h pools pool… [m:SESSION]
--   ARGV beginning draw|reserve|hold|lease op (max period_ms opened cost wanted)… [question]
-- With a session's marks the last argument is a question about them, MessagePack; see `judge`.
-- Reply: MARK, the member, the row's index, and the marks, if a row about marks does not allow it.  Else: OK, then of each pool what is left, what was taken, ms to the end of its period or -1;
-- or SHORT, index, remaining (-1 lost, -2 opened in the future, -3 too many open reservations, -4 nothing is drawn
-- yet), wait ms.
local function take(keys, argv)
  local now, past, clock, wait = begin(keys[1], keys[2], argv[1])
  if not now then
    return past
  end
  if wait > 0 then
    return {'SHORT', 0, -4, wait}
  end
  local kind, op, pools, changes = argv[2], argv[3], {}, nil
  local session = session_of(keys)
  if session then
    local beside, reply = 0, nil
    if clock < past.whole and redis.call('HGET', keys[1], 'sole') ~= run then
      beside = past.whole - clock
    end
    changes, reply = judge(session, cmsgpack.unpack(argv[#keys * 5 - 11]), now, past, beside)
    if reply then
      return reply
    end
  end
  local most_held = kind == 'hold' and MAX_WITH_HOLDS or MAX_HELD
  for index = 1, #keys - (session and 3 or 2) do
    local at = index * 5 - 1
    local opened, cost = tonumber(argv[at + 2]), tonumber(argv[at + 3])
    if opened > now then
      return {'SHORT', index - 1, -2, opened - now}
    end
    local pool = read(keys[index + 2], tonumber(argv[at]), tonumber(argv[at + 1]), opened, now, past)
    if pool.left < cost then
      if pool.lost then
        local registers = redis.call('HGET', keys[1], 'sole') == run
        return {'SHORT', index - 1, -1, registers and 0 or math.max(0, past.since - clock)}
      end
      return {'SHORT', index - 1, math.max(0, pool.left), 0}
    end
    if kind ~= 'draw' and pool.known and not pool.anew and redis.call('HLEN', pool.key) >= most_held + FIELDS then
      return {'SHORT', index - 1, -3, 0}
    end
    pool.cost, pool.wanted, pool.period_ms = cost, tonumber(argv[at + 4]), tonumber(argv[at + 1])
    pools[index] = pool
  end
  if session then
    set_marks(keys[1], session, changes, now, past)
  end
  local reply = {'OK'}
  for _, pool in ipairs(pools) do
    local amount = pool.cost
    if kind == 'lease' then
      amount = math.min(pool.wanted, math.max(pool.cost, math.floor(pool.left / 4)))
      pool.l = pool.l + amount
    elseif kind == 'draw' then
      pool.c = pool.c + amount
    else
      pool.r = pool.r + amount
    end
    if amount > 0 then
      write(keys[2], pool, now)
      if kind ~= 'draw' then
        redis.call('HSET', pool.key, (kind == 'lease' and 'l:' or 'r:') .. op, int(amount))
      end
    end
    reply[#reply + 1] = pool.left - amount
    reply[#reply + 1] = amount
    reply[#reply + 1] = pool.period_ms > 0 and (pool.period + 1) * pool.period_ms - now or -1
  end
  return reply
end

-- arx2_call  KEYS used h pools pool…   ARGV as arx2_take, then keep_ms
-- Spends a call, and then takes.  The key of the call is among those of the service's used calls, on one server.
-- Reply: USED if it was spent before; else as arx2_take.
local function call(keys, argv)
  if not redis.call('SET', keys[1], '', 'NX', 'PX', argv[#argv]) then
    return {'USED'}
  end
  return take({unpack(keys, 2)}, argv)
end

-- arx2_register  KEYS h pools pool…   ARGV beginning (max period_ms opened)…
-- For the mint alone, before there is a token that names these pools: no server can have drawn from them, also if they
-- were opened before the beginning.  Without pools it only has the ledger compare the mint's beginning with its own.
-- With the marks of a session behind them, these are registered too: it has no token yet.
-- Reply: 1; or 0 if another server may give out pools beside this one.
local function register(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1], true)
  if not now then
    return past
  end
  if redis.call('HGET', keys[1], 'sole') ~= run then
    return 0
  end
  local session = session_of(keys)
  if session and redis.call('HLEN', session) == 0 then
    set_marks(keys[1], session, {'o', int(HERE - past.whole)}, now, past)
  end
  for index = 1, #keys - (session and 3 or 2) do
    local at = index * 3 - 1
    local opened = tonumber(argv[at + 2])
    local pool = read(keys[index + 2], tonumber(argv[at]), tonumber(argv[at + 1]), opened, now, past)
    if pool.lost and not pool.known then
      pool.o = HERE - past.whole
      write(keys[2], pool, now)
    end
  end
  return 1
end

-- arx2_settle  KEYS h pools pool…   ARGV beginning op (max period_ms opened used)…
-- Commits what was used of a reservation or a lease, and gives the rest back.  A repeat finds nothing.
-- Reply: OK; or SHORT, index, remaining: then what was taken is committed whole.
local function settle(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1])
  if not now then
    return past
  end
  local op, pools, short = argv[2], {}, nil
  for index = 1, #keys - 2 do
    local at = index * 4 - 1
    local pool = read(keys[index + 2], tonumber(argv[at]), tonumber(argv[at + 1]), tonumber(argv[at + 2]), now, past)
    local held = {}
    if pool.known and not pool.anew then
      held = redis.call('HMGET', pool.key, 'r:' .. op, 'l:' .. op)
    end
    if held[1] or held[2] then
      pool.field = held[1] and 'r' or 'l'
      pool.taken, pool.spent = tonumber(held[1] or held[2]), tonumber(argv[at + 3])
      pools[#pools + 1] = pool
      if pool.spent - pool.taken > math.max(0, pool.left) and not short then
        short = {'SHORT', index - 1, math.max(0, pool.left)}
      end
    end
  end
  for _, pool in ipairs(pools) do
    pool[pool.field] = pool[pool.field] - pool.taken
    pool.c = pool.c + (short and math.min(pool.spent, pool.taken) or pool.spent)
    redis.call('HDEL', pool.key, pool.field .. ':' .. op)
    write(keys[2], pool, now)
  end
  return short or {'OK'}
end

-- arx2_undo  KEYS h pools pool…   ARGV beginning (max period_ms opened cost)…
-- Gives back a draw of a call that was then refused.
local function undo(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1])
  if not now then
    return past
  end
  for index = 1, #keys - 2 do
    local at = index * 4 - 2
    local pool = read(keys[index + 2], tonumber(argv[at]), tonumber(argv[at + 1]), tonumber(argv[at + 2]), now, past)
    if pool.known and not pool.anew and pool.o < 0 then
      pool.c = math.max(0, pool.c - tonumber(argv[at + 3]))
      write(keys[2], pool, now)
    end
  end
  return {'OK'}
end

-- arx2_top_up  KEYS h pools pool   ARGV beginning period_ms opened amount most
-- `opened` is -1 if the caller does not know it.
-- Reply: what the pool has left; -1 if it would be topped up by more than `most` in all; -2 if it is not known.
local function top_up(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1])
  if not now then
    return past
  end
  local opened, amount = tonumber(argv[3]), tonumber(argv[4])
  if opened < 0 then
    opened = tonumber(redis.call('HGET', keys[3], 'b') or -1)
  end
  local pool = read(keys[3], 0, tonumber(argv[2]), opened, now, past)
  if opened < 0 or not (pool.known or pool.lost) then
    return -2
  end
  if pool.lost then
    -- What it had is not known: it begins with what the operator adds, and nothing else.
    pool.anew, pool.c, pool.r, pool.l, pool.x, pool.o, pool.u, pool.used = pool.known, 0, 0, 0, 0, past.whole, 0, 0
  end
  if pool.x + amount > tonumber(argv[5]) then
    return -1
  end
  pool.x = pool.x + amount
  write(keys[2], pool, now)
  return (pool.o >= 0 and pool.x or pool.max + pool.x) - pool.used
end

-- arx2_marks  KEYS h pools m:SESSION   ARGV beginning opened [mark]
-- For the mint.  Shows the marks of a session; given one, lifts it wherever it is set, unless marks may be lost: then it
-- counts as set all the same.
-- Reply: 1 if marks may be lost, else 0; then the fields of these marks, names and values by turns.
local function marks(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1])
  if not now then
    return past
  end
  local lost, all = is_lost(keys[3], tonumber(argv[2]), now, past), redis.call('HGETALL', keys[3])
  local reply = {lost and 1 or 0}
  for at = 1, #all, 2 do
    local name = string.match(all[at], '^[wp]:[^:]*:(.*)$')
    if name and (not argv[3] or name == argv[3]) then
      reply[#reply + 1] = all[at]
      reply[#reply + 1] = all[at + 1]
      if argv[3] and not lost then
        redis.call('HDEL', keys[3], all[at])
      end
    end
  end
  return reply
end

-- arx2_ledger  KEYS h pools   ARGV beginning
-- Reply: the time, ms since the Unix epoch; the time before which pools may be lost, and that for pools that it has.
local function ledger(keys, argv)
  local now, past = begin(keys[1], keys[2], argv[1])
  return now and {now, past.since, past.whole} or past
end

-- arx2_seal  KEYS h pools   ARGV seal
-- Before its server ends: from here on nothing changes, so that data with the seal have every draw.
-- Reply: 1; or 0 if this process has not begun, there is a seal, or there is nothing to keep.
local function seal(keys, argv)
  local time = redis.call('TIME')
  local known = redis.call('HMGET', keys[1], 'run', 'sealed', 'seen')
  local kept = redis.call('ZCARD', keys[2]) + redis.call('ZCARD', string.sub(keys[1], 1, -2) .. 'marks')
  if known[1] ~= run_id(time) or known[2] or kept == 0 then
    return 0
  end
  local clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call('HSET', keys[1], 'sealed', argv[1], 'seen', int(math.max(clock, tonumber(known[3] or 0))))
  return 1
end

-- arx2_open  KEYS h pools   ARGV seal
-- After its server started, and only if the one before has ended: a ledger with this seal begins anew, but for the
-- pools that it has.  `seal` is empty if the caller has none: then the first call begins it anew for all pools, as
-- another process.
local function open(keys, argv)
  local time = redis.call('TIME')
  local known = redis.call('HMGET', keys[1], 'sealed', 'number', 'since', 'whole', 'seen')
  redis.call('HSET', keys[1], 'sole', run_id(time))
  if not known[1] then
    return 0
  end
  redis.call('HDEL', keys[1], 'sealed')
  if known[1] ~= argv[1] then
    return 0
  end
  local clock = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local since = math.max(tonumber(known[3]) + 1, math.max(clock, tonumber(known[5])) + MARGIN_MS)
  redis.call(
    'HSET', keys[1], 'run', run_id(time), 'number', int(tonumber(known[2]) + 1), 'since', int(since),
    'whole', known[4] or known[3]
  )
  return 1
end

-- arx2_names  KEYS h
-- For the mint, which reads the keys themselves.  Reply: the secret in their names; empty if there is none.
local function names()
  return HIDDEN
end

-- Returns a function for callers, who name the keys without the secret.  Each key has its place: with a pool as the
-- header, or another realm's index, a caller could have a function change what the function is not for.
local function on_hidden(work)
  return function(keys, argv)
    local prefix, kind = string.match(keys[1] or '', '^(arx:budget:{[^{}]+}:)([hw])$')
    if not prefix or keys[2] ~= prefix .. 'pools' then
      return redis.error_reply('KEYS expected the header and the index of one realm')
    end
    local hidden = {prefix .. HIDDEN .. kind, prefix .. HIDDEN .. 'pools'}
    for at = 3, #keys do
      local part = string.sub(keys[at], #prefix + 1, #prefix + 2)
      if string.sub(keys[at], 1, #prefix) ~= prefix or (part ~= 'p:' and (part ~= 'm:' or at < #keys)) then
        return redis.error_reply('KEYS expected pools of one realm, and behind them the marks of a session')
      end
      hidden[at] = prefix .. HIDDEN .. string.sub(keys[at], #prefix + 1)
    end
    return work(hidden, argv)
  end
end
take = on_hidden(take)

redis.register_function('arx2_take', take)
redis.register_function('arx2_call', call)
redis.register_function('arx2_register', on_hidden(register))
redis.register_function('arx2_ledger', on_hidden(ledger))
redis.register_function('arx2_top_up', on_hidden(top_up))
redis.register_function('arx2_marks', on_hidden(marks))
redis.register_function('arx2_open', on_hidden(open))
redis.register_function('arx2_names', names)
-- These give back, or end: also when memory is full.
redis.register_function{function_name = 'arx2_seal', callback = on_hidden(seal), flags = {'allow-oom'}}
redis.register_function{function_name = 'arx2_settle', callback = on_hidden(settle), flags = {'allow-oom'}}
redis.register_function{function_name = 'arx2_undo', callback = on_hidden(undo), flags = {'allow-oom'}}
