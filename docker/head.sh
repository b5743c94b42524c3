#!/usr/bin/env bash
# Starts the head of the cluster and runs the study on it once all nodes are there; ends the head with the study.
#   NUM_NODES      nodes to wait for, the head among them (default 1)
#   STUDY_OPTIONS  options of experiments/run_grid.py, as a shell reads them
#   RAY_OPTIONS    further options of `ray start`, such as --num-cpus 4
set -euo pipefail
cd "$(dirname "$0")/.."
port="${RAY_PORT:-6379}"
export RAY_ADDRESS="127.0.0.1:$port"
# Ray's own ports are open to the other nodes, and ask for the token.
dashboard="${DASHBOARD_HOST:-127.0.0.1}"
[ "$dashboard" = 127.0.0.1 ] || echo "The dashboard, port 8265, listens on $dashboard: who reaches it needs the token." >&2
eval "options=(${STUDY_OPTIONS:-})"
ray start --head --port "$port" --dashboard-host "$dashboard" --disable-usage-stats --block ${RAY_OPTIONS:-} &
head=$!
# --block ends the head's own processes with it; `ray stop` would end every Ray on the machine.
trap 'kill "$head" 2> /dev/null; wait "$head" || true' EXIT
python experiments/run_grid.py --address auto --min-nodes "${NUM_NODES:-1}" "${options[@]}" &
driver=$!
# bash as a container's first process passes no signal on by itself: the driver ends in order, and then the head.
trap 'kill -TERM "$driver" 2> /dev/null' TERM INT
trap 'kill -USR1 "$driver" 2> /dev/null' USR1
status=0
while kill -0 "$driver" 2> /dev/null; do
  status=0
  wait "$driver" || status=$?
done
exit "$status"
