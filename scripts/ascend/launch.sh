#!/usr/bin/env bash
# duosora on one NPU, on several of this machine, or on several machines by msrun. The other lines of this folder go
# through this one, so all of them take the same variables:
#
#     NPROC=8 scripts/ascend/launch.sh VERB [OPTION...]
#
# NPROC        processes of this machine, one for each NPU; 1 without it
# SEQUENCE     how many of them share the tokens of a sample: 2, 4, 8, ...; without it each works on samples of its own
# NNODES       machines; the same line runs on each, with its NODE_RANK from 0 and the same MASTER_ADDR (the name of
#              machine 0) and MASTER_PORT; on one machine a free port is taken
# LOGS         folder of the logs; only the first rank of a machine speaks on its console
# LEAVE_SECONDS  for saving after SIGTERM or Ctrl-C, 600 without it
# BIND_CORE    whether processes keep to the cores near their NPU, True without it
set -euo pipefail
verb=${1:?"give a verb of duosora: sample, train, doctor"}
shift
: "${NPROC:=1}" "${NNODES:=1}" "${NODE_RANK:=0}" "${MASTER_ADDR:=127.0.0.1}" "${BIND_CORE:=True}"
sharing=()
if [ -n "${SEQUENCE:-}" ]; then sharing=(--set parallel.sequence="$SEQUENCE"); fi

duosora doctor # driver, CANN and MindSpore, and whether they belong together
if [ "$NPROC" = 1 ] && [ "$NNODES" = 1 ]; then
    exec duosora "$verb" "${sharing[@]}" "$@"
fi

source "$(dirname "${BASH_SOURCE[0]}")/../job.sh"
choose_port

failed_log() { # msrun names the process, not its rank
    local pid rank
    pid=$(sed -n 's/.*Worker process \([0-9]*\) exit with exception.*/\1/p' "$LOGS/launcher.log" | head -n 1)
    rank=$(sed -n "s/^$pid //p" "$LOGS/ranks")
    echo "$LOGS/worker_$rank.log"
}

# msrun starts the word python, which must be the interpreter that msrun itself belongs to.
PATH="$(dirname "$(command -v msrun)"):$PATH"
export MS_CPU_COMM_OP_TIMEOUT=${MS_CPU_COMM_OP_TIMEOUT:-1800} # 30 s are little where one rank writes a video
run_job msrun \
    --worker_num=$((NPROC * NNODES)) --local_worker_num="$NPROC" --node_rank="$NODE_RANK" \
    --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" \
    --bind_core="$BIND_CORE" --join=True --cluster_time_out=600 --log_dir="$LOGS" --tail_worker_log=0 \
    python -m duosora "$verb" "${sharing[@]}" "$@"
