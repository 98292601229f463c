# shellcheck shell=bash
# What the scripts of this folder share; each of them reads it with `source`. It runs nothing by itself.

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
children=() # process ids
asked=      # the signal that this script got

dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# The words as one could type them.
quoted() {
    local word line='' quote=\'
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_/:=.,@%+-]*) word=$quote${word//$quote/$quote\\$quote$quote}$quote ;;
        esac
        line+=" $word"
    done
    echo "${line# }"
}

# A secret by which the processes of one run know each other; JAX's own port knows none (docs/several_devices.md).
run_token() { if dry; then echo RANDOM_TOKEN; else od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; fi; }

# Prints a command.
show() { if dry; then quoted "$@"; else echo "+ $(quoted "$@")" >&2; fi; }

# Prints a command and, unless DRY_RUN=1, runs it.
run() {
    show "$@"
    dry || "$@"
}

fail() {
    echo "error: $*" >&2
    exit 2
}

# The --workdir among the arguments of tpr_jax.main.
workdir_of() {
    local found=
    while [ $# -gt 0 ]; do
        case $1 in
            --workdir=*) found=${1#*=} ;;
            --workdir) found=${2-} ;;
        esac
        shift
    done
    [ -n "$found" ] || fail "--workdir is missing: name a folder on the bucket or disk that all machines see"
    echo "$found"
}

# Starts a command beside this script, in a process group of its own: so Ctrl-C reaches the script alone, which
# passes every signal on once. (A second one would end tpr_jax.main at once, unsaved.)
start() {
    show "$@"
    if dry; then return; fi
    set -m
    "$@" &
    set +m
    children+=($!)
}

pass_on() {
    asked=$1
    local child
    for child in ${children[@]+"${children[@]}"}; do kill -"$1" "$child" 2>/dev/null || true; done
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT

# Waits for all that was started; returns 2 where one of them did, else the first exit code that is not 0.
collect() {
    local child code worst=0
    for child in ${children[@]+"${children[@]}"}; do
        while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # a signal ends `wait` early
        code=0
        wait "$child" || code=$?
        if [ "$code" = 2 ] || [ "$worst" = 0 ]; then worst=$code; fi
    done
    return "$worst"
}

# Runs a function that starts processes, again and again until the run is done (0), has a mistake to be mended
# (2), was asked to stop, or has failed once more than RESTARTS times.
until_done() {
    local code tries=0
    while true; do
        children=()
        "$@"
        code=0
        collect || code=$?
        if [ "$code" = 0 ] || [ "$code" = 2 ] || [ -n "$asked" ]; then return "$code"; fi
        tries=$((tries + 1))
        if [ "$tries" -gt "${RESTARTS:-3}" ]; then return "$code"; fi
        echo "ended with exit code $code: starting it again ($tries of ${RESTARTS:-3})" >&2
        sleep 2
        if [ -n "$asked" ]; then return "$code"; fi
    done
}
