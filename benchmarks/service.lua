-- SPDX-License-Identifier: Apache-2.0
-- Sends each request with a one-shot token of its own.  Arguments: the file of tokens, which says first what all of
-- them begin with and then how each one ends; and the file of the body.

local head, tails, body, sent = nil, {}, nil, 0

function init(args)
  local file = assert(io.open(args[1]))
  head = file:read("*l")
  for line in file:lines() do tails[#tails + 1] = line end
  file:close()
  file = assert(io.open(args[2]))
  body = file:read("*a")
  file:close()
end

function request()
  sent = sent + 1
  -- Beyond the last token requests are refused, which is told as an error.
  local headers = {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. head .. (tails[sent] or "")}
  return wrk.format("POST", "/refunds", headers, body)
end

function done(summary, latency, requests)
  local errors = summary.errors
  local bad = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"requests":%d,"us":%d,"bad":%d,"p50_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, bad, latency:percentile(50), latency:percentile(99)))
end
