#!/bin/sh
# Trains a grid of runs as a task array of HyperQueue, waits for it, and makes its tables. The
# arguments are those of `modalign experiment`. A server and workers have to be there already
# (hq server start; hq alloc add slurm ..., or hq worker start on each machine):
#
#   PARTS=8 SUBMIT='--resource gpus/nvidia=1 --time-request 1h' \
#     sh examples/hyperqueue.sh plan.toml --out runs/plan
#
#   PARTS      how many tasks share the runs (4): part k of n trains every n-th run from the k-th on
#   MODALIGN   the program, where it is not in PATH
#   CRASHES    how often a task may be running as its worker is lost before it counts as failed (5)
#   TRIES      how often the parts that failed are submitted again (2)
#   SUBMIT     more options of `hq submit`
#
# The plan, the data, the program and --out have to lie where every worker sees them. A part may be
# stopped at any moment: finished runs are left alone, and one that was interrupted goes on from its
# last state to the bytes that it would have come to without. HyperQueue itself starts a task again
# whose worker is lost or at the end of its time; one whose program was killed has failed to it, and
# is submitted again here. A job that is cancelled stays cancelled; the same call goes on from there.
set -eu
modalign=${MODALIGN:-modalign} parts=${PARTS:-4} tries=${TRIES:-2}

case ${1-} in
'' | -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

# A mistake in the plan or the options is better said here than in the log of every part.
"$modalign" experiment "$@" --list >/dev/null
# Tasks have the environment of their worker, whose PATH may be another.
modalign=$(command -v "$modalign")
case $modalign in /*) ;; *) modalign=$PWD/$modalign ;; esac

todo=1-$parts
while :; do
    # The shell makes way for the program, so that what a worker says to a task reaches it: it is told
    # to end, and saves the step that it is at. SUBMIT is several words.
    # shellcheck disable=SC2016,SC2086
    job=$(hq --output-mode=quiet submit --name modalign --array "$todo" \
        --crash-limit "${CRASHES:-5}" ${SUBMIT-} -- \
        sh -c 'parts=$1 && shift && exec "$0" experiment "$@" --shard "$HQ_TASK_ID/$parts"' \
        "$modalign" "$parts" "$@")
    echo "the parts $todo are job $job" >&2
    # Whether all went well is asked below.
    hq job wait "$job" || true
    todo=$(hq --output-mode=cli job task-ids "$job" --filter failed)
    if [ -z "$todo" ] || [ "$tries" -le 0 ]; then break; fi
    tries=$((tries - 1))
done

# Also where a part has failed, as one does of which a run diverged: the tables are of all the others.
"$modalign" experiment "$@" --collect
if [ -n "$todo" ]; then
    echo "error: the parts $todo failed; hq job cat $job stderr shows why" >&2
    exit 1
fi
