#include "learner/adam.h"

#include <math.h>

// Threads take whole blocks of a fixed size, so that vector code and its tails fall on the same elements however many
// threads there are.
enum { BLOCK = 16384, LANES = 8 };

// A small share of a minibatch, so one thread does it, in one order.
static double squared_norm(size_t count, const float *gradient) {
  double lane[LANES] = {0}, total = 0;
  const size_t whole = count / LANES * LANES;
  for (size_t i = 0; i < whole; i += LANES)
    for (size_t j = 0; j < LANES; ++j) lane[j] += (double)gradient[i + j] * (double)gradient[i + j];
  for (size_t i = whole; i < count; ++i) total += (double)gradient[i] * (double)gradient[i];
  for (size_t j = 0; j < LANES; ++j) total += lane[j];
  return total;
}

double adam_step(const struct adam *a, int64_t step, size_t count, const float *gradient, float *m, float *v,
                 float *parameters) {
  const double norm = sqrt(squared_norm(count, gradient));
  const float clip = a->max_grad_norm > 0 && norm > (double)a->max_grad_norm ? (float)(a->max_grad_norm / norm) : 1.0f;
  const float correct_m = (float)(1.0 / (1.0 - pow((double)a->beta1, (double)step)));
  const float correct_v = (float)(1.0 / (1.0 - pow((double)a->beta2, (double)step)));
  const float beta1 = a->beta1, beta2 = a->beta2, rate = a->learning_rate, epsilon = a->epsilon;
  const size_t blocks = (count + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static)
  for (size_t b = 0; b < blocks; ++b) {
    const size_t end = (b + 1) * BLOCK < count ? (b + 1) * BLOCK : count;
    for (size_t i = b * BLOCK; i < end; ++i) {
      const float g = gradient[i] * clip;
      m[i] = beta1 * m[i] + (1.0f - beta1) * g;
      v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
      parameters[i] -= rate * (m[i] * correct_m) / (sqrtf(v[i] * correct_v) + epsilon);
    }
  }
  return norm;
}
