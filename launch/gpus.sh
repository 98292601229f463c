#!/usr/bin/env bash
# One machine with one GPU or several: one process drives them all.
#
#   launch/gpus.sh --config configs/dm_adapter.py:cuhk_pedes --workdir runs/dm --config.data_dir=/data/CUHK-PEDES
#   GPUS=0,1 launch/gpus.sh ...
#
# All arguments go to tpr_jax.main. Settings:
#   GPUS=all      which, by their numbers
#   RESTARTS=3    how often it is started again when it is killed; it goes on from the newest checkpoint
#   DRY_RUN=1     only prints the commands
#
# Needs: an NVIDIA driver, and JAX for GPUs beside what `make .venv/.installed` set up:
#   .venv/bin/python -m pip install "jax[cuda12]"
# Costs: what the machine does; one H100 trains any of the recipes. Rows of a batch are split over the GPUs;
# --config.mesh.model=2 splits the weights too, for larger backbones.
# Ctrl-C or SIGTERM saves and ends; the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

seen=()
if [ "${GPUS:-all}" != all ]; then seen=(env CUDA_VISIBLE_DEVICES="$GPUS"); fi

start_it() { start ${seen[@]+"${seen[@]}"} "$PYTHON" -m tpr_jax.main "$@"; }

until_done start_it "$@"
