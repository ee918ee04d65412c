#!/usr/bin/env bash
# A training run by a configuration of configs/train, on one GPU or many.
#
#     scripts/cuda/train.sh CONFIG MODELS DATA RUN [OPTION...]
#
# MODELS holds the folders that CONFIG names under models/ (docs/migrating.md says how vae and mt5-xxl become safetensors,
# docs/evaluation.md the same of lpips). DATA is an annotation (upstream's .txt list, .json, .jsonl, .csv or .parquet) or,
# for an autoencoder, a folder of videos. RUN is the folder to write; the same line goes on where a run was ended. Any
# option of `duosora train` may follow and wins: --dry-run, --set batch_size=2 --set accumulate=512.
# START=FOLDER names other weights to begin with than CONFIG does: model_ema in the last checkpoint of the stage before.
# NPROC=8 runs on eight devices, with the same result; SEQUENCE=4 lets four of them share a sample: launch.sh tells all.
set -euo pipefail
config=${1:?"give a file of configs/train"}
models=${2:?"give the folder that holds the models"}
data=${3:?"give the annotation of the clips, or the folder of the videos"}
run=${4:?"give the folder of the run"}
shift 4

source "$(dirname "$0")/../models.sh"
mapfile -t folders < <(under "$config" "$models")
if [ -n "${START:-}" ]; then folders+=(--set start.weights="$START"); fi
exec "$(dirname "$0")/launch.sh" train \
    --config "$config" \
    --backend torch \
    --out "$run" \
    --set compute.device=cuda \
    --set data.files="[\"$data\"]" \
    "${folders[@]}" \
    "$@"
