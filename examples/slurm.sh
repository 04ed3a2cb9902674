#!/bin/sh
# Trains a grid of runs as an array job of Slurm, and makes its tables in a job that waits for it.
# The arguments are those of `modalign experiment`:
#
#   PARTS=8 SUBMIT='--gres=gpu:1 --time=4:00:00' sh examples/slurm.sh plan.toml --out runs/plan
#
#   PARTS      how many jobs share the runs (4): part k of n trains every n-th run from the k-th on;
#              8%2 has two of eight run at a time
#   SUBMIT     more options of `sbatch` for the parts. What its own environment variables say
#              (SBATCH_PARTITION, SBATCH_ACCOUNT ...) holds for the job of the tables, too, and with
#              SBATCH_WAIT=1 the call returns when the tables are made
#   MODALIGN   the program, where it is not in PATH
#   CRASHES    a part that has started again so often is not queued again when it is killed (5)
#
# The plan, the data, the program and --out have to lie where every node sees them. A part may be
# stopped at any moment: finished runs are left alone, and one that was interrupted goes on from its
# last state to the bytes that it would have come to without. So Slurm may take a node back, by
# preemption, `scontrol requeue` or a failure, and the work may be longer than the time limit (of
# more than five minutes): two minutes before it the program is told to end, saves the step that it
# is at, and its part is queued again. A job that is cancelled stays cancelled; the same call goes on
# from there.
#SBATCH --job-name=modalign
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -eu
modalign=${MODALIGN:-modalign}

case ${1-} in
--part)
    shift
    part=$SLURM_ARRAY_TASK_ID status=0
    # A step of its own, since it is steps that Slurm tells to end, and not the script. A step asks
    # for its cores anew.
    srun --ntasks=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
        "$modalign" experiment "$@" --shard "$part/$SLURM_ARRAY_TASK_COUNT" || status=$?
    # 143: it was told to end, and has saved. Other signals have killed it: the limit of memory, or a
    # crash, which may come again at the same place. What is below has said what is wrong.
    if [ "$status" -eq 143 ] ||
        { [ "$status" -gt 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${CRASHES:-5}" ]; }; then
        echo "part $part ended with status $status and is queued again" >&2
        # By its number in the array, since the last part's own number names the whole array.
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$part"
    fi
    exit "$status"
    ;;
--tables)
    shift
    exec "$modalign" experiment "$@" --collect
    ;;
'' | -h | --help)
    sed -n '2,/^[^#]/{/^#SBATCH/!s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

# A mistake in the plan or the options is better said here than in the log of every part.
"$modalign" experiment "$@" --list >/dev/null
# SUBMIT is several words.
# shellcheck disable=SC2086
array=$(unset SBATCH_WAIT && sbatch --parsable --array="1-${PARTS:-4}" ${SUBMIT-} "$0" --part "$@")
echo "the parts are job $array, and its tables are made when it has ended:"
# After any end: a part of which one run diverged has failed, and the tables are of all the others.
exec sbatch --dependency="afterany:${array%%;*}" "$0" --tables "$@"
