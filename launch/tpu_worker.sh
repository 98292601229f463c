#!/usr/bin/env bash
# Runs on one TPU VM; tpu_vm.sh calls it on every worker, in the folder of the code.
#
#   tpu_worker.sh setup BUCKET      installs Python 3.11 and the packages, mounts the bucket as /mnt/tpr
#   tpu_worker.sh run ARGS          runs tpr_jax.main with these arguments, as the service tpr_jax
#   tpu_worker.sh stop              sends SIGTERM: the run saves and stops
#
# As a service it outlives the ssh session, receives SIGTERM when the machine is preempted, and is restarted when it
# fails (all workers end when one is lost, and connect again), but not for an error that the user must fix (2).
# DRY_RUN=1 prints the commands without running them. Costs nothing by itself; needs sudo and the internet.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

as_me=(--uid="$(id -u)" --gid="$(id -g)" --setenv=HOME="$HOME")

setup() {
    local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc apt
    apt=https://packages.cloud.google.com/apt
    if dry || ! command -v gcsfuse >/dev/null; then
        run sudo curl -fsSL -o "$key" "$apt/doc/apt-key.gpg"
        run sudo bash -c "echo 'deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs 2>/dev/null || echo jammy) main' >$list"
        run sudo apt-get -qq update
        run sudo apt-get -qq install -y gcsfuse
    fi
    if dry || ! mountpoint -q /mnt/tpr; then
        run sudo mkdir -p /mnt/tpr
        run sudo chown "$(id -u):$(id -g)" /mnt/tpr
        run sudo systemd-run --unit=tpr_bucket --collect "${as_me[@]}" \
            gcsfuse --foreground --implicit-dirs "$1" /mnt/tpr
    fi
    if dry || ! command -v "$HOME/.local/bin/uv" >/dev/null; then
        run bash -c "curl -fsSL https://astral.sh/uv/$(sed -n 's/^uv==//p' requirements-uv.txt)/install.sh | sh"
    fi
    run "$HOME/.local/bin/uv" venv --quiet --allow-existing --python=3.11 .venv
    run "$HOME/.local/bin/uv" pip install --quiet --python=.venv/bin/python -r requirements.lock "jax[tpu]"
}

start_run() {
    if ! dry; then sudo systemctl reset-failed tpr_jax 2>/dev/null || true; fi
    # After the bucket's service: at shutdown the run then saves and ends before the bucket is unmounted.
    run sudo systemd-run --unit=tpr_jax "${as_me[@]}" --working-directory="$PWD" \
        --setenv=TPR_RUN_TOKEN="${TPR_RUN_TOKEN-}" \
        --property=After=tpr_bucket.service --property=TimeoutStopSec=120 --property=LimitMEMLOCK=infinity \
        --property=Restart=on-failure --property=RestartSec=10 --property=RestartPreventExitStatus=2 \
        --property=StartLimitIntervalSec=6h --property=StartLimitBurst=20 \
        "$PWD/.venv/bin/python" -m tpr_jax.main "$@"
}

case ${1:-} in
    setup) setup "${2:?name the bucket}" ;;
    run) start_run "${@:2}" ;;
    stop) run sudo systemctl stop tpr_jax ;;
    *) fail "'${1:-}' is unknown: choose from setup, run, stop" ;;
esac
