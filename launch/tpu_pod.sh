#!/usr/bin/env bash
# Cloud TPU pod slice: one experiment file, unchanged, on all hosts of a slice; JAX finds the hosts by itself.
#
#   TPU=vae ZONE=us-central2-b TYPE=v4-32 VERSION=tpu-ubuntu2204-base NFS=10.0.0.2:/share CODE=https://host/you/genjax \
#     launch/tpu_pod.sh experiments/iwae_mnist.py --passes 8
#
# Runs on your own machine, where gcloud is logged in.  It asks for a spot slice if there is none of that name, installs
# the code on every host, mounts one shared directory (Filestore; a bucket has no atomic renames), and starts the same
# command on all.  The slice is yours, and billed, until you delete it:
#
#   gcloud compute tpus queued-resources delete vae --zone us-central2-b --force
#
# Preemption: on SIGTERM all hosts save the same step and exit 75.  Whether they still could or not, a slice that is
# gone is asked for anew and the run goes on from its last checkpoint; so does one that exited 75 and still stands.
set -euo pipefail
: "${TPU:?name of the slice}" "${ZONE:?}" "${TYPE:?such as v4-32}" "${VERSION:?such as tpu-ubuntu2204-base}"
: "${NFS:?host:/path of a Filestore share}" "${CODE:?where to clone the code from}"
: "${1:?an experiment file, then its options}"
ssh_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "$1"; }
state() { gcloud compute tpus tpu-vm describe "$TPU" --zone "$ZONE" --format 'value(state)' 2>/dev/null || true; }

ask_for_slice() {
  gcloud compute tpus queued-resources delete "$TPU" --zone "$ZONE" --force --quiet 2>/dev/null || true
  gcloud compute tpus queued-resources create "$TPU" --node-id "$TPU" --zone "$ZONE" --spot \
    --accelerator-type "$TYPE" --runtime-version "$VERSION"
  until [ "$(state)" = READY ]; do sleep "${POLL:-30}"; done
}

install="sudo mkdir -p /shared && { mountpoint -q /shared || { sudo apt-get install -y -q nfs-common &&
  sudo mount -t nfs '$NFS' /shared && sudo chmod 1777 /shared; }; } &&
  { [ -d genjax ] || git clone -q '$CODE' genjax; } && cd genjax &&
  python3 -m pip install -q uv && python3 -m uv venv -q --allow-existing --python 3.12 .venv &&
  python3 -m uv pip install -q --python .venv/bin/python -c requirements/lock.txt -e '.[tpu]'"
train="cd genjax && .venv/bin/genjax train $(printf '%q ' "$@") --workdir /shared/runs/$TPU; code=\$?;
  echo \"genjax exit \$code\"; exit \$code"

log=$(mktemp)
while :; do
  if [ "$(state)" != READY ]; then ask_for_slice; fi
  # gcloud returns one code for many hosts, so the hosts say theirs.
  if ssh_all "$install" && ssh_all "$train" 2>&1 | tee "$log"; then exit 0; fi
  if [ "$(state)" = READY ] && ! grep -q 'genjax exit 75' "$log"; then exit 1; fi
  sleep "${POLL:-30}"
done
