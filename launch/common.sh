# shellcheck shell=bash
# Functions that the scripts of this folder share; each reads this file with `source`.

PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
children=() # process ids
asked=      # the signal that this script received

dry() { [ "${DRY_RUN:-0}" = 1 ]; }

# Quotes words for a shell.
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

# Prints a secret shared by the processes of one run; JAX's own port has none (docs/several_devices.md).
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

# Prints the --workdir among the arguments of tpr_jax.main.
workdir_of() {
    local found=
    while [ $# -gt 0 ]; do
        case $1 in
            --workdir=*) found=${1#*=} ;;
            --workdir) found=${2-} ;;
        esac
        shift
    done
    [ -n "$found" ] || fail "--workdir is missing: name a folder on a bucket or disk that all machines can see"
    echo "$found"
}

# Starts a command in the background, in a process group of its own: Ctrl-C then reaches only this script, which
# forwards every signal once. (A second signal would end tpr_jax.main immediately, without saving.)
start() {
    show "$@"
    if dry; then return; fi
    set -m
    "$@" &
    set +m
    children+=($!)
}

forward() {
    asked=$1
    local child
    for child in ${children[@]+"${children[@]}"}; do kill -"$1" "$child" 2>/dev/null || true; done
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# Waits for all started commands; returns 2 if one of them did, else the first nonzero exit code.
collect() {
    local child code worst=0
    for child in ${children[@]+"${children[@]}"}; do
        while kill -0 "$child" 2>/dev/null; do wait "$child" || true; done # a signal ends `wait` early
        code=0
        wait "$child" || code=$?
        # SIGTERM reached Python before its first line: nothing had started, so nothing is lost.
        if [ "$code" = 143 ] && [ "$asked" = TERM ]; then code=0; fi
        if [ "$code" = 2 ] || [ "$worst" = 0 ]; then worst=$code; fi
    done
    return "$worst"
}

# Runs a function that starts processes, and repeats it until the run is done (0), has an error that the user must
# fix (2), was interrupted (130) or asked to stop, or has failed more than RESTARTS times.
until_done() {
    local code tries=0
    while true; do
        children=()
        "$@"
        code=0
        collect || code=$?
        if [ "$code" = 0 ] || [ "$code" = 2 ] || [ "$code" = 130 ] || [ -n "$asked" ]; then return "$code"; fi
        tries=$((tries + 1))
        if [ "$tries" -gt "${RESTARTS:-3}" ]; then return "$code"; fi
        echo "ended with exit code $code: restarting ($tries of ${RESTARTS:-3})" >&2
        sleep 2
        if [ -n "$asked" ]; then return "$code"; fi
    done
}
