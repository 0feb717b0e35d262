// Shared by the unit tests: seeded data that does not come from the code under test, comparison in the largest
// deviation, and the networks' log-probabilities and losses written down naively in double precision.
#ifndef FLOWRANK_TESTS_HELPERS_H
#define FLOWRANK_TESTS_HELPERS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/config.h"
#include "common/error.h"
#include "common/flow_policy.h"
#include "common/gaussian_policy.h"
#include "common/mlp.h"

enum { NAIVE_MAX_WIDTH = 1024 };

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

// Fails the test with the error's own words.
static inline void must(struct error *e) {
  if (e == NULL) return;
  char text[512];
  snprintf(text, sizeof text, "%s", e->text);
  error_free(e);
  fail_msg("%s", text);
}

static inline void *zeroed(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (memory == NULL) abort();
  return memory;
}
static inline float *floats(size_t count) { return zeroed(count, sizeof(float)); }
static inline double *doubles(size_t count) { return zeroed(count, sizeof(double)); }

// splitmix64: small, known, and not what flowrank draws from.
struct source {
  uint64_t state;
};
static inline uint64_t source_word(struct source *s) {
  uint64_t z = (s->state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}
static inline double source_uniform(struct source *s) { return ((double)(source_word(s) >> 12) + 0.5) * 0x1p-52; }
static inline double source_normal(struct source *s) {
  const double radius = sqrt(-2 * log(source_uniform(s)));
  return radius * cos(6.283185307179586 * source_uniform(s));
}
static inline float *normal_floats(struct source *s, size_t count, double scale) {
  float *out = floats(count);
  for (size_t i = 0; i < count; ++i) out[i] = (float)(scale * source_normal(s));
  return out;
}
static inline float *uniform_floats(struct source *s, size_t count) {
  float *out = floats(count);
  for (size_t i = 0; i < count; ++i) out[i] = (float)source_uniform(s);
  return out;
}
static inline double *to_doubles(size_t count, const float *from) {
  double *out = doubles(count);
  for (size_t i = 0; i < count; ++i) out[i] = (double)from[i];
  return out;
}

// max|got − want| ≤ tolerance · max(|want|, floor); not-a-number never passes.
static inline void assert_near_above(const char *what, size_t count, const float *got, const double *want,
                                     double tolerance, double floor) {
  double largest = floor, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) largest = fmax(largest, fabs(want[i]));
  for (size_t i = 0; i < count; ++i) {
    const double miss = fabs((double)got[i] - want[i]);
    if (isnan(miss)) fail_msg("%s: [%zu] is %g instead of %.9g", what, i, (double)got[i], want[i]);
    if (miss <= worst) continue;
    at = i;
    worst = miss;
  }
  if (worst <= tolerance * largest) return;
  fail_msg("%s: [%zu] is %.9g instead of %.9g, off by %.3g of the largest (%.3g allowed)", what, at, (double)got[at],
           want[at], worst / largest, tolerance);
}

static inline void assert_near(const char *what, size_t count, const float *got, const double *want, double tolerance) {
  assert_near_above(what, count, got, want, tolerance, 1e-30);
}

// |got − want| ≤ tolerance · max(|want|, floor).
static inline void assert_number(const char *what, double got, double want, double tolerance, double floor) {
  if (fabs(got - want) <= tolerance * fmax(fabs(want), floor)) return;
  fail_msg("%s is %.12g instead of %.12g (%.3g allowed)", what, got, want, tolerance);
}

static inline void assert_same_bits(const char *what, size_t count, const float *a, const float *b) {
  for (size_t i = 0; i < count; ++i)
    if (memcmp(a + i, b + i, sizeof *a) != 0)
      fail_msg("%s: [%zu] is %.9g and %.9g", what, i, (double)a[i], (double)b[i]);
}

static inline struct config_layers hidden_layers(int count, const int *width) {
  struct config_layers layers = {.count = count};
  for (int l = 0; l < count; ++l) layers.width[l] = width[l];
  return layers;
}

// One row through the network, as spec/algorithm §1 says it.
static inline void naive_mlp(const struct mlp *net, const double *parameters, const double *input, double *output) {
  double x[NAIVE_MAX_WIDTH], y[NAIVE_MAX_WIDTH];
  for (int l = 0; l <= net->layers; ++l)
    if (net->width[l] > NAIVE_MAX_WIDTH) abort();
  memcpy(x, input, (size_t)net->width[0] * sizeof *x);
  for (int l = 0; l < net->layers; ++l) {
    const double *weight = parameters + net->weight[l], *bias = parameters + net->bias[l];
    for (int j = 0; j < net->width[l + 1]; ++j) {
      double sum = bias[j];
      for (int i = 0; i < net->width[l]; ++i) sum += x[i] * weight[i * net->width[l + 1] + j];
      y[j] = l < net->layers - 1 ? sum / (1 + exp(-sum)) : sum;
    }
    memcpy(x, y, (size_t)net->width[l + 1] * sizeof *x);
  }
  memcpy(output, x, (size_t)net->width[net->layers] * sizeof *x);
}

// output_scale · net(concat(obs, x, cos(t·2^k).., sin(t·2^k)..)), one row.
static inline void naive_prediction(const struct flow_policy *p, const double *parameters, const float *obs,
                                    const double *x, double t, double *u) {
  double input[NAIVE_MAX_WIDTH];
  const int frequencies = p->embedding_dim / 2;
  int n = 0;
  for (int i = 0; i < p->obs_dim; ++i) input[n++] = (double)obs[i];
  for (int i = 0; i < p->action_dim; ++i) input[n++] = x[i];
  for (int k = 0; k < frequencies; ++k) input[n++] = cos(t * pow(2, k));
  for (int k = 0; k < frequencies; ++k) input[n++] = sin(t * pow(2, k));
  naive_mlp(&p->net, parameters, input, u);
  for (int i = 0; i < p->action_dim; ++i) u[i] *= (double)p->output_scale;
}

// The prediction itself, or the velocity towards the action that it is.
static inline void naive_velocity(const struct flow_policy *p, const double *parameters, const float *obs,
                                  const double *x, double t, double *u) {
  naive_prediction(p, parameters, obs, x, t, u);
  for (int i = 0; p->supervision == SUPERVISION_DATA && i < p->action_dim; ++i)
    u[i] = (x[i] - u[i]) / fmax(t, (double)p->time_floor);
}

// The CFM loss of one pair, spec/algorithm §3.
static inline double naive_cfm_loss(const struct flow_policy *p, const double *parameters, const float *obs,
                                    const float *action, const float *eps, float time) {
  double x[NAIVE_MAX_WIDTH] = {0}, u[NAIVE_MAX_WIDTH] = {0}, sum = 0;
  const double t = (double)time;
  for (int d = 0; d < p->action_dim; ++d) x[d] = t * (double)eps[d] + (1 - t) * (double)action[d];
  naive_prediction(p, parameters, obs, x, t, u);
  for (int d = 0; d < p->action_dim; ++d) {
    const double a = (double)action[d], x0 = x[d] - t * u[d], x1 = x0 + u[d];
    double miss = (double)eps[d] - x1;
    if (p->supervision == SUPERVISION_VELOCITY) miss = u[d] - ((double)eps[d] - a);
    if (p->supervision == SUPERVISION_DATA) miss = a - u[d];
    sum += miss * miss;
  }
  return sum / p->action_dim;
}

static inline double naive_log_tanh_slope(double x) { return log(1 - tanh(x) * tanh(x)); }

// Deviation of dimension d; out [2·A] is the network's output.
static inline double naive_scale(const struct gaussian_policy *p, const double *out, int d) {
  return log(1 + exp(out[p->action_dim + d])) + 1e-3;
}

// Log density of the raw action: spec/algorithm §1, §5.
static inline double naive_gaussian(const struct gaussian_policy *p, const double *parameters, const float *obs,
                                    const float *action) {
  double input[NAIVE_MAX_WIDTH], out[NAIVE_MAX_WIDTH], sum = 0;
  for (int i = 0; i < p->net.width[0]; ++i) input[i] = (double)obs[i];
  naive_mlp(&p->net, parameters, input, out);
  for (int d = 0; d < p->action_dim; ++d) {
    const double a = (double)action[d], scale = naive_scale(p, out, d), z = (a - out[d]) / scale;
    sum += -z * z / 2 - log(scale * sqrt(2 * 3.14159265358979323846));
  }
  return sum;
}

// Entropy of the Gaussian and the log determinant of tanh at the sample that the noise gives.
static inline double naive_entropy(const struct gaussian_policy *p, const double *parameters, const float *obs,
                                   const float *noise) {
  double input[NAIVE_MAX_WIDTH], out[NAIVE_MAX_WIDTH], sum = 0;
  for (int i = 0; i < p->net.width[0]; ++i) input[i] = (double)obs[i];
  naive_mlp(&p->net, parameters, input, out);
  for (int d = 0; d < p->action_dim; ++d) {
    const double scale = naive_scale(p, out, d);
    sum +=
        0.5 + log(scale * sqrt(2 * 3.14159265358979323846)) + naive_log_tanh_slope(out[d] + scale * (double)noise[d]);
  }
  return sum;
}

#endif
