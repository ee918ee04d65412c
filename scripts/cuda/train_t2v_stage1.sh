#!/usr/bin/env bash
# Text to video, stage 1 of 3: pictures of 320x320, from nothing, on one GPU or many.
#
#     scripts/cuda/train_t2v_stage1.sh MODELS DATA RUN [OPTION...]
#
# MODELS holds the folders vae and mt5-xxl (docs/migrating.md says how they become safetensors). DATA is an annotation:
# upstream's .txt list, .json, .jsonl, .csv or .parquet. RUN is the folder to write; the same line goes on where a run
# was ended. Any option of `duosora train` may follow and wins: --dry-run, --set batch_size=2 --set accumulate=512.
# NPROC=8 runs on eight devices, with the same result; SEQUENCE=4 lets four of them share a sample: launch.sh tells all.
set -euo pipefail
models=${1:?"give the folder that holds vae and mt5-xxl"}
data=${2:?"give the annotation of the clips"}
run=${3:?"give the folder of the run"}
shift 3

exec "$(dirname "$0")/launch.sh" train \
    --config "$(dirname "$0")/../../configs/train/opensora_plan_v1_3_t2v_stage1.yaml" \
    --backend torch \
    --out "$run" \
    --set compute.device=cuda \
    --set model.text_encoder="$models/mt5-xxl" \
    --set model.vae="$models/vae" \
    --set data.files="[\"$data\"]" \
    "$@"
