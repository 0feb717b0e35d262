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

# Lines of launches.jsonl in a run's folder: flowrank writes one as soon as it has begun.
launches() { wc -l 2>/dev/null <"$1/launches.jsonl" || echo 0; }

# attempt COMMAND...: in the background, because bash handles a signal only while it waits. Whatever comes is passed on as
# SIGUSR1: srun and mpirun hand that to all ranks, whereas they answer SIGTERM by killing them. Returns the step's exit code.
attempt() {
  local step code caught
  "$@" &
  step=$!
  # shellcheck disable=SC2064 # the step's number is known now
  trap "caught=yes; say 'signal passed on'; kill -USR1 $step || true" USR1 TERM
  while true; do
    caught=
    wait "$step" && code=0 || code=$?
    [[ -n $caught ]] || break # a trapped signal ends `wait` early
  done
  say "the step ended with code $code"
  return "$code"
}

# run_step RUN COMMAND...: a step of the job, and what its end asks for. RUN: the run's folder, or '' where only the run itself
# knows it. Returns the step's exit code.
run_step() {
  local run=$1 before began code
  shift
  before=$(newest_checkpoint "$run")
  began=$(launches "$run")
  attempt "$@" && code=0 || code=$?
  # A crash, not a kill, before flowrank had begun, is MPI's own: Open MPI 4.1's TCP now and then calls a null pointer within
  # MPI_Init. The next start is as good as any.
  if [[ -n $run && $code == 13[459] && $(launches "$run") == "$began" ]]; then
    say "it crashed before flowrank had begun: once more"
    attempt "$@" && code=0 || code=$?
  fi
  trap '' USR1 TERM # nothing is left to pass on; before, or a second attempt would be born deaf
  case $code in
  0 | 2) ;; # complete; usage or config, which no repetition mends
  75) requeue ;;
  *) # a rank or a node was lost, or an error: again only if this launch came any further
    [[ $(newest_checkpoint "$run") == "$before" ]] || requeue
    ;;
  esac
  return "$code"
}
