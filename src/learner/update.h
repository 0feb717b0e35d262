// Epochs × minibatches over shards: what the learner does with an iteration's trajectories.
#ifndef FLOWRANK_UPDATE_H
#define FLOWRANK_UPDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/comm.h"
#include "common/config.h"
#include "common/error.h"
#include "common/interrupt.h"
#include "common/normalizer.h"
#include "common/shard.h"
#include "common/trajectory.h"
#include "learner/objective.h"

// What is learned. Every learner holds the same bits.
struct learned {
  size_t count;
  float *parameters, *adam_m, *adam_v; // [count]
  int64_t adam_step;
  struct normalizer normalizer;
};
// Allocates and initialises: parameters from the seed, moments zero.
struct error *learned_init(struct learned *l, const struct objective *o) MUST_USE;
void learned_free(struct learned *l);

// Averages over an iteration's minibatches, and where this rank's wall time went.
struct update_report {
  double policy_loss, value_loss, ratio_mean, ratio_std, clipped_fraction, value_mean, grad_norm;
  double cfm_loss; // NaN unless fpo
  double entropy;  // NaN unless it has a cost
  double normalise_seconds, value_seconds, policy_seconds, reduce_seconds, adam_seconds;
  bool broken_off; // as learner_interrupt asked for, on all learners after the same minibatch; the rest is not filled
};

struct learner;
// All pointers are kept and must outlive the learner.
struct error *learner_init(struct learner **learner, const struct objective *o, const struct shard_sizes *sizes,
                           const struct trajectory_layout *layout, const struct placement *placement, struct comm *comm,
                           int threads) MUST_USE;
void learner_free(struct learner *learner);
// What learner_update asks in each minibatch. One learner's yes is enough.
void learner_interrupt(struct learner *learner, struct interrupt interrupt);

// One iteration's update of `learned`: normaliser, then epochs × minibatches of Adam steps. Collective over the learners.
// trajectory [shards]: the buffers of the shards that this rank learns from (others are not touched). Their observations
// are overwritten (normalised in place).
struct error *learner_update(struct learner *learner, int64_t iteration, const struct trajectory *trajectory,
                             struct learned *learned, struct update_report *report) MUST_USE;

// Matrix-product operations of one update over all shards, by network.
struct learner_flops {
  double value, policy;
};
struct learner_flops learner_flops(const struct objective *o, const struct shard_sizes *sizes);

#endif
