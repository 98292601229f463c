#!/usr/bin/env bash
# One run as several processes on this machine: to try what a cluster does.
#
#   PROCESSES=2 DEVICES=4 launch/local.sh --config configs/dm_adapter.py --workdir runs/local
#
# All arguments go to tpr_jax.main. Settings:
#   PROCESSES=2   how many
#   DEVICES=      devices a process pretends to have, on the CPU; empty: what JAX finds
#   PORT=8476     where they meet, with the one after it; another for a second run beside the first
#   RESTARTS=3    how often all are started again when one is lost; they go on from the newest checkpoint
#   DRY_RUN=1     only prints the commands
#
# Needs: `make .venv/.installed`, and a few GB of memory a process. Costs nothing. On the CPU several processes
# are slower than one; a machine with several GPUs is for gpus.sh.
# Ctrl-C or SIGTERM saves and ends; the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

pretend=()
if [ -n "${DEVICES:-}" ]; then
    pretend=(env JAX_PLATFORMS=cpu "XLA_FLAGS=--xla_force_host_platform_device_count=$DEVICES")
fi

export TPR_RUN_TOKEN
TPR_RUN_TOKEN=$(run_token)

start_all() {
    local i count=${PROCESSES:-2}
    for ((i = 0; i < count; i++)); do
        start ${pretend[@]+"${pretend[@]}"} "$PYTHON" -m tpr_jax.main "$@" \
            --coordinator="127.0.0.1:${PORT:-8476}" --num_processes="$count" --process_id="$i"
    done
}

until_done start_all "$@"
