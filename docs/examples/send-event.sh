#!/bin/sh
# Reports the usage of one request with curl. Needs TALLYSTICK_URL, TALLYSTICK_API_KEY and SUBSCRIPTION.
set -eu
id=$(cat /proc/sys/kernel/random/uuid) # of the request: sent twice, it counts once
time=$(date -u +%Y-%m-%dT%H:%M:%SZ)
curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused \
  "$TALLYSTICK_URL/api/v1/events" \
  --header "Authorization: Bearer $TALLYSTICK_API_KEY" \
  --header 'Content-Type: application/cloudevents-batch+json' \
  --data-binary @- <<EVENT
[{
  "specversion": "1.0", "type": "tallystick.usage.v1", "source": "/gateways/curl",
  "id": "$id", "time": "$time", "subject": "$SUBSCRIPTION",
  "data": {"model": "gpt-4o-mini", "provider": "openai", "request_tokens": 812, "response_tokens": 164, "latency_ms": 1240}
}]
EVENT
