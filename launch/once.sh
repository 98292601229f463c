#!/usr/bin/env bash
# One process of a run in a container, for a cluster that restarts it unless it exits with 0.
#
#   launch/once.sh --config configs/dm_adapter.py:cuhk_pedes --workdir /mnt/tpr/runs/dm
#
# All arguments go to tpr_jax.main, which exits with 0 if it was asked to stop (SIGTERM) and has saved. This script
# then exits with 75, "try again", as long as the workdir has no results.json; 2 still means an error to fix.
# DRY_RUN=1 prints the command without running it. gke_jobset.yaml uses this script.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

workdir=$(workdir_of "$@")
start "$PYTHON" -m tpr_jax.main "$@"
code=0
collect || code=$?
if ! dry && [ "$code" = 0 ] && [ ! -e "$workdir/results.json" ]; then
    echo "stopped before the run was done: exit code 75, so that it is restarted" >&2
    code=75
fi
exit "$code"
