#!/bin/sh
# One line on every host of a TPU slice: TPU VMs tell their processes who the others are.
#   ZONE=us-east5-a TPU=kairos RUN=joint_480p WORKDIR=/mnt/runs/joint sh experiments/launch/tpu_vm.sh
# WORKDIR is a folder that all hosts share. The same line continues a run that was interrupted.
set -eu
: "${ZONE:?}" "${TPU:?}" "${RUN:?}" "${WORKDIR:?}"
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd kairos-jax && .venv/bin/kairos train --config=experiments/pods.py:$RUN --workdir=$WORKDIR"
