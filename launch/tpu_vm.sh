#!/usr/bin/env bash
# Cloud TPU VMs as a queued resource: one host, a slice of many hosts, or several slices.
#
#   export NAME=tpr ZONE=us-west4-a BUCKET=my-bucket TYPE=v5litepod-16
#   launch/tpu_vm.sh keep --config configs/dm_adapter.py:cuhk_pedes --workdir /mnt/tpr/runs/dm \
#       --config.data_dir=/mnt/tpr/tfds --config.source=tfds_sized
#
#   keep ARGS   does all of the following; requests preempted machines again until results.json exists
#   create      requests the machines and waits until they are active
#   setup       installs this commit and its packages, and mounts the bucket (as /mnt/tpr), on every worker
#   run ARGS    starts tpr_jax.main with these arguments on every worker, and returns
#   logs        follows the output of the first worker        status   the state of machines and run
#   stop        saves and stops the run; `run` resumes it     teardown deletes the machines, not the bucket
#
# Settings:
#   NAME, ZONE, BUCKET (without gs://)      PROJECT=   empty: gcloud's default
#   TYPE=v5litepod-16  or v5p-32, v6e-16    SLICES=1   of that type, connected over the network
#   SPOT=1        0: on demand, several times the price, but not preempted
#   RUNTIME=      image of the machines; empty: the image for TYPE
#   DRY_RUN=1     print the commands without running them
#
# Needs: gcloud, logged in; quota for TYPE in ZONE; a bucket there, created once with
#   gcloud storage buckets create gs://my-bucket --location=us-west4 \
#       --uniform-bucket-level-access --enable-hierarchical-namespace
# (the hierarchical namespace makes renaming a folder atomic, which complete checkpoints depend on), and which the
# machines' service account may write (roles/storage.objectUser). `python -m tpr_jax.aot` tells in advance whether
# TYPE is large enough.
# Costs: chips x hours from ACTIVE to teardown, idle or not; prices per chip-hour, on demand and spot:
# cloud.google.com/tpu/pricing. Remember to run teardown.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

ASK=${ASK:-30} # seconds between two queries of the state

TPU=(gcloud compute tpus queued-resources)
where() { # checks the settings of every command; sets `at`
    : "${NAME:?name the machines, NAME=tpr}" "${ZONE:?name the zone, ZONE=us-west4-a}"
    : "${BUCKET:?name the bucket, BUCKET=my-bucket}"
    at=("$NAME" --zone="$ZONE")
    if [ -n "${PROJECT:-}" ]; then at+=(--project="$PROJECT"); fi
}

image() {
    case ${TYPE:=v5litepod-16} in
        v5lite*) echo v2-alpha-tpuv5-lite ;;
        v5p*) echo v2-alpha-tpuv5 ;;
        v6e*) echo v2-alpha-tpuv6e ;;
        *) echo tpu-ubuntu2204-base ;;
    esac
}

on_all() { run "${TPU[@]}" ssh "${at[@]}" --node=all --worker=all --command="$1"; }
on_first() { run "${TPU[@]}" ssh "${at[@]}" --node=0 --worker=0 --command="$1"; }
state() { run "${TPU[@]}" describe "${at[@]}" --format="value(state.state)" 2>/dev/null; }

create() {
    local more=(--node-id="$NAME")
    if [ "${SLICES:-1}" != 1 ]; then more=(--node-count="$SLICES" --node-prefix="$NAME"); fi
    if [ "${SPOT:-1}" = 1 ]; then more+=(--spot); fi
    run "${TPU[@]}" create "${at[@]}" --accelerator-type="${TYPE:-v5litepod-16}" \
        --runtime-version="${RUNTIME:-$(image)}" "${more[@]}"
}

await() {
    local found=
    if dry; then state && return; fi
    while true; do
        found=$(state || true)
        case $found in
            ACTIVE) return ;;
            FAILED | SUSPEND*) fail "$NAME is $found: launch/tpu_vm.sh teardown, then try another ZONE or TYPE" ;;
        esac
        echo "$NAME: ${found:-no answer}" >&2
        sleep "$ASK"
    done
}

setup() {
    local package=/tmp/tpr_jax.tar.gz
    run git archive --format=tar.gz --output="$package" HEAD || return
    run "${TPU[@]}" scp "$package" "$NAME:tpr_jax.tar.gz" "${at[@]:1}" --node=all --worker=all || return
    on_all "mkdir -p tpr_jax && tar -xzf tpr_jax.tar.gz -C tpr_jax && bash tpr_jax/launch/tpu_worker.sh setup $BUCKET"
}

start_run() { on_all "TPR_RUN_TOKEN=$(run_token) bash tpr_jax/launch/tpu_worker.sh run $(quoted "$@")"; }
stop_run() { on_all "bash tpr_jax/launch/tpu_worker.sh stop"; }
teardown() { run "${TPU[@]}" delete "${at[@]}" --force --quiet; }

keep() {
    local workdir found unit started='' refused=0
    workdir=$(workdir_of "$@")
    case $workdir in /mnt/tpr/?*) ;; *) fail "--workdir $workdir must be within /mnt/tpr, where the bucket is mounted" ;; esac
    # Read from the bucket, because the machines may be gone.
    local results=(gcloud storage ls "gs://$BUCKET/${workdir#/mnt/tpr/}/results.json")
    if dry; then
        create && await && setup && start_run "$@"
        on_first "systemctl is-active tpr_jax"
        run "${results[@]}"
        teardown
        return
    fi
    while true; do
        found=$(state || true)
        case $found in
            "") # no machines, or no answer
                create || refused=$((refused + 1))
                if [ "$refused" -gt 4 ]; then fail "$NAME is not available: see above"; fi
                ;;
            ACTIVE)
                unit=$(on_first "systemctl is-active tpr_jax" 2>/dev/null || true)
                case $unit in
                    *inactive* | *failed*)
                        if [ -n "$started" ]; then break; fi
                        if setup && start_run "$@"; then started=yes; fi
                        ;;
                esac
                ;;
            FAILED) fail "$NAME is FAILED: launch/tpu_vm.sh teardown, then try another ZONE or TYPE" ;;
            SUSPENDED)
                echo "$NAME was preempted: requesting it again" >&2
                teardown || true
                started=
                ;;
            *) echo "$NAME: $found" >&2 ;;
        esac
        sleep "$ASK"
    done
    if "${results[@]}" >/dev/null 2>&1; then
        teardown
        return
    fi
    on_first "journalctl --unit=tpr_jax --output=cat --lines=20" || true
    teardown
    fail "the run ended without results.json: see above; rerun the same command to resume"
}

where
case ${1:-} in
    keep) keep "${@:2}" ;;
    create) create && await ;;
    setup) setup ;;
    run)
        workdir_of "${@:2}" >/dev/null
        start_run "${@:2}"
        ;;
    logs) on_first "journalctl --unit=tpr_jax --output=cat --follow" ;;
    status)
        state
        on_all "systemctl is-active tpr_jax" || true
        ;;
    stop) stop_run ;;
    teardown) teardown ;;
    *) fail "'${1:-}' is unknown: choose from keep, create, setup, run, logs, status, stop, teardown" ;;
esac
