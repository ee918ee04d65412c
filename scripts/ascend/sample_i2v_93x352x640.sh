#!/usr/bin/env bash
# Picture to video with the published Open-Sora Plan v1.3 model: 93 frames of 352x640, on one Ascend NPU or many.
#
#     scripts/ascend/sample_i2v_93x352x640.sh MODELS PROMPTS.jsonl [OPTION...]
#
# MODELS holds the folders any93x640x640_i2v, vae and mt5-xxl (docs/migrating.md says how the last two become safetensors).
# A line of PROMPTS.jsonl is {"prompt": "...", "image": "first.png"}; with "images": ["first.png", "last.png"] the video leads
# from one to the other, with "video": "start.mp4" it goes on. Pictures are cut to the size. Any option of `duosora sample` may
# follow and wins: --out FOLDER, --seed 7, --set sampler.steps=50. ASCEND_RT_VISIBLE_DEVICES=3 takes another NPU than the first.
# NPROC=8 makes eight samples at a time, NPROC=8 SEQUENCE=8 one that eight devices share: launch.sh tells all of it.
set -euo pipefail
models=${1:?"give the folder that holds any93x640x640_i2v, vae and mt5-xxl"}
shift

exec "$(dirname "$0")/launch.sh" sample \
    --config "$(dirname "$0")/../../configs/sample/opensora_plan_v1_3_i2v.yaml" \
    --backend mindspore \
    --set backend.device=npu \
    --set model.denoiser="$models/any93x640x640_i2v" \
    --set model.text_encoder="$models/mt5-xxl" \
    --set model.vae="$models/vae" \
    "$@"
