#!/usr/bin/env bash
# A video or a picture through the autoencoder of a configuration and back, on one Ascend NPU, with PSNR and SSIM.
#
#     scripts/ascend/reconstruct.sh CONFIG MODELS SOURCE RESULT [OPTION...]
#
# CONFIG is a file of configs/reconstruct. MODELS holds the folders that it names under models/ (docs/migrating.md says how
# merged.ckpt of vae becomes safetensors). RESULT is the .mp4 or .png to write. Any option of `duosora reconstruct` may
# follow and wins: --overwrite, --set every=2, --set frames=33.
set -euo pipefail
config=${1:?"give a file of configs/reconstruct"}
models=${2:?"give the folder that holds the models"}
source=${3:?"give the video or picture to reconstruct"}
result=${4:?"give the file to write"}
shift 4

source "$(dirname "$0")/../models.sh"
mapfile -t folders < <(under "$config" "$models")
duosora doctor # driver, CANN and MindSpore, and whether they belong together
exec duosora reconstruct "$source" \
    --config "$config" \
    --out "$result" \
    --backend mindspore \
    --set device=npu \
    "${folders[@]}" \
    "$@"
