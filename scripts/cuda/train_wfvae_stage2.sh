#!/usr/bin/env bash
# WFVAE, stage 2 of 3: clips of 49x256x256 at half their rate, on one GPU or many.
#
#     scripts/cuda/train_wfvae_stage2.sh VIDEOS START RUN [OPTION...]
#
# VIDEOS is a folder of videos, which need no captions. START is the folder of the weights to begin with: model_ema in
# the last checkpoint of stage 1. RUN is the folder to write; the same line goes on where a run was ended. Any option of
# `duosora train` may follow and wins: --dry-run, --set accumulate=4, --set max_steps=100000.
# NPROC=8 runs on eight devices, with the same result: launch.sh tells all of it.
set -euo pipefail
videos=${1:?"give the folder of videos"}
start=${2:?"give the folder of the weights to begin with"}
run=${3:?"give the folder of the run"}
shift 3

exec "$(dirname "$0")/launch.sh" train \
    --config "$(dirname "$0")/../../configs/train/wfvae_stage2.yaml" \
    --backend torch \
    --out "$run" \
    --set compute.device=cuda \
    --set start.weights="$start" \
    --set data.files="[\"$videos\"]" \
    "$@"
