#!/usr/bin/env bash
# Any line of this folder on several machines by Slurm, on all GPUs of each:
#
#     sbatch --nodes=4 scripts/cuda/slurm.sh scripts/cuda/train.sh CONFIG MODELS DATA RUN [OPTION...]
#
# Ten minutes before its time is up a training run is asked to save and leave; the same line goes on from there. A rank
# that dies ends the job.
#SBATCH --job-name=duosora
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@600
#SBATCH --output=logs/slurm-%j.log
set -euo pipefail
: "${1:?"give a line of this folder and its arguments"}"

export NPROC=$SLURM_GPUS_ON_NODE NNODES=$SLURM_NNODES LEAVE_SECONDS=570
machines=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${machines%%$'\n'*} MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000)) LOGS=logs/slurm-$SLURM_JOB_ID

# One task a machine; each becomes torchrun, which starts the ranks there.
exec srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec "$@"' line "$@"
