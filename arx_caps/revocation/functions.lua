#!lua name=arx1
-- SPDX-License-Identifier: Apache-2.0
--
-- The revocation epoch of a realm, as functions of the store.  SPEC 10.
--
-- Keys of a realm R, one hash slot:  arx:{R}:h    hash   incarnation seq chain low base n
--                                                        lease_ms lease_max_ms lease_until
--                                                        maxttl_ms maxttl_max_ms maxttl_until taken
--                                                        replid node moved lag_ms replicas had_replica
--                                    arx:{R}:k    hash   target -> kill           arx:{R}:f  hash  target -> freeze
--                                    arx:{R}:x    zset   target -> retain until   arx:{R}:log stream  seq-0
--                                    arx:{R}:v    zset   verifier -> last probe  arx:{R}:a  zset  verifier -> applied
--                                    arx:{R}:r    zset   0, relay LF its crowd
--                                    arx:{R}:u    zset   used proof, or used proof and its call -> remember until
--                                    arx:{R}:ch   shard channel                  (v, a and r are volatile)
--
-- No function is flagged no-writes, not even those that mostly read: a replica, a deposed primary and an isolated one
-- still answer reads, and must refuse these.  All but arx1_spend are flagged allow-oom: a full store must still be able
-- to kill.  A script that fails halfway is not rolled back, so the header's seq and n are written last: the counts then
-- do not match, and every probe answers CORRUPT.
--
-- A sequence alone does not identify the entries up to it: a store that lost its tail uses the same numbers again, for
-- other kills.  The chain does: each entry's chain is a hash of the one before and of the entry.  A caller sends its chain
-- with its number.  This guards against accidents; an attacker who can choose the store's data needs no collision.

local SKEW_MS = 30000           -- how far a verifier's clock may be from the store's
local MARGIN_MS = 60000         -- delays between reading a clock and acting on it
local PRUNE = 50                -- expired kills dropped by one bump; more than it adds, so the rest shrinks
local KEEP_LOG = 10000          -- entries a follower may be behind before it must copy the kills
local KEEP_VERIFIERS_MS = 600000 -- verifiers that are silent for longer are forgotten; far above 10 leases
local MOVED_MS = 60000          -- after a failover, how long the deposed primary may still answer; at least lag_ms
local REPLICA_MS = 86400000     -- a replica that is away may be promoted for this time
local MAX_TARGET = 96
local MAX_ENTRIES = 4000         -- 1000 targets, and the taints of what they wrote

local KILLS = {kill = true, ['kill+freeze'] = true}
local FREEZES = {freeze = true, ['kill+freeze'] = true}
local OPS = {kill = true, freeze = true, ['kill+freeze'] = true, thaw = true}
local SHORTER = {['task:'] = true, ['session:'] = true}

local function int(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Followers compute the same from the pushed entries alone.
local function chain_after(chain, seq, op, target)
  return redis.sha1hex(chain .. ' ' .. seq .. ' ' .. op .. ' ' .. target)
end

local function channel(header_key)
  return string.sub(header_key, 1, -2) .. 'ch'
end

-- The registry is volatile, but a rewrite of the append-only file includes it.  It is therefore kept with the run_id of
-- the server process that began it, and with the replication id: a deposed primary that returns does not know the
-- followers that another one had meanwhile.  A library lives as long as the process; a replication id does not.
local run
local function run_id()
  if not run then
    run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  end
  return run
end

-- The replication id, and how many replicas are connected.  Some services filter INFO: without the id two servers look
-- the same, and no function answers; a hidden number of replicas is nil.
local function replication()
  local info = redis.call('INFO', 'replication')
  local id = string.match(info, 'master_replid:(%x+)')
  if not id then
    error({err = 'ERR the server hides master_replid in INFO replication: ARx cannot notice a failover of it'})
  end
  return id, tonumber(string.match(info, 'connected_slaves:(%d+)')), info
end

-- A copy for a backup counts while it is made; a replica that was in step is remembered when it is away.
local function had_replica(header, now, connected, info)
  if connected and connected > 0 and (string.find(info, 'state=online', 1, true) or not string.find(info, 'slave0:', 1, true)) then
    return now
  end
  return header.had_replica
end

-- How many replicas may be promoted, which may lack what only this server has on disk: those connected, or one that was
-- connected within the last day; -1 if the server hides it.
local function replicas_of(header, now, connected)
  if not connected then
    return -1
  elseif connected == 0 and header.had_replica > 0 and now < header.had_replica + REPLICA_MS then
    return 1
  end
  return connected
end

local function registry_since(acks_key, verifiers_key, now, id)
  local mark = '!since:' .. run_id() .. ':' .. id
  local since = redis.call('ZSCORE', acks_key, mark)
  if since then
    return tonumber(since)
  end
  redis.call('ZREMRANGEBYRANK', verifiers_key, 0, -1)
  redis.call('ZREMRANGEBYRANK', acks_key, 0, -1)
  redis.call('ZADD', acks_key, now, mark)
  return now
end

local function lease_of(header, now)
  -- After the lease was lowered, verifiers may still use a longer one until it ends.
  if header.lease_until > now and header.lease_max_ms > header.lease_ms then
    return header.lease_max_ms
  end
  return header.lease_ms
end

local function lag_of(header, now, id)
  -- A deposed primary may still answer probes for this time.
  if header.lag_ms > 0 and header.replid and (header.replid ~= id or now < header.moved + MOVED_MS) then
    return header.lag_ms
  end
  return 0
end

local function keep_of(header, now)
  local ttl = header.maxttl_ms
  if header.maxttl_until > now and header.maxttl_max_ms > ttl then
    ttl = header.maxttl_max_ms
  end
  return ttl + SKEW_MS + MARGIN_MS
end

local FIELDS = {'seq', 'low', 'n', 'lease_ms', 'lease_max_ms', 'lease_until', 'maxttl_ms', 'maxttl_max_ms',
                'maxttl_until', 'taken', 'moved', 'lag_ms', 'had_replica'}

local function read_header(key)
  local values = redis.call('HMGET', key, 'incarnation', 'replid', 'chain', 'base', unpack(FIELDS))
  if not values[1] then
    return nil
  end
  local header = {incarnation = values[1], replid = values[2], chain = values[3] or '-', base = values[4] or '-'}
  for index, name in ipairs(FIELDS) do
    header[name] = tonumber(values[index + 4] or (name == 'taken' and -1 or 0))
  end
  return header
end

-- The chain at a number; nil if the log no longer has it.
local function chain_at(header, log_key, seq)
  if seq == header.seq then
    return header.chain
  elseif seq == header.low then
    return header.base
  elseif seq < header.low or seq > header.seq then
    return nil
  end
  local entry = redis.call('XRANGE', log_key, int(seq) .. '-0', int(seq) .. '-0')[1]
  for index = 1, entry and #entry[2] or 0, 2 do
    if entry[2][index] == 'c' then
      return entry[2][index + 1]
    end
  end
end

local function is_whole(header, kills_key, freezes_key, log_key)
  return redis.call('HLEN', kills_key) + redis.call('HLEN', freezes_key) == header.n
    and redis.call('XLEN', log_key) == header.seq - header.low
end

local NOINIT = {err = 'NOINIT the realm has no header in this store'}
local INCARNATION = {err = 'INCARNATION the store is in another history than the caller'}
local UNATTESTED = {err = 'UNATTESTED the store has changed hands, and the mint has not looked at it yet'}

-- A caller that changes a history must name it: its kill must not end up in a history that it does not know.
local function header_in(key, incarnation)
  local header = read_header(key)
  if not header then
    return nil, NOINIT
  end
  if header.incarnation ~= incarnation then
    return nil, INCARNATION
  end
  return header
end

-- arx1_init  KEYS h f b x log   ARGV incarnation lease_ms maxttl_ms seq
-- Begins a history if there is none.  Freezes found without a header stay: they do not depend on any history.
-- The server that begins a history lacks nothing of it, so it is attested.
-- Reply: incarnation, seq, store ms, lease in force, lag, chain, 1 if it began now.
local function init(keys, argv)
  local now = now_ms()
  local header, id = read_header(keys[1]), replication()
  if header then
    return {header.incarnation, header.seq, now, lease_of(header, now), lag_of(header, now, id), header.chain, 0}
  end
  redis.call('DEL', keys[2], keys[4], keys[5])
  local seq = int(tonumber(argv[4]))
  local chain = chain_after(argv[1], seq, 'rotate', 'realm')
  redis.call('HSET', keys[1], 'incarnation', argv[1], 'seq', seq, 'low', seq, 'n', redis.call('HLEN', keys[3]),
             'lease_ms', argv[2], 'maxttl_ms', argv[3], 'chain', chain, 'base', chain, 'replid', id)
  return {argv[1], tonumber(seq), now, tonumber(argv[2]), 0, chain, 1}
end

local function add_entry(keys, header, op, target, seq, now, by, why, event)
  header.chain = chain_after(header.chain, seq, op, target)
  redis.call('XADD', keys[5], seq .. '-0', 'op', op, 's', target, 't', int(now), 'by', by, 'why', why, 'e', event,
             'c', header.chain)
  if KILLS[op] then
    header.n = header.n + redis.call('HSET', keys[2], target, seq)
  end
  if FREEZES[op] then
    header.n = header.n + redis.call('HSET', keys[3], target, seq)
  elseif op == 'thaw' then
    header.n = header.n - redis.call('HDEL', keys[3], target)
  end
end

local function prune(keys, header, now)
  local expired = redis.call('ZRANGEBYSCORE', keys[4], '-inf', int(now), 'LIMIT', 0, PRUNE)
  if #expired > 0 then
    header.n = header.n - redis.call('HDEL', keys[2], unpack(expired))
    redis.call('ZREM', keys[4], unpack(expired))
  end
  local low = header.seq - KEEP_LOG
  if header.taken >= 0 and header.taken < low then
    low = header.taken -- the mint has not read these yet
  end
  if low > header.low then
    header.base = chain_at(header, keys[5], low) or '-'
    redis.call('XTRIM', keys[5], 'MINID', '=', int(low + 1) .. '-0')
    header.low = low
  end
end

-- `each` gives every target its own operation, so that one step can do different things to different kinds.
local function read_target(op, text)
  if op ~= 'each' then
    return op, text
  end
  local own, target = string.match(text, '^(%S+) (%S+)$')
  return own or '', target or ''
end

-- Uses up the proof of a call, once; the same call may repeat it, because its answer can be lost.  Returns whether the
-- call may go on.
local function use(key, proof, call, until_ms, now)
  local own = proof .. ' ' .. call
  local expired = redis.call('ZRANGEBYSCORE', key, '-inf', int(now), 'LIMIT', 0, PRUNE)
  if #expired > 0 then
    redis.call('ZREM', key, unpack(expired))
  end
  if redis.call('ZSCORE', key, proof) then
    return redis.call('ZSCORE', key, own)
  end
  local keep = int(tonumber(until_ms) + SKEW_MS + MARGIN_MS)
  redis.call('ZADD', key, keep, proof, keep, own)
  return true
end

local USED = {err = 'REPLAYED the proof of this call was used before'}

-- arx1_use  KEYS u   ARGV proof call until
-- Reply: OK.
local function use_alone(keys, argv)
  return use(keys[1], argv[1], argv[2], argv[3], now_ms()) and redis.status_reply('OK') or USED
end

local FIRST = 12                 -- the first target among the arguments of arx1_bump

local function check_bump(header, log_key, argv)
  local seen = tonumber(argv[2])
  if seen > header.seq then
    return {err = 'REGRESSED the store is at ' .. int(header.seq) .. ', the caller has seen ' .. argv[2]}
  end
  if argv[3] ~= '' and argv[3] ~= (chain_at(header, log_key, seen) or argv[3]) then
    return {err = 'REGRESSED number ' .. argv[2] .. ' is not what the caller has seen: the store gave it twice'}
  end
  if #argv < FIRST or #argv >= FIRST + MAX_ENTRIES then
    return {err = 'ERR bump: not 1 to ' .. MAX_ENTRIES .. ' entries'}
  end
  for index = FIRST, #argv do
    local op, target = read_target(argv[4], argv[index])
    if not OPS[op] then
      return {err = 'ERR bump: unknown operation'}
    end
    if #target > MAX_TARGET or not string.match(target, '^[!-~]+$') then
      return {err = 'ERR bump: a target is not 1 to 96 printable characters'}
    end
    if argv[5] ~= '' and not SHORTER[string.match(target, '^%l+:') or ''] then
      return {err = 'ERR bump: only tasks and sessions have an end that is known'}
    end
  end
end

-- arx1_bump  KEYS h f b x log [u]   ARGV incarnation seen chain op until by why event proof call proof_until target...
-- `chain` is that of the number which the caller has seen, or empty.
-- `until`, ms or empty: when the last token of these tasks or sessions expires, if that is sooner than the maximum.
-- `event`: what the mint records of it, or empty.  `proof`, or empty: the proof of the call that asks for it, which is used
-- up here; `call` names that call, so that it can repeat itself.
-- A store that failed over accepts it too: a kill is never refused because the mint has not attested the server yet.
-- Reply: incarnation, seq, store ms, lease in force, lag, chain, replicas that may be promoted or -1.
local function bump(keys, argv)
  local header, elsewhere = header_in(keys[1], argv[1])
  if not header then
    return elsewhere
  end
  local refused = check_bump(header, keys[5], argv)
  if refused then
    return refused
  end
  local now = now_ms()
  if argv[9] ~= '' and not use(keys[6], argv[9], argv[10], argv[11], now) then
    return USED
  end
  local retain = now + keep_of(header, now)
  if argv[5] ~= '' then
    retain = math.min(retain, math.max(now, tonumber(argv[5])) + SKEW_MS + MARGIN_MS)
  end
  local first = header.seq + 1
  for index = FIRST, #argv do
    local op, target = read_target(argv[4], argv[index])
    header.seq = header.seq + 1
    add_entry(keys, header, op, target, int(header.seq), now, argv[6], argv[7], argv[8])
    if KILLS[op] then
      redis.call('ZADD', keys[4], 'GT', int(retain), target)
    end
  end
  prune(keys, header, now)
  local id, connected, info = replication()
  redis.call('HSET', keys[1], 'seq', int(header.seq), 'low', int(header.low), 'n', int(header.n),
             'chain', header.chain, 'base', header.base)
  local had = had_replica(header, now, connected, info)
  if had ~= header.had_replica then
    redis.call('HSET', keys[1], 'had_replica', int(had))
  end
  for index = FIRST, #argv do
    local op, target = read_target(argv[4], argv[index])
    redis.call('SPUBLISH', channel(keys[1]), header.incarnation .. ' ' .. int(first + index - FIRST) .. ' ' .. op .. ' ' .. target)
  end
  return {header.incarnation, header.seq, now, lease_of(header, now), lag_of(header, now, id), header.chain,
          replicas_of(header, now, connected)}
end

-- Whether a place that claims this history is not in it: the store went back, or used the number for another entry.
local function is_elsewhere(header, log_key, seq, chain)
  local known = chain_at(header, log_key, seq)
  return seq > header.seq or (known and chain ~= '' and known ~= chain)
end

-- arx1_probe  KEYS h f b log v a [r]   ARGV verifier incarnation applied chain limit [counted crowd [ahead chain]]
-- Records the verifier, then answers from the header.  A number of another history does not count as applied, nor one
-- that this store never used or used for another entry: after a rollback it would confirm a kill that reuses it.  A
-- verifier without a chain at its number, or with a number that the log no longer has, must copy the kills.
-- A verifier that names a place which is not in this history gets a member `!ahead:` with a score of -2 - number: the
-- mint looks for these, because they show that the store has lost acknowledged entries.
-- A relay also reports its crowd, the number that all of it have applied, which is recorded, and the highest place that
-- one of them names and the relay does not have.
-- Reply: incarnation, seq, store ms, lease_ms, status, keep ms, chain, number of askers, entries after `applied`.
local function probe(keys, argv)
  local header = read_header(keys[1])
  if not header then
    return NOINIT
  end
  local id = replication()
  local now, applied = now_ms(), tonumber(argv[3])
  local counted = tonumber(argv[6] or argv[3])
  local same = argv[2] == header.incarnation
  local known = same and chain_at(header, keys[4], applied)
  redis.set_repl(redis.REPL_NONE)
  registry_since(keys[6], keys[5], now, id)
  for index = 3, same and 8 or 0, 5 do -- its own place, and that of one behind it
    local seq = tonumber(argv[index])
    if seq and is_elsewhere(header, keys[4], seq, argv[index + 1]) then
      redis.call('ZADD', keys[6], int(-2 - seq), '!ahead:' .. argv[1])
    end
  end
  -- Another server, or this one after a restart, may lack kills that were acknowledged: it grants no lease before a mint
  -- attests it.  The mint compares it with the places recorded above, among others.
  if header.replid ~= id then
    return UNATTESTED
  end
  redis.call('ZADD', keys[5], int(now), argv[1])
  redis.call('ZADD', keys[6], known == argv[4] and counted <= header.seq and int(counted) or '-1', argv[1])
  if keys[7] then
    redis.call('ZREMRANGEBYLEX', keys[7], '[' .. argv[1] .. '\n', '(' .. argv[1] .. '\v')
    redis.call('ZADD', keys[7], '0', argv[1] .. '\n' .. argv[7])
  end
  local status, entries = 'OK', {}
  if not is_whole(header, keys[2], keys[3], keys[4]) then
    status = 'CORRUPT'
  elseif same and applied > header.seq then
    status = 'REGRESSED'
  elseif not known or argv[4] == '' then
    status = 'RESYNC'
  elseif known ~= argv[4] then
    status = 'REGRESSED'
  elseif applied < header.seq then
    entries = redis.call('XRANGE', keys[4], int(applied + 1) .. '-0', '+', 'COUNT', argv[5])
  end
  local askers = redis.call('ZCARD', keys[5])
  return {header.incarnation, header.seq, now, header.lease_ms, status, keep_of(header, now), header.chain, askers, entries}
end

-- arx1_copy  KEYS f or b   ARGV cursor count
-- A page of kills or freezes as one string, which a client splits far faster than it parses thousands of answers.
-- Reply: next cursor, target and sequence in turn, a space between.
local function copy(keys, argv)
  local page = redis.call('HSCAN', keys[1], argv[1], 'COUNT', argv[2])
  return {page[1], table.concat(page[2], ' ')}
end

-- arx1_leave  KEYS v a   ARGV verifier
-- A verifier that has given up its lease is not waited for.
local function leave(keys, argv)
  redis.set_repl(redis.REPL_NONE)
  redis.call('ZREM', keys[2], argv[1])
  return redis.call('ZREM', keys[1], argv[1])
end

-- arx1_spend  KEYS used call   ARGV keep_ms
-- Remembers a used call of a service.  It is replicated but not written to the file, so that no call waits for the disk:
-- after a restart, verifiers refuse every call that was issued before.
-- Reply: OK, or nil if the call was used before.
local function spend(keys, argv)
  redis.set_repl(redis.REPL_REPLICA)
  return redis.call('SET', keys[1], '', 'NX', 'PX', argv[1])
end

-- arx1_unacked  KEYS v a r   ARGV seq since_ms
-- Reply: store ms, registry since ms, how many have probed since, then id, last probe ms, applied of each that has not
-- applied seq; and id, applied, crowd of each relay.
local function unacked(keys, argv)
  local now = now_ms()
  redis.set_repl(redis.REPL_NONE)
  local since = registry_since(keys[2], keys[1], now, (replication()))
  local gone = redis.call('ZRANGEBYSCORE', keys[1], '-inf', int(now - KEEP_VERIFIERS_MS), 'LIMIT', 0, PRUNE)
  if #gone > 0 then
    redis.call('ZREM', keys[1], unpack(gone))
    redis.call('ZREM', keys[2], unpack(gone))
  end
  local seen = redis.call('ZRANGEBYSCORE', keys[1], argv[2], '+inf', 'WITHSCORES')
  local wanted, missing = tonumber(argv[1]), {}
  for index = 1, #seen, 2 do
    local applied = tonumber(redis.call('ZSCORE', keys[2], seen[index]) or -1)
    -- A verifier that watches lets calls go on: it never counts as one that has confirmed.
    if applied < wanted or string.find(seen[index], '~watch-', 1, true) then
      missing[#missing + 1] = {seen[index], tonumber(seen[index + 1]), applied}
    end
  end
  local relays = {}
  for _, member in ipairs(keys[3] and redis.call('ZRANGE', keys[3], 0, -1) or {}) do
    local id, crowd = string.match(member, '^([^\n]*)\n(.*)$')
    local last = redis.call('ZSCORE', keys[1], id)
    if not last then
      redis.call('ZREM', keys[3], member)
    elseif tonumber(last) >= tonumber(argv[2]) then
      relays[#relays + 1] = {id, tonumber(redis.call('ZSCORE', keys[2], id) or -1), crowd}
    end
  end
  return {now, since, #seen / 2, missing, relays}
end

-- arx1_rotate  KEYS h f b x log v a   ARGV incarnation_expected incarnation seq_at_least lease_ms maxttl_ms
-- Ends the history: every token born in it is revoked.  The sequence continues, freezes stay.  Zero keeps a setting.
-- The registry begins anew: a confirmation of the old history is none of this one.
-- Reply: incarnation, seq, store ms, lease in force, lag, chain, replicas that may be promoted or -1.
local function rotate(keys, argv)
  local header, elsewhere = header_in(keys[1], argv[1])
  if not header then
    return elsewhere
  end
  local now, seq = now_ms(), int(math.max(header.seq, tonumber(argv[3])))
  local lease, ttl = tonumber(argv[4]), tonumber(argv[5])
  lease = lease > 0 and lease or header.lease_ms
  ttl = ttl > 0 and ttl or header.maxttl_ms
  local old_lease = lease_of(header, now)
  local old_ttl = keep_of(header, now) - SKEW_MS - MARGIN_MS
  local chain = chain_after(argv[2], seq, 'rotate', 'realm')
  redis.call('DEL', keys[2], keys[4], keys[5], keys[6], keys[7])
  redis.call('HSET', keys[1], 'incarnation', argv[2], 'seq', seq, 'low', seq, 'n', redis.call('HLEN', keys[3]),
             'chain', chain, 'base', chain,
             'lease_ms', int(lease), 'lease_max_ms', int(old_lease), 'lease_until', int(now + old_lease),
             'maxttl_ms', int(ttl), 'maxttl_max_ms', int(old_ttl), 'maxttl_until', int(now + old_ttl))
  if header.taken >= 0 then
    redis.call('HSET', keys[1], 'taken', seq)
  end
  redis.call('SPUBLISH', channel(keys[1]), argv[2] .. ' ' .. seq .. ' rotate realm')
  header.lease_ms, header.lease_max_ms, header.lease_until = lease, old_lease, now + old_lease
  local id, connected = replication()
  return {argv[2], tonumber(seq), now, lease_of(header, now), lag_of(header, now, id), chain,
          replicas_of(header, now, connected)}
end

-- arx1_attest  KEYS h f b log   ARGV incarnation replid node guard lag_ms replicas
-- The mint attests this server, named `node`, which may then grant leases.  No other server may before it was attested; a
-- deposed one still may for `lag_ms`.  `replicas`: how many replicas must have a kill on disk.
-- `guard` is not read: earlier functions guard only with it.
-- Reply: incarnation, seq, store ms, lease in force, lag, chain, OK or CORRUPT.
local function attest(keys, argv)
  local header, elsewhere = header_in(keys[1], argv[1])
  if not header then
    return elsewhere
  end
  local now = now_ms()
  local id, connected, info = replication()
  if argv[2] ~= id then
    return {err = 'UNATTESTED the store has changed hands again'}
  end
  if header.replid and header.replid ~= id then
    header.moved = now
  end
  header.replid, header.lag_ms = id, tonumber(argv[5])
  redis.call('HSET', keys[1], 'replid', id, 'node', argv[3], 'lag_ms', argv[5], 'replicas', argv[6],
             'moved', int(header.moved), 'had_replica', int(had_replica(header, now, connected, info)))
  local status = is_whole(header, keys[2], keys[3], keys[4]) and 'OK' or 'CORRUPT'
  return {header.incarnation, header.seq, now, lease_of(header, now), lag_of(header, now, id), header.chain, status}
end

local flags = {'allow-oom'}
redis.register_function('arx1_spend', spend) -- not when memory is full: kills need the rest
redis.register_function{function_name = 'arx1_init', callback = init, flags = flags}
redis.register_function{function_name = 'arx1_bump', callback = bump, flags = flags}
redis.register_function{function_name = 'arx1_use', callback = use_alone, flags = flags}
redis.register_function{function_name = 'arx1_probe', callback = probe, flags = flags}
redis.register_function{function_name = 'arx1_copy', callback = copy, flags = flags}
redis.register_function{function_name = 'arx1_leave', callback = leave, flags = flags}
redis.register_function{function_name = 'arx1_unacked', callback = unacked, flags = flags}
redis.register_function{function_name = 'arx1_rotate', callback = rotate, flags = flags}
redis.register_function{function_name = 'arx1_attest', callback = attest, flags = flags}
