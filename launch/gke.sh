#!/usr/bin/env bash
# TPU slices on Google Kubernetes Engine, with JobSet.
#
#   export PROJECT=my-project ZONE=us-west4-a BUCKET=my-bucket IMAGE=us-docker.pkg.dev/my-project/tpr/tpr-jax
#   launch/gke.sh setup && launch/gke.sh image
#   launch/gke.sh run --config configs/dm_adapter.py:cuhk_pedes --workdir /mnt/tpr/runs/dm \
#       --config.data_dir=/mnt/tpr/tfds --config.source=tfds_sized
#
#   setup     creates the cluster, with JobSet, one node pool per slice, and write access to the bucket
#   image     builds IMAGE from this folder and pushes it
#   run ARGS  starts tpr_jax.main with these arguments on every host: gke_jobset.yaml
#   logs      the output of the first host   status   the pods
#   stop      stops the run after it has saved; `run` resumes it
#   teardown  deletes the cluster but not the bucket
#
# Settings:
#   PROJECT, ZONE, BUCKET (without gs://), IMAGE      CLUSTER=tpr      NAME=tpr-jax   the run's name
#   MACHINE=ct5lp-hightpu-4t  TOPOLOGY=4x4  ACCELERATOR=tpu-v5-lite-podslice
#                 for v6e: ct6e-standard-4t and tpu-v6e-slice; for v5p: ct5p-hightpu-4t and tpu-v5p-slice
#   CHIPS=4       per host      SLICES=1     SPOT=1   0: on demand
#   RESTARTS=50   how often the run may be preempted       JOBSET=v0.12.0   release of JobSet
#   DRY_RUN=1     print the commands without running them
#
# Needs: gcloud, kubectl, docker; TPU quota; a bucket as described in tpu_vm.sh; a registry for IMAGE.
# Costs: chips x hours of the node pools from setup to teardown, and the cluster's fee; cloud.google.com/tpu/pricing
# and cloud.google.com/kubernetes-engine/pricing. Remember to run teardown.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

: "${PROJECT:?}" "${ZONE:?}" "${BUCKET:?}" "${IMAGE:?}"
export NAME=${NAME:-tpr-jax} SLICES=${SLICES:-1} CHIPS=${CHIPS:-4} RESTARTS=${RESTARTS:-50} BUCKET IMAGE
export TOPOLOGY=${TOPOLOGY:-4x4} ACCELERATOR=${ACCELERATOR:-tpu-v5-lite-podslice}
export HOSTS=$((${TOPOLOGY//x/*} / CHIPS))
cluster=(--cluster="${CLUSTER:=tpr}" --location="$ZONE" --project="$PROJECT")

setup() {
    local spot=() i number
    if [ "${SPOT:-1}" = 1 ]; then spot=(--spot); fi
    run gcloud container clusters create "$CLUSTER" "${cluster[@]:1}" --release-channel=rapid \
        --machine-type=e2-standard-4 --num-nodes=1 --addons=GcsFuseCsiDriver \
        --workload-pool="$PROJECT.svc.id.goog" --workload-metadata=GKE_METADATA
    for ((i = 0; i < SLICES; i++)); do
        run gcloud container node-pools create "slice-$i" "${cluster[@]}" "${spot[@]}" \
            --machine-type="${MACHINE:-ct5lp-hightpu-4t}" --tpu-topology="$TOPOLOGY" --num-nodes="$HOSTS" \
            --workload-metadata=GKE_METADATA
    done
    run gcloud container clusters get-credentials "$CLUSTER" "${cluster[@]:1}"
    run kubectl apply --server-side \
        --filename="https://github.com/kubernetes-sigs/jobset/releases/download/${JOBSET:-v0.12.0}/manifests.yaml"
    run kubectl create serviceaccount tpr-jax
    number=PROJECT_NUMBER
    if ! dry; then number=$(gcloud projects describe "$PROJECT" --format="value(projectNumber)"); fi
    run gcloud storage buckets add-iam-policy-binding "gs://$BUCKET" --role=roles/storage.objectUser \
        --member="principal://iam.googleapis.com/projects/$number/locations/global/workloadIdentityPools/$PROJECT.svc.id.goog/subject/ns/default/sa/tpr-jax"
}

# JSON is valid YAML, so it quotes the arguments. The pods of a large slice start minutes apart.
manifest() {
    ARGS=$("$PYTHON" -c 'import json, sys; print(json.dumps(sys.argv[1:]))' --peer_timeout=1800 "$@") "$PYTHON" -c '
import os, string, sys
print(string.Template(sys.stdin.read()).safe_substitute(os.environ), end="")' <launch/gke_jobset.yaml
}

start_run() {
    workdir_of "$@" >/dev/null
    export TPR_RUN_TOKEN
    TPR_RUN_TOKEN=$(run_token)
    show kubectl apply --filename=-
    if dry; then manifest "$@"; else manifest "$@" | kubectl apply --filename=-; fi
}

case ${1:-} in
    setup) setup ;;
    image)
        run docker build --file launch/Dockerfile --tag "$IMAGE" .
        run docker push "$IMAGE"
        ;;
    run) start_run "${@:2}" ;;
    logs) run kubectl logs --follow --container=tpr-jax "job/$NAME-slice-0" ;;
    status) run kubectl get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide ;;
    stop) run kubectl delete jobset "$NAME" ;;
    teardown) run gcloud container clusters delete "$CLUSTER" "${cluster[@]:1}" --quiet ;;
    *) fail "'${1:-}' is unknown: choose from setup, image, run, logs, status, stop, teardown" ;;
esac
