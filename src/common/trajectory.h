// The buffer of one shard and one iteration, which an actor fills and a learner reads. Its layout in memory is its layout
// on the wire: one allocation, sent and received as it lies, a part for the learner and a tail for rank 0.
#ifndef FLOWRANK_TRAJECTORY_H
#define FLOWRANK_TRAJECTORY_H

#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/policy.h"
#include "common/shard.h"

// An environment's state is a row of doubles: this header, its newest observation [O], then the task's own state.
enum env_header { ENV_EPISODE, ENV_EPISODE_STEP, ENV_EPISODE_RETURN, ENV_HEADER };

// What a shard tells rank 0 about an iteration.
struct shard_report {
  int64_t episodes;   // finished
  double return_sum;  // of their returns
  double length_sum;  // of their lengths
  int64_t broken;     // environments reset because physics gave a NaN
  double act_seconds; // wall time of the actor
};

struct trajectory_layout {
  int envs, steps, obs_dim, action_dim;
  int action_columns, old_columns; // of a step: what the policy records (common/policy.h)
  int finals;        // truncated episodes that one environment can have in an iteration; 0 unless bootstrapping
  size_t state_size; // doubles of an environment's row
  size_t action, reward, old_log_prob, final_obs, flags, report, state; // offsets in bytes; obs is at 0
  size_t learner_bytes; // [0, learner_bytes): for the learner; [learner_bytes, bytes): the tail, for rank 0
  size_t bytes;
};
void trajectory_layout_init(struct trajectory_layout *l, const struct policy *policy, const struct shard_sizes *sizes,
                            int64_t least_episode_length, size_t task_state_size);

struct trajectory {
  unsigned char *memory;
  float *obs;          // [envs, steps+1, O]: before each step, and after the last
  float *action;       // [envs, steps, action_columns]; the last A are the raw action
  float *reward;       // [envs, steps]
  float *old_log_prob; // [envs, steps, old_columns]
  float *final_obs;    // [envs, finals, O]: of the environment's first, second, .. truncated episode
  uint8_t *flags;      // [envs, steps] of step_flag
  struct shard_report *report;
  double *state; // [envs, state_size]: at the iteration's start while an actor holds it, at its end afterwards
};
struct error *trajectory_init(struct trajectory *t, const struct trajectory_layout *l) MUST_USE;
void trajectory_free(struct trajectory *t);

// How a step ended, as bits of flags.
enum step_flag { STEP_TERMINATED = 1, STEP_TRUNCATED = 2 };

#endif
