#!lua name=arx3_calls
-- SPDX-License-Identifier: Apache-2.0
--
-- Used calls in a cluster, as a function of each primary.  SPEC 8.3.
--
-- Keys of a bucket NN, in one hash slot:  PREFIX{NN}     hash  run since seen
--                                         PREFIX{NN}KEY  a used call, until it is forgotten
--
-- A caller sends WAIT behind the function: a call is accepted only if the replicas of the shard have it.  What a
-- replica could lack all the same was issued before it took over, or soon after by a clock that is ahead: this is
-- refused by the beginning.

local AHEAD_MS = 1000  -- how far a service's clock may be ahead of this one
local BEHIND_MS = 30000 -- and behind: a call is remembered for 60 s longer than it can be repeated
local SINCE_MS = 3000  -- a call is at most 2 s ahead of the service's clock: SPEC 8.3
local SEEN_MS = 1000   -- how much later than `seen`, the latest time of a service, a call may have been accepted

-- A library lives as long as the server process, and no function runs in a replica.
local run
local function run_id(time)
  if not run then
    run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' .. time[1] .. '.' .. time[2]
  end
  return run
end

-- When this process ran a function first since it took over, by its replication id, which each promotion changes: a
-- bucket that is used first later need not begin later.
local reign, reigns_since
local function began(clock)
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or ''
  if id ~= reign or id == '' then
    reign, reigns_since = id, clock
  end
  return math.min(reigns_since, clock)
end

local function int(number)
  return string.format('%.0f', number)
end

-- arx3_spend  KEYS header used   ARGV now_ms keep_ms;  KEYS header
-- Without a key it only begins.
-- Reply: 1 if the call is new, else 0; and the time before which calls may be forgotten, ms since the Unix epoch.
local function spend(keys, argv)
  local time = redis.call('TIME')
  local clock, own = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000), run_id(time)
  local known = redis.call('HMGET', keys[1], 'run', 'since', 'seen')
  local since, seen, now = tonumber(known[2]), tonumber(known[3] or 0), tonumber(argv[1] or 0)
  if not since or known[1] ~= own then
    -- Without a header nothing is known of what was here before this moment.
    since = math.max(since and began(clock) or clock, seen) + SINCE_MS
    redis.call('HSET', keys[1], 'run', own, 'since', int(since), 'seen', int(seen))
  end
  if not keys[2] then
    return {0, since}
  end
  if clock < since then
    return redis.error_reply('BEGUN this server has just taken over: it accepts calls in ' .. int(since - clock) .. ' ms')
  end
  if now > clock + AHEAD_MS or now < clock - BEHIND_MS then
    return redis.error_reply('CLOCK the clock of this service is ' .. int(now - clock) .. ' ms ahead of the server')
  end
  if now - seen >= SEEN_MS then
    redis.call('HSET', keys[1], 'seen', int(now))
  end
  return {redis.call('SET', keys[2], '', 'NX', 'PX', argv[2]) and 1 or 0, since}
end

redis.register_function('arx3_spend', spend)
