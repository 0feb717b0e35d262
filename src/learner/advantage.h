// Generalised advantage estimation over unrolls, with termination and truncation (docs/algorithm.md §6).
#ifndef FLOWRANK_ADVANTAGE_H
#define FLOWRANK_ADVANTAGE_H

#include <stdint.h>

#include "common/trajectory.h" // step_flag

struct gae {
  float discount, lambda, reward_scaling;
};

// One unroll of `steps` control steps.
// reward [steps] unscaled; flags [steps] of step_flag; value [steps]; last_value: value of the observation after the
// last step; final_value [steps] or null: value of a truncated episode's last observation at the steps flagged
// truncated (other entries unused). Null masks truncated steps as the reference does.
// Out: target [steps], advantage [steps]. Nothing carries a gradient.
void advantage_gae(const struct gae *g, int steps, const float *reward, const uint8_t *flags, const float *value,
                   float last_value, const float *final_value, float *target, float *advantage);

#endif
