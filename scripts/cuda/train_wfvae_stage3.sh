#!/usr/bin/env bash
# WFVAE, stage 3 of 3: as stage 2, with LPIPS, on one GPU or many.
#
#     scripts/cuda/train_wfvae_stage3.sh VIDEOS START LPIPS RUN [OPTION...]
#
# VIDEOS is a folder of videos, which need no captions. START is the folder of the weights to begin with: model_ema in
# the last checkpoint of stage 2. LPIPS is the folder with the weights of VGG16 and of the LPIPS heads
# (docs/evaluation.md). RUN is the folder to write; the same line goes on where a run was ended. Any option of `duosora
# train` may follow and wins: --dry-run, --set accumulate=4, --set max_steps=100000.
# NPROC=8 runs on eight devices, with the same result: launch.sh tells all of it.
set -euo pipefail
videos=${1:?"give the folder of videos"}
start=${2:?"give the folder of the weights to begin with"}
lpips=${3:?"give the folder of the LPIPS weights"}
run=${4:?"give the folder of the run"}
shift 4

exec "$(dirname "$0")/launch.sh" train \
    --config "$(dirname "$0")/../../configs/train/wfvae_stage3.yaml" \
    --backend torch \
    --out "$run" \
    --set compute.device=cuda \
    --set start.weights="$start" \
    --set autoencoder.perceptual_backbone="$lpips" \
    --set data.files="[\"$videos\"]" \
    "$@"
