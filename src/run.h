// A training run on one rank: what train.c loops over, and the parts around that loop. Only src/train.c and src/run_*.c
// include this.
#ifndef FLOWRANK_RUN_H
#define FLOWRANK_RUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "actor/evaluate.h"
#include "actor/rollout.h"
#include "common/checkpoint.h"
#include "common/comm.h"
#include "common/config.h"
#include "common/error.h"
#include "common/metrics.h"
#include "common/run_lock.h"
#include "common/shard.h"
#include "common/trajectory.h"
#include "learner/update.h"
#include "train.h"

// Everything that one rank holds.
struct run {
  const struct train_options *options;
  struct comm *comm;
  struct config config;
  char *config_text;
  struct task *task;
  struct objective objective;
  struct shard_sizes sizes;
  struct trajectory_layout layout;
  struct placement placement;
  int mode; // LEARNERS_ALL, or how many ranks learn while the others act
  int threads;
  struct learned learned;

  double act_seconds, learn_seconds; // of this rank's shards in the newest iteration, without waiting
  struct balance *balance;           // null where placement does not change

  struct rollout rollout;
  struct rollout_worker *actor;      // [threads]; null on ranks that do not act
  struct evaluate_worker *evaluator; // [threads]; null unless config.eval.every
  struct trajectory *trajectory[2];  // [shards] of even and of odd iterations, one and the same unless they overlap;
                                     // allocated for shards that this rank acts or learns
  struct learner *learner;           // null on ranks that do not learn

  // rank 0 only
  struct run_lock *lock;
  unsigned char **tail[2]; // [shards] of even and odd iterations: where a shard's report and states arrive
  unsigned char *tail_memory;
  double *env_state; // [envs, state_size] at the end of the newest complete iteration
  struct metrics metrics;
  bool metrics_open;
  bool signalled;      // another rank has got a signal
  bool unsaved;        // the newest checkpoint that was due could not be written
  bool metrics_behind; // metrics.jsonl could not be written, and this has been said
  double last_warning; // that a checkpoint could not be written
  double save_seconds; // spent on checkpoints since the newest metrics line
  float *kept;         // what is learned, at the start of the running iteration: [3·parameters]
  double *kept_moments;
  int64_t kept_adam_step;
  float *
      previous; // [parameters]: with what the running iteration's trajectories were collected; null unless they overlap
  double *previous_moments;
  int64_t saved;      // iteration of the newest checkpoint on disk; -1: none
  double signal_time; // when rank 0 knew of one; 0: it does not

  int64_t running;         // the iteration that is being done; -1: none
  double running_since;    // its start
  _Atomic int64_t dropped; // the newest iteration that rank 0 has given up
  _Atomic double next_look;

  int64_t iteration; // iterations completed
  int64_t collected; // the newest iteration whose trajectories lie ready; -1: none of this launch
  int64_t episodes;
  double wall_before, started; // seconds of earlier launches; this launch's start
  double best_return, last_iteration_seconds;
  struct episode_result *eval_results; // [config.eval.episodes], whole blocks
  bool told;                           // rank 0, of this rank's signal
  bool agreed;                         // all ranks know of the error that ends the run
};

// --- run_build.c: what the config builds on a rank ---

// What follows from the config alone; no messages, so a rank may fail alone.
struct error *run_build(struct run *r) MUST_USE;
void run_free(struct run *r);
struct evaluation run_evaluation(struct run *r);
bool run_overlaps(const struct run *r); // pipeline: overlap

// --- run_place.c: what a rank holds because of the placement, and another placement ---

bool run_is_mine(const struct run *r, const int *rank_of, int shard);
// Memory, workers and the learner for the shards that r->placement gives this rank, and for no others. No messages.
struct error *run_hold(struct run *r) MUST_USE;
// Of one iteration, [shards]: the trajectories, and rank 0's tails. An iteration begins with the environments' states at the
// end of the one before.
struct trajectory *run_trajectories(const struct run *r, int64_t iteration);
unsigned char **run_tails(const struct run *r, int64_t iteration);
double *run_starting_state(const struct run *r, int64_t iteration, int shard);
// Collective: rank 0's parameters and normaliser to all. Learners hold the same bits already, except after a restore or
// under a new placement (`all`: with Adam's moments).
struct error *run_publish(struct run *r, bool all) MUST_USE;
// Collective: run_publish to all, and rank 0's env_state to the ranks that act.
struct error *run_hand_out(struct run *r) MUST_USE;
// Collective, between two iterations: the run goes on under another placement of its shards on the ranks of r->comm, which
// may be a smaller job than before. Takes *p, the same on all ranks, by which rank 0 learns shard 0. Everything comes from
// rank 0, as after a resume: what is learned, and env_state, so nothing is asked of ranks that are gone.
// Errors: on all ranks alike, but for MPI's.
struct error *run_place(struct run *r, struct placement *p) MUST_USE;
// Frees all that a rank holds because of the placement.
void run_release(struct run *r);

// --- run_balance.c: cluster.learners: auto, and cluster.rebalance ---

struct error *run_balance_init(struct run *r) MUST_USE;
void run_balance_free(struct run *r);
// Collective, after an iteration that took `seconds` (rank 0's word): measures, and moves shards where that pays.
struct error *run_balance(struct run *r, double seconds) MUST_USE;
// Measures anew, under a new placement.
void run_balance_restart(struct run *r);

// --- run_signal.c: a signal, and what it does to a long iteration ---

// Takes SIGTERM, SIGUSR1 and SIGINT from here on.
void run_watch_signals(void);
// The signal that this rank has received, or 0.
int run_signal(void);
// Whether the running iteration is given up, or torn by a rank's death. From any thread; an `interrupt` over a struct run.
bool run_is_dropped(void *run);
// Rank 0: a copy of what is learned, from the iteration's start, and back to it.
void run_keep_learned(struct run *r);
void run_return_to_kept(struct run *r);
// Rank 0, where iterations overlap: the kept parameters and normaliser become the previous ones; what is learned becomes
// these (without the rest: only to act with).
void run_kept_is_previous(struct run *r);
void run_return_to_previous(struct run *r);

// --- run_folder.c: the run's files; rank 0 only ---

// Settles the config and finds the checkpoint to go on from, if there is one.
struct error *run_read_config(struct run *r, struct checkpoint *c, bool *found) MUST_USE;
// Takes over a loaded checkpoint, which must have this build's shapes.
struct error *run_restore(struct run *r, const struct checkpoint *c) MUST_USE;
// Makes and locks the folder and opens what is written into it. recent: the checkpoint's metrics lines, or "".
struct error *run_open_folder(struct run *r, const char *recent) MUST_USE;
// Says in one line that and why shards have moved, on stdout and in launches.jsonl.
void run_tell_placement(struct run *r, const char *text);
// One line on stderr, beside the bar.
void run_warn(struct run *r, const char *text, const char *consequence);
// Appends a line to metrics.jsonl. A full disk takes none for a while: said once, mended when there is room.
void run_append_metrics(struct run *r, const struct metrics_line *line);
// A checkpoint in the middle of a run may fail: the older ones are intact, and the next iteration tries again (best.h5
// stays the older one until a better policy comes). The last one may not, as the exit code promises it.
struct error *run_save(struct run *r, bool best, bool last) MUST_USE;
// Words for a message: where the newest checkpoint on disk is, if there is one.
enum { RUN_WORDS_BYTES = 4096 + 128 };
void run_name_checkpoint(const struct run *r, char words[RUN_WORDS_BYTES]);

#endif
