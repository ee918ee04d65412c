#!/usr/bin/env bash
# Text to video with the published Open-Sora Plan v1.3 model: 93 frames of 352x640, on one GPU or many.
#
#     scripts/cuda/sample_t2v_93x352x640.sh MODELS PROMPT_OR_FILE... [OPTION...]
#
# MODELS holds the folders any93x640x640, vae and mt5-xxl (docs/migrating.md says how the last two become safetensors).
# PROMPT_OR_FILE is a prompt in quotes, a .txt file with a prompt a line, or a .jsonl file. Any option of `duosora sample`
# may follow and wins: --out FOLDER, --seed 7, --set sampler.steps=50.
# NPROC=8 makes eight samples at a time, NPROC=8 SEQUENCE=8 one that eight devices share: launch.sh tells all of it.
set -euo pipefail
models=${1:?"give the folder that holds any93x640x640, vae and mt5-xxl"}
shift

exec "$(dirname "$0")/launch.sh" sample \
    --config "$(dirname "$0")/../../configs/sample/opensora_plan_v1_3_t2v.yaml" \
    --backend torch \
    --set backend.device=cuda \
    --set model.denoiser="$models/any93x640x640" \
    --set model.text_encoder="$models/mt5-xxl" \
    --set model.vae="$models/vae" \
    "$@"
