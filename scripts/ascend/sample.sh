#!/usr/bin/env bash
# Videos from prompts by a configuration of configs/sample, on one Ascend NPU or many.
#
#     scripts/ascend/sample.sh CONFIG MODELS PROMPT_OR_FILE... [OPTION...]
#
# MODELS holds the folders that CONFIG names under models/ (docs/migrating.md says how vae and mt5-xxl become safetensors).
# PROMPT_OR_FILE is a prompt in quotes, a .txt file with a prompt a line, or a .jsonl file, whose lines may name pictures:
# {"prompt": "...", "image": "first.png"}. Any option of `duosora sample` may follow and wins: --out FOLDER, --seed 7,
# --set sampler.steps=50.
# NPROC=8 makes eight samples at a time, NPROC=8 SEQUENCE=8 one that eight devices share: launch.sh tells all of it.
set -euo pipefail
config=${1:?"give a file of configs/sample"}
models=${2:?"give the folder that holds the models"}
shift 2

source "$(dirname "$0")/../models.sh"
mapfile -t folders < <(under "$config" "$models")
exec "$(dirname "$0")/launch.sh" sample \
    --config "$config" \
    --backend mindspore \
    --set backend.device=npu \
    "${folders[@]}" \
    "$@"
