#!/usr/bin/env bash
# A video or a picture through the published WFVAE and back, on one GPU, with PSNR and SSIM.
#
#     scripts/cuda/reconstruct.sh VAE SOURCE RESULT [OPTION...]
#
# VAE is the folder of that name (docs/migrating.md says how merged.ckpt becomes safetensors), RESULT the .mp4 or .png to write.
# Any option of `duosora reconstruct` may follow and wins: --overwrite, --set every=2, --set frames=33.
set -euo pipefail
vae=${1:?"give the folder of the autoencoder"}
source=${2:?"give the video or picture to reconstruct"}
result=${3:?"give the file to write"}
shift 3

exec duosora reconstruct "$source" \
    --config "$(dirname "$0")/../../configs/reconstruct/wfvae.yaml" \
    --out "$result" \
    --backend torch \
    --set device=cuda \
    --set vae="$vae" \
    "$@"
