#!/usr/bin/env bash
# duosora on one GPU, on several of this machine, or on several machines by torchrun. The other lines of this folder go
# through this one, so all of them take the same variables:
#
#     NPROC=8 scripts/cuda/launch.sh VERB [OPTION...]
#
# NPROC        processes of this machine, one for each GPU; 1 without it
# SEQUENCE     how many of them share the tokens of a sample: 2, 4, 8, ...; without it each works on samples of its own
# NNODES       machines; the same line runs on each, with its NODE_RANK from 0 and the same MASTER_ADDR (the name of
#              machine 0) and MASTER_PORT; on one machine a free port is taken
# LOGS         folder of the logs; only rank 0 speaks on the console
# LEAVE_SECONDS  for saving after SIGTERM or Ctrl-C, 600 without it
set -euo pipefail
verb=${1:?"give a verb of duosora: sample, train, doctor"}
shift
: "${NPROC:=1}" "${NNODES:=1}" "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}"
sharing=()
if [ -n "${SEQUENCE:-}" ]; then sharing=(--set parallel.sequence="$SEQUENCE"); fi

if [ "$NPROC" = 1 ] && [ "$NNODES" = 1 ]; then
    exec duosora "$verb" "${sharing[@]}" "$@"
fi

device=
for word in "$@"; do if [[ "$word" == *device=* ]]; then device=${word##*device=}; fi; done
if [ "$device" = cuda ]; then # torchrun would bury in a report of its own what a rank says of it
    gpus=$(python -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null) || gpus=no
    if [ "$gpus" = no ]; then
        echo "launch: torch is not installed here: pip install -e \".[torch]\" in the clone of duosora" >&2
        exit 2
    elif [ "$gpus" -lt "$NPROC" ]; then
        echo "launch: NPROC=$NPROC processes need as many GPUs, and torch sees $gpus on this machine" >&2
        exit 2
    fi
fi

source "$(dirname "${BASH_SOURCE[0]}")/../job.sh"
choose_port

failed_log() { # torchrun reports the first failure as its root cause
    local rank
    rank=$(sed -n '/Root Cause/,$ s/.*local_rank: \([0-9]*\).*/\1/p' "$LOGS/launcher.log" | head -n 1)
    ls -t "$LOGS"/*/attempt_0/"$rank"/stderr.log | head -n 1
}

run_job torchrun \
    --nnodes "$NNODES" --node-rank "$NODE_RANK" --nproc-per-node "$NPROC" \
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
    --log-dir "$LOGS" --tee 3 --local-ranks-filter 0 \
    -m duosora "$verb" "${sharing[@]}" "$@"
