#!/usr/bin/env bash
# Slurm: one experiment file, unchanged, on several nodes; one process a GPU, which JAX finds out from srun by itself.
#
#   sbatch --nodes 4 launch/slurm.sh experiments/iwae_mnist.py --workdir /shared/runs/vae --passes 8
#
# --workdir is required with several processes: a directory that all nodes see (Lustre, GPFS, NFS), with atomic renames
# and locks.  Submit from the checkout, with its .venv on the same file system.  The first process waits 5 minutes for
# the others and names those that do not come.
#
# Preemption, or 2 minutes before the time limit: Slurm sends SIGTERM, all processes save the same step and exit 75,
# and the job queues again under its number and goes on.  Exit 2, 3 or 4 (bad input, non-finite, damaged) ends it.
#
# One task a GPU, and --gpus-per-node: with --gpus-per-task every task sees one GPU, number 0, while JAX picks the one
# of its SLURM_LOCALID.  For one process a node instead, set JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7.  On CPU nodes
# use --ntasks-per-node 1 --gpus-per-node 0.
#SBATCH --job-name=genjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=genjax-%j.log
set -u

# Not --kill-on-bad-exit: the processes end each other, and the last to leave with 75 must not be killed before it has.
srun --wait=120 .venv/bin/genjax train "$@"
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
