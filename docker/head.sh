#!/usr/bin/env bash
# Starts the head of the cluster, waits for the other nodes, and runs the study on it.
#   NUM_NODES      nodes to wait for, the head among them (default 1)
#   STUDY_OPTIONS  options of experiments/run_grid.py
#   RAY_OPTIONS    further options of `ray start`, such as --num-cpus 4
set -euo pipefail
cd "$(dirname "$0")/.."
ray start --head --port "${RAY_PORT:-6379}" --dashboard-host "${DASHBOARD_HOST:-127.0.0.1}" --disable-usage-stats ${RAY_OPTIONS:-}
trap 'ray stop --grace-period 10 > /dev/null' EXIT
python docker/wait_for_nodes.py "${NUM_NODES:-1}"
python experiments/run_grid.py --address auto ${STUDY_OPTIONS:-}
