#!/usr/bin/env bash
# Joins the cluster of HEAD_ADDRESS (HOST:PORT), again until the head answers, and stays until the head ends.
set -euo pipefail
: "${HEAD_ADDRESS:?give the head as HOST:PORT}"
for attempt in $(seq 1 "${ATTEMPTS:-60}"); do
  if ray start --address "$HEAD_ADDRESS" --disable-usage-stats ${RAY_OPTIONS:-} --block; then
    exit 0
  fi
  echo "no head at $HEAD_ADDRESS yet (attempt $attempt)" >&2
  sleep 2
done
exit 1
