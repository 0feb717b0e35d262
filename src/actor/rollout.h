// A shard through one iteration: observe, normalise, act, step, record; then the old log-probabilities.
#ifndef FLOWRANK_ROLLOUT_H
#define FLOWRANK_ROLLOUT_H

#include <stdint.h>

#include "actor/task.h"
#include "common/config.h"
#include "common/error.h"
#include "common/interrupt.h"
#include "common/normalizer.h"
#include "common/policy.h"
#include "common/shard.h"
#include "common/trajectory.h"

// What the actors of a rank share; constant during an iteration.
struct rollout {
  const struct config *config;
  const struct task *task;
  const struct policy *policy;
  const float *parameters;             // the acting weights
  const struct normalizer *normalizer; // the acting normaliser
  struct shard_sizes sizes;
  struct trajectory_layout layout;
  struct interrupt interrupt; // asked between control steps; then rollout_collect leaves its work half done
};

// One thread's scratch; any shard fits.
struct rollout_worker {
  struct task_worker task;
  struct policy_workspace acting, comparing;
  float *memory;
  float *obs, *obs_norm, *record, *env_action; // [envs, ·]
  float *eps, *t, *log_prob;                   // [rows compared at once, ·]
  int *truncations;                            // [envs]: episodes truncated in this iteration
};
struct error *rollout_worker_init(struct rollout_worker *w, const struct rollout *r) MUST_USE;
void rollout_worker_free(struct rollout_worker *w);

// Puts a shard's environments at the start of their first episodes, in trajectory->state.
void rollout_begin(const struct rollout *r, struct rollout_worker *w, int shard, struct trajectory *out);

// Collects iteration `iteration` (counted from 0) of a shard. trajectory->state holds the environments' states before
// and, afterwards, after it; everything else of the trajectory is overwritten.
void rollout_collect(const struct rollout *r, struct rollout_worker *w, int shard, int64_t iteration,
                     struct trajectory *out);

#endif
