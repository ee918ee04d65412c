# What torchrun and msrun leave to be wished for, sourced by launch.sh of both folders: SIGTERM and Ctrl-C reach the ranks,
# which save and leave (torchrun kills them after 30 s, msrun leaves them behind); the end of the failed rank's log is
# shown; no process is left. `duosora launch` does the same without either, on one machine or several.

: "${LEAVE_SECONDS:=600}" # to save and leave in
: "${LOGS:=logs/$(date +%Y%m%d-%H%M%S)}"
if [ "$NNODES" != 1 ]; then LOGS=$LOGS/node_$NODE_RANK; fi # which machines may share

# A port of this machine where nobody listens. Between 20000 and 29999, below those that systems give to clients.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)) && is_taken "$port"; do :; done
    echo "$port"
}

is_taken() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# The port of node 0: MASTER_PORT, which must be free there, or on a single machine any.
choose_port() {
    if [ -z "${MASTER_PORT:-}" ] && [ "$NNODES" = 1 ]; then
        MASTER_PORT=$(free_port)
    elif [ -z "${MASTER_PORT:-}" ]; then
        echo "launch: $NNODES machines: give MASTER_PORT, the same on all of them" >&2
        exit 2
    elif [ "$NODE_RANK" = 0 ] && is_taken "$MASTER_PORT"; then
        echo "launch: port $MASTER_PORT of this machine is in use by another process; give another MASTER_PORT" >&2
        exit 2
    fi
}

# run_job LAUNCHER [WORD...]: start it, wait for it; the exit code is its own. Needs failed_log, which names the log of
# the rank that failed by what the launcher wrote into $LOGS/launcher.log.
run_job() {
    if ! command -v "$1" >/dev/null; then
        echo "launch: $1 is not installed: torchrun comes with the extra torch, msrun with the extra mindspore" >&2
        exit 2
    fi
    mkdir -p "$LOGS"
    rm -f "$LOGS/ranks"
    exec {console}> >(trap '' INT TERM HUP; exec tee "$LOGS/launcher.log")
    local tee=$!
    export DUOSORA_JOB="$$-$RANDOM" # by which its processes are known, however they were started
    setsid "$@" >&"$console" 2>&1 &
    launcher=$!
    exec {console}>&-
    trap 'ask_to_leave TERM' TERM HUP
    trap 'ask_to_leave INT' INT
    trap 'end_all' EXIT
    local lonely=0 registers=
    while kill -0 "$launcher" 2>/dev/null; do
        sleep 1 &
        wait $! || true # a trap runs at once
        note_ranks
        # msrun waits for its scheduler, which takes long to see that the workers are gone; and for workers whose
        # scheduler has left, because those of another machine are gone.
        if has_scheduler; then registers=yes; fi
        if [ -s "$LOGS/ranks" ] && { [ -z "$(ranks)" ] || { [ "$registers" = yes ] && ! has_scheduler; }; }; then
            lonely=$((lonely + 1))
        else
            lonely=0
        fi
        if [ "$lonely" -gt 10 ] && [ -n "$(ranks)" ]; then
            echo "launch: a rank of another machine is gone; $LOGS/scheduler.log says which" >&2
        fi
        if [ "$lonely" -gt 10 ] || [ "$SECONDS" -gt "${leave_until:-$SECONDS}" ]; then end_all; fi
    done
    local code=0 log
    wait "$launcher" || code=$?
    end_all
    wait "$tee" || true # until all is shown and in the file
    if [ "$code" != 0 ] && log=$(failed_log) && [ -f "$log" ]; then
        echo "launch: a rank failed; the end of $log:" >&2
        tail -n 30 "$log" >&2
    fi
    return "$code"
}

# Process ids of the ranks of this machine. msrun's children are also its scheduler, and a tail that shows the first log.
ranks() {
    local pid
    for pid in $(pgrep -P "$launcher"); do
        if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != tail ] &&
            grep -qszE '^(LOCAL_RANK=|MS_ROLE=MS_WORKER)' "/proc/$pid/environ"; then echo "$pid"; fi
    done
}

# Whether msrun has its scheduler, on the first machine.
has_scheduler() {
    local pid
    for pid in $(pgrep -P "$launcher"); do
        if grep -qszx MS_ROLE=MS_SCHED "/proc/$pid/environ"; then return 0; fi
    done
    return 1
}

# "process id, number of the rank" a line, while it can still be known.
note_ranks() {
    local pid
    for pid in $(ranks); do
        grep -qs "^$pid " "$LOGS/ranks" || echo "$pid $(grep -szoE '^(RANK|RANK_ID)=.*' "/proc/$pid/environ" |
            tr -d '\0' | cut -d= -f2)" >>"$LOGS/ranks"
    done
}

ask_to_leave() {
    if [ -n "${leave_until:-}" ]; then return; fi
    leave_until=$((SECONDS + LEAVE_SECONDS))
    echo "launch: SIG$1 came; all ranks are asked to leave" >&2
    # Before there are any, nothing is to be saved.
    kill "-$1" $(ranks) 2>/dev/null || end_all
}

end_all() {
    kill -KILL $(grep -lsxzF "DUOSORA_JOB=$DUOSORA_JOB" /proc/[0-9]*/environ | cut -d/ -f3) 2>/dev/null || true
}
