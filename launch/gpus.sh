#!/usr/bin/env bash
# One machine with one or more GPUs, all used by one process.
#
#   launch/gpus.sh --config configs/dm_adapter.py:cuhk_pedes --workdir runs/dm --config.data_dir=/data/CUHK-PEDES
#   GPUS=0,1 launch/gpus.sh ...
#
# All arguments go to tpr_jax.main. Settings:
#   GPUS=all      which GPUs, by number
#   RESTARTS=3    how often to restart it after a failure; it resumes from the newest checkpoint
#   DRY_RUN=1     print the commands without running them
#
# Needs: an NVIDIA driver, and JAX for GPUs in addition to `make .venv/.installed`:
#   .venv/bin/python -m pip install "jax[cuda12]"
# Costs: the machine; one H100 is enough for any of the recipes. The batch is split over the GPUs;
# --config.mesh.model=2 also splits the weights, for larger backbones.
# Ctrl-C or SIGTERM saves and stops the run; rerun the same command to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

seen=()
if [ "${GPUS:-all}" != all ]; then seen=(env CUDA_VISIBLE_DEVICES="$GPUS"); fi

start_it() { start ${seen[@]+"${seen[@]}"} "$PYTHON" -m tpr_jax.main "$@"; }

until_done start_it "$@"
