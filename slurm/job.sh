# shellcheck shell=bash
# What the batch scripts share: run a step of the job to its end, pass signals on to it, requeue.

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

say() { echo "slurm/job.sh: $*"; }

# newest_checkpoint RUN: prints its name, or nothing.
newest_checkpoint() {
  local files=("$1"/checkpoints/[0-9]*.h5)
  [[ ! -e ${files[-1]} ]] || echo "${files[-1]}"
}

# Puts this job back into the queue, unless SLURM is about to end it (cancelled) or to requeue it (pre-empted, node lost).
requeue() {
  local state
  state=$(squeue --noheader --jobs="$job" --format=%T) || true
  if [[ $state != RUNNING ]]; then
    say "not requeued: the job is ${state:-gone}"
  elif scontrol requeue "$job"; then
    say "requeued"
  else
    say "not requeued: submit the same line again"
  fi
}

# run_step RUN COMMAND...: in the background, because bash handles a signal only while it waits. Whatever comes is passed on as
# SIGUSR1: srun and mpirun hand that to all ranks, whereas they answer SIGTERM by killing them. RUN: the run's folder, or '' where
# only the run itself knows it. Returns the step's exit code.
run_step() {
  local run=$1 before step code caught
  shift
  before=$(newest_checkpoint "$run")
  "$@" &
  step=$!
  # shellcheck disable=SC2064 # the step's number is known now
  trap "caught=yes; say 'signal passed on'; kill -USR1 $step || true" USR1 TERM
  while true; do
    caught=
    wait "$step" && code=0 || code=$?
    [[ -n $caught ]] || break # a trapped signal ends `wait` early
  done
  trap '' USR1 TERM # the step has ended: nothing is left to pass on
  say "the step ended with code $code"
  case $code in
  0 | 2) ;; # complete; usage or config, which no repetition mends
  75) requeue ;;
  *) # a rank or a node was lost, or an error: again only if this launch came any further
    [[ $(newest_checkpoint "$run") == "$before" ]] || requeue
    ;;
  esac
  return "$code"
}
