#!/usr/bin/env bash
# WFVAE, stage 1 of 3: clips of 25x256x256 at their own rate, from nothing, on one Ascend NPU or many.
#
#     scripts/ascend/train_wfvae_stage1.sh VIDEOS RUN [OPTION...]
#
# VIDEOS is a folder of videos, which need no captions. RUN is the folder to write; the same line goes on where a run
# was ended. Any option of `duosora train` may follow and wins: --dry-run, --set accumulate=4, --set max_steps=100000.
# NPROC=8 runs on eight devices, with the same result: launch.sh tells all of it.
set -euo pipefail
videos=${1:?"give the folder of videos"}
run=${2:?"give the folder of the run"}
shift 2

exec "$(dirname "$0")/launch.sh" train \
    --config "$(dirname "$0")/../../configs/train/wfvae_stage1.yaml" \
    --backend mindspore \
    --out "$run" \
    --set compute.device=npu \
    --set data.files="[\"$videos\"]" \
    "$@"
