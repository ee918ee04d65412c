#!/usr/bin/env bash
# A video or a picture through the published WFVAE and back, on one Ascend NPU, with PSNR and SSIM.
#
#     scripts/ascend/reconstruct.sh VAE SOURCE RESULT [OPTION...]
#
# VAE is the folder of that name (docs/migrating.md says how merged.ckpt becomes safetensors), RESULT the .mp4 or .png to write.
# Any option of `duosora reconstruct` may follow and wins: --overwrite, --set every=2, --set dtype=fp16.
# ASCEND_RT_VISIBLE_DEVICES=3 takes another NPU than the first.
set -euo pipefail
vae=${1:?"give the folder of the autoencoder"}
source=${2:?"give the video or picture to reconstruct"}
result=${3:?"give the file to write"}
shift 3

duosora doctor  # driver, CANN and MindSpore, and whether they belong together
exec duosora reconstruct "$source" \
    --config "$(dirname "$0")/../../configs/reconstruct/wfvae.yaml" \
    --out "$result" \
    --backend mindspore \
    --set device=npu \
    --set vae="$vae" \
    "$@"
