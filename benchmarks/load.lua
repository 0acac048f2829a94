-- Requests come from a file: headers as "Name: value" separated by \1, a tab, the body (none: a GET). Each is built once and sent
-- in turn.
local ready, position, count = {}, 0, 0

function init(args)
  for line in io.lines(args[1]) do
    local head, body = line:match("^(.-)\t(.*)$")
    local headers = {}
    for name, value in head:gmatch("([^:\1]+): ([^\1]*)") do headers[name] = value end
    count = count + 1
    ready[count] = wrk.format(body == "" and "GET" or "POST", nil, headers, body ~= "" and body or nil)
  end
end

function request()
  position = position % count + 1
  return ready[position]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration_us": %d, "status_errors": %d, "socket_errors": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
