#!/usr/bin/env bash
# One process of a run in a container, for a cluster that starts it again unless it ends with 0.
#
#   launch/once.sh --config configs/dm_adapter.py:cuhk_pedes --workdir /mnt/tpr/runs/dm
#
# All arguments go to tpr_jax.main, which ends with 0 where it was asked to stop (SIGTERM) and saved. Here this
# is 75, "try again", as long as the workdir has no results.json; 2 remains what nobody but you can mend.
# DRY_RUN=1 only prints the command. gke_jobset.yaml uses this.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

workdir=$(workdir_of "$@")
start "$PYTHON" -m tpr_jax.main "$@"
code=0
collect || code=$?
if ! dry && [ "$code" = 0 ] && [ ! -e "$workdir/results.json" ]; then
    echo "stopped before its end: exit code 75, to be started again" >&2
    code=75
fi
exit "$code"
