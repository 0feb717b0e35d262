// The objective of one shard's slice of a minibatch: values and advantages, then the policy's surrogate
// and its gradient.
#ifndef FLOWRANK_OBJECTIVE_H
#define FLOWRANK_OBJECTIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/mlp.h"
#include "common/policy.h"

// Sums that the shards add up over the tree, in double.
enum objective_sum {
  SUM_POLICY_LOSS, // divided by the ratios of the minibatch: the policy loss
  SUM_VALUE_LOSS,  // divided by the actions of the minibatch, times value_coef: the value loss
  SUM_RATIO,       // of ratios
  SUM_RATIO_SQUARED,
  SUM_CLIPPED,  // ratios outside 1 ± clip
  SUM_LOG_PROB, // of new log-probabilities; fpo: of negated CFM losses
  SUM_ENTROPY,
  SUM_VALUE, // of values
  OBJECTIVE_SUMS,
};

// A slice: `unrolls` unrolls of `steps` actions, gathered from a shard, unroll after unroll.
// The arrays are the caller's; n = unrolls·steps rows, action-major; steps is at most the config's unroll_length.
struct minibatch {
  int unrolls, steps, finals;
  const float *obs;       // [n, O] normalised
  const float *last_obs;  // [unrolls, O] normalised: after each unroll's last step
  const float *final_obs; // [finals, O] normalised: last observations of truncated episodes; null unless bootstrapping
  const int32_t
      *final_at;       // [finals]: row of each in 0..n-1, ascending; when bootstrapping, every truncated row has one
  const float *action; // [n, action_columns], as the policy records it
  const float *eps;    // [n, noises, A]
  const float *t;      // [n, times]
  const float *old_log_prob; // [n, ratios]
  const float *old_value;    // [n] of the parameters before the update; null: values are not clipped
  const float *reward;       // [n]
  const uint8_t *flags;      // [n]
};

// Networks and constants, shared by all threads.
struct objective {
  const struct config *config;
  struct policy policy;
  struct mlp value;
  size_t parameter_count; // policy and value, in this order, in one flat array
};
void objective_layout(struct objective *o, const struct config *config, int obs_dim, int action_dim);

// Scratch of one thread. Rows are worked in blocks that stay in cache; block sizes depend on the config alone.
struct objective_workspace;
struct error *objective_workspace_init(struct objective_workspace **w, const struct objective *o) MUST_USE;
void objective_workspace_free(struct objective_workspace *w);

// Rows of the largest matrix products that a slice of `unrolls` unrolls becomes: steps whose values are learned, and
// actions.
void objective_block_rows(const struct objective *o, int unrolls, int *value_rows, int *policy_rows);

// Values of `rows` normalised observations [rows, O]: values [rows] out.
void objective_values(const struct objective *o, const float *parameters, size_t rows, const float *obs,
                      struct objective_workspace *w, float *values);

// Values, targets, advantages, and the value loss with its gradient.
// total_actions: actions of the whole minibatch over all shards (the mean's divisor).
// gradient [parameter_count]: the value network's part is added to, or set whatever it holds. sums [OBJECTIVE_SUMS] are
// added to.
// advantage [n] out, not normalised.
void objective_value(const struct objective *o, const float *parameters, const struct minibatch *b,
                     int64_t total_actions, struct objective_workspace *w, bool add, float *gradient, double *sums,
                     float *advantage);

// The surrogate of the ratios (FPO eq. 9 and 10; PPO), less the entropy's share, and its gradient, which is
// added to the policy's part of `gradient`. advantage [n] already normalised.
void objective_policy(const struct objective *o, const float *parameters, const struct minibatch *b,
                      int64_t total_actions, const float *advantage, struct objective_workspace *w, float *gradient,
                      double *sums);

#endif
