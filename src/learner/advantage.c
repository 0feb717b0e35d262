#include "learner/advantage.h"

#include <stddef.h>

// delta_t = (r_t + d_t·V_{t+1} − V_t)·m_t, acc_t = delta_t + d_t·λ·m_t·acc_{t+1}, target_t = V_t + acc_t,
// advantage_t = (r_t + d_t·target_{t+1} − V_t)·m_t with d_t = γ·(1 − terminated), m_t = 1 − truncated (Brax's GAE).
// With final values a truncated step is not masked: its next value, and next target, is that of the final observation,
// and the sum stops there because what follows belongs to another episode.
void advantage_gae(const struct gae *g, int steps, const float *reward, const uint8_t *flags, const float *value,
                   float last_value, const float *final_value, float *target, float *advantage) {
  float next_value = last_value, next_target = last_value, acc = 0;
  for (int t = steps - 1; t >= 0; --t) {
    const int truncated = (flags[t] & STEP_TRUNCATED) != 0;
    const float r = g->reward_scaling * reward[t];
    const float discount = (flags[t] & STEP_TERMINATED) ? 0.0f : g->discount;
    const float mask = truncated && final_value == NULL ? 0.0f : 1.0f;
    if (truncated && final_value != NULL) next_value = next_target = final_value[t];
    const float delta = (r + discount * next_value - value[t]) * mask;
    acc = delta + (truncated ? 0.0f : discount * g->lambda * acc);
    advantage[t] = (r + discount * next_target - value[t]) * mask;
    next_target = target[t] = value[t] + acc;
    next_value = value[t];
  }
}
