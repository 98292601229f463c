#!/usr/bin/env bash
# One run as several processes on this machine, to try out what a cluster does.
#
#   PROCESSES=2 DEVICES=4 launch/local.sh --config configs/dm_adapter.py --workdir runs/local
#
# All arguments go to tpr_jax.main. Settings:
#   PROCESSES=2   number of processes
#   DEVICES=      number of simulated CPU devices per process; empty: the devices that JAX finds
#   PORT=8476     this port and the next one connect the processes; choose another for a second run
#   RESTARTS=3    how often to restart all when one fails; they resume from the newest checkpoint
#   DRY_RUN=1     print the commands without running them
#
# Needs: `make .venv/.installed`, and a few GB of memory per process. Costs nothing. On the CPU, several processes
# are slower than one; for a machine with several GPUs use gpus.sh.
# Ctrl-C or SIGTERM saves and stops the run; rerun the same command to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

simulate=()
if [ -n "${DEVICES:-}" ]; then
    simulate=(env JAX_PLATFORMS=cpu "XLA_FLAGS=--xla_force_host_platform_device_count=$DEVICES")
fi

export TPR_RUN_TOKEN
TPR_RUN_TOKEN=$(run_token)

start_all() {
    local i count=${PROCESSES:-2}
    for ((i = 0; i < count; i++)); do
        start ${simulate[@]+"${simulate[@]}"} "$PYTHON" -m tpr_jax.main "$@" \
            --coordinator="127.0.0.1:${PORT:-8476}" --num_processes="$count" --process_id="$i"
    done
}

until_done start_all "$@"
