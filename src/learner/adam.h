// Adam over one flat parameter array, with optional clipping of the global gradient norm.
#ifndef FLOWRANK_ADAM_H
#define FLOWRANK_ADAM_H

#include <stddef.h>
#include <stdint.h>

struct adam {
  float learning_rate, beta1, beta2, epsilon;
  float max_grad_norm; // 0: no clipping
};

// One bias-corrected step (Kingma & Ba 2015, algorithm 1), number `step` ≥ 1. parameters, m, v, gradient [count].
// Returns the gradient's global norm before clipping. Uses the threads of the caller's OpenMP setting; the result does
// not depend on how many.
double adam_step(const struct adam *a, int64_t step, size_t count, const float *gradient, float *m, float *v,
                 float *parameters);

#endif
