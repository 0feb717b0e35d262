// Whole episodes with any sampler and number of steps. Episodes come in blocks of fixed size with random streams of
// their own, so that an episode depends neither on who runs its block nor on how many there are.
#ifndef FLOWRANK_EVALUATE_H
#define FLOWRANK_EVALUATE_H

#include <stdint.h>

#include "actor/task.h"
#include "common/config.h"
#include "common/error.h"
#include "common/interrupt.h"
#include "common/normalizer.h"
#include "common/policy.h"

enum { EVALUATE_BLOCK = 16 }; // episodes of a block

// Who wants to see every state that an episode passes through: as it starts (reward 0), and after each control step.
struct evaluate_watch {
  void (*see)(void *context, int64_t episode, const double *state, float reward); // null: nobody
  void *context;
};

struct evaluation {
  const struct task *task;
  const struct policy *policy;
  const float *parameters;
  const struct normalizer *normalizer;
  struct policy_acting acting;
  int64_t episodes, episode_length; // control steps
  struct interrupt interrupt;       // asked between control steps; then the block's results are not whole
  struct evaluate_watch watch;      // called by the thread that runs the episode's block
};

struct episode_result {
  double episode_return; // sum of rewards
  double length;         // control steps
};

static inline int64_t evaluate_blocks(const struct evaluation *v) {
  return (v->episodes + EVALUATE_BLOCK - 1) / EVALUATE_BLOCK;
}

// The setting eval.episode_length, whose 0 means the task's own, whatever training truncates at.
static inline int64_t evaluate_length(const struct task *task, int64_t setting) {
  return setting > 0 ? setting : task->natural_length;
}

struct evaluate_worker {
  struct task_worker task;
  struct policy_workspace acting;
  float *memory, *obs, *obs_norm, *action;
  double *state; // [EVALUATE_BLOCK, task->state_size]
};
struct error *evaluate_worker_init(struct evaluate_worker *w, const struct evaluation *v) MUST_USE;
void evaluate_worker_free(struct evaluate_worker *w);

// Runs block `block`: results [EVALUATE_BLOCK] of which the last block fills as many as there are episodes.
void evaluate_block(const struct evaluation *v, struct evaluate_worker *w, int64_t block,
                    struct episode_result *results);

// All blocks on `threads` threads of this process. results [episodes].
struct error *evaluate_all(const struct evaluation *v, int threads, struct episode_result *results) MUST_USE;

// Seconds that making one action takes on one core: the policy alone, on the rows of a block.
struct error *evaluate_action_seconds(const struct evaluation *v, double *seconds) MUST_USE;

// Mean and standard error of the mean over `count` results.
void evaluate_summary(int64_t count, const struct episode_result *results, double *mean, double *standard_error,
                      double *mean_length);

#endif
