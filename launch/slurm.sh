#!/usr/bin/env bash
# Nodes with GPUs under SLURM: one process a node, which drives all GPUs of the node.
#
#   NODES=2 GPUS=8 launch/slurm.sh --config configs/dm_adapter.py:cuhk_pedes --workdir /scratch/me/runs/dm \
#       --config.data_dir=/scratch/me/CUHK-PEDES
#
# submits itself by sbatch. All arguments go to tpr_jax.main. Settings:
#   NODES=1  GPUS=8 (a node)  CPUS=16 (a node)  MEMORY=64G (a node)  TIME=12:00:00
#   SBATCH=       more options of sbatch, such as "--partition=gpu --account=x"
#   RESTARTS=20   how often it may go back into the queue
#   DRY_RUN=1     only prints the commands
#
# Needs: this folder and its .venv with "jax[cuda12]", the data and the workdir on a disk that all nodes see.
# Costs: NODES x GPUS x the hours, as your cluster counts them.
# Three minutes before the time is up (or when a job of higher priority comes, if the partition gives notice) the
# run gets SIGTERM, saves, and goes back into the queue; so it does when a node is lost. `scancel` ends it; the
# same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f launch/common.sh ] || cd "${SLURM_SUBMIT_DIR:?}" # sbatch runs a copy of this file, which lies elsewhere
source launch/common.sh

if [ -z "${SLURM_JOB_ID:-}" ]; then
    workdir_of "$@" >/dev/null
    read -ra more <<<"${SBATCH:-}"
    run sbatch --job-name=tpr_jax --nodes="${NODES:-1}" --ntasks-per-node=1 --gpus-per-node="${GPUS:-8}" \
        --cpus-per-task="${CPUS:-16}" --mem="${MEMORY:-64G}" --time="${TIME:-12:00:00}" \
        --signal=TERM@180 --requeue --open-mode=append --output="slurm-%j.out" \
        ${more[@]+"${more[@]}"} launch/slurm.sh "$@"
    exit
fi

workdir=$(workdir_of "$@")
code=0
export TPR_RUN_TOKEN # srun passes the environment on, which other users cannot read
TPR_RUN_TOKEN=$(run_token)
# One that fails ends the others by itself, with its words: srun need not kill them before.
run srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$PYTHON" -m tpr_jax.main "$@" || code=$?
if [ -e "$workdir/results.json" ] && [ "$code" = 0 ] || [ "$code" = 2 ]; then exit "$code"; fi
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-20}" ]; then
    fail "not done after ${SLURM_RESTART_COUNT:-0} restarts: see above; the same command goes on"
fi
# A job that is being cancelled is no longer RUNNING; one whose node is lost goes back into the queue by itself.
if dry || [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    run scontrol requeue "$SLURM_JOB_ID"
fi
