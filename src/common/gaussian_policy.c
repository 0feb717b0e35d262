#include "common/gaussian_policy.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "common/simd.h"

// Brax's least deviation; log 2, ½·log 2π, and the entropy ½ + ½·log 2π of a standard normal.
static const float SCALE_FLOOR = 1e-3f, LOG_TWO = 0.693147181f, HALF_LOG_TWO_PI = 0.918938533f,
                   UNIT_ENTROPY = 1.418938533f;

void gaussian_policy_layout(struct gaussian_policy *p, const struct config *config, int obs_dim, int action_dim,
                            size_t offset) {
  p->action_dim = action_dim;
  mlp_layout(&p->net, obs_dim, &config->policy.hidden, 2 * action_dim, offset);
}

void gaussian_policy_set_std(const struct gaussian_policy *p, double std, float *parameters) {
  if (std == 0) return;
  const double s = log(expm1(fmax(std - (double)SCALE_FLOOR, 1e-6))); // softplus of it is std − floor
  float *const bias = parameters + p->net.bias[p->net.layers - 1] + p->action_dim;
  for (int d = 0; d < p->action_dim; ++d) bias[d] = (float)s;
}

struct error *gaussian_workspace_init(struct gaussian_workspace *w, const struct gaussian_policy *p, int rows,
                                      int with_backward) {
  *w = (struct gaussian_workspace){.rows = rows};
  const size_t size = simd_padded((size_t)rows * 2 * (size_t)p->action_dim);
  w->memory = aligned_alloc(64, (with_backward ? 2 : 1) * size * sizeof(float));
  if (w->memory == NULL) return error_no_memory("the policy's workspace");
  w->output = w->memory;
  w->d_output = with_backward ? w->memory + size : NULL;
  struct error *e = mlp_tape_init(&w->tape, &p->net, rows, with_backward);
  if (e != NULL) gaussian_workspace_free(w);
  return e;
}

void gaussian_workspace_free(struct gaussian_workspace *w) {
  mlp_tape_free(&w->tape);
  free(w->memory);
  *w = (struct gaussian_workspace){0};
}

// log(1 + exp(x)), and its derivative 1/(1 + exp(−x)).
static float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }
static float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// log d tanh(x)/dx = log(1 − tanh²x), in a form that does not cancel; its derivative by x is −2·tanh(x).
static float log_tanh_slope(float x) { return 2.0f * (LOG_TWO - x - softplus(-2.0f * x)); }

void gaussian_policy_sample(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                            struct gaussian_workspace *w, float *x) {
  assert(rows <= w->rows);
  const size_t dims = (size_t)p->action_dim;
  mlp_forward(&p->net, parameters, rows, obs, &w->tape, w->output);
  for (size_t r = 0; r < (size_t)rows; ++r) {
    const float *loc = w->output + 2 * r * dims, *s = loc + dims;
    for (size_t d = 0; d < dims; ++d) x[r * dims + d] = loc[d] + (softplus(s[d]) + SCALE_FLOOR) * x[r * dims + d];
  }
}

void gaussian_policy_forward(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                             const float *action, const float *noise, struct gaussian_workspace *w, float *log_prob,
                             float *entropy) {
  assert(rows <= w->rows);
  const size_t dims = (size_t)p->action_dim;
  mlp_forward(&p->net, parameters, rows, obs, &w->tape, w->output);
  for (size_t r = 0; r < (size_t)rows; ++r) {
    const float *loc = w->output + 2 * r * dims, *s = loc + dims, *a = action + r * dims;
    float log_density = 0, disorder = 0;
    for (size_t d = 0; d < dims; ++d) {
      const float scale = softplus(s[d]) + SCALE_FLOOR, log_scale = logf(scale), z = (a[d] - loc[d]) / scale;
      log_density += -0.5f * z * z - log_scale - HALF_LOG_TWO_PI;
      if (noise != NULL) disorder += UNIT_ENTROPY + log_scale + log_tanh_slope(loc[d] + scale * noise[r * dims + d]);
    }
    log_prob[r] = log_density;
    if (noise != NULL) entropy[r] = disorder;
  }
}

void gaussian_policy_backward(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                              const float *action, const float *noise, struct gaussian_workspace *w,
                              const float *d_log_prob, float d_entropy, float *gradient) {
  const size_t dims = (size_t)p->action_dim;
  for (size_t r = 0; r < (size_t)rows; ++r) {
    const float *loc = w->output + 2 * r * dims, *s = loc + dims, *a = action + r * dims;
    float *d_loc = w->d_output + 2 * r * dims, *d_s = d_loc + dims;
    for (size_t d = 0; d < dims; ++d) {
      const float scale = softplus(s[d]) + SCALE_FLOOR, z = (a[d] - loc[d]) / scale;
      d_loc[d] = d_log_prob[r] * z / scale;
      float d_scale = d_log_prob[r] * (z * z - 1.0f) / scale;
      if (noise != NULL) {
        const float n = noise[r * dims + d], pull = -2.0f * tanhf(loc[d] + scale * n);
        d_loc[d] += d_entropy * pull;
        d_scale += d_entropy * (1.0f / scale + pull * n);
      }
      d_s[d] = d_scale * sigmoid(s[d]);
    }
  }
  mlp_backward(&p->net, parameters, rows, obs, &w->tape, w->d_output, true, gradient);
}
