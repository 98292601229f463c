#!/usr/bin/env bash
# GPU nodes under SLURM: one process per node, which uses all of the node's GPUs.
#
#   NODES=2 GPUS=8 launch/slurm.sh --config configs/dm_adapter.py:cuhk_pedes --workdir /scratch/me/runs/dm \
#       --config.data_dir=/scratch/me/CUHK-PEDES
#
# submits itself with sbatch. All arguments go to tpr_jax.main. Settings:
#   NODES=1  TIME=12:00:00; per node: GPUS=8  CPUS=16  MEMORY=64G
#   SBATCH=       further options of sbatch, such as "--partition=gpu --account=x"
#   RESTARTS=20   how often the job may be requeued
#   DRY_RUN=1     print the commands without running them
#
# Needs: this folder and its .venv with "jax[cuda12]", the data and the workdir on a disk that all nodes can see.
# Costs: NODES x GPUS x hours, as your cluster accounts for them.
# Three minutes before the time limit (or when it is preempted, if the partition gives notice), the run receives
# SIGTERM, saves, and is requeued; it is also requeued when a node fails. `scancel` stops it; rerun the same command
# to resume.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f launch/common.sh ] || cd "${SLURM_SUBMIT_DIR:?}" # sbatch runs a copy of this file from elsewhere
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
export TPR_RUN_TOKEN # srun forwards the environment, which other users cannot read
TPR_RUN_TOKEN=$(run_token)
# A failing process ends the others itself and reports why: srun must not kill them before that.
run srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "$PYTHON" -m tpr_jax.main "$@" || code=$?
if [ -e "$workdir/results.json" ] && [ "$code" = 0 ] || [ "$code" = 2 ] || [ "$code" = 130 ]; then exit "$code"; fi
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-20}" ]; then
    fail "not done after ${SLURM_RESTART_COUNT:-0} restarts: see above; rerun the same command to resume"
fi
# A canceled job is no longer RUNNING; SLURM itself requeues a job whose node failed.
if dry || [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    run scontrol requeue "$SLURM_JOB_ID"
fi
