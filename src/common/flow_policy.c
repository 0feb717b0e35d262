#include "common/flow_policy.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/simd.h"

void flow_policy_layout(struct flow_policy *p, const struct config *config, int obs_dim, int action_dim,
                        size_t offset) {
  p->obs_dim = obs_dim;
  p->action_dim = action_dim;
  p->embedding_dim = 2 * (int)config->policy.time_frequencies;
  p->output_scale = (float)config->policy.output_scale;
  p->sde_sigma = (float)config->policy.sde_sigma;
  p->supervision = config->objective.supervision;
  p->time_floor = (float)config->policy.time_floor;
  mlp_layout(&p->net, obs_dim + action_dim + p->embedding_dim, &config->policy.hidden, action_dim, offset);
}

struct error *flow_workspace_init(struct flow_workspace *w, const struct flow_policy *p, int obs_rows, int pairs,
                                  int with_backward) {
  *w = (struct flow_workspace){.obs_rows = obs_rows, .pairs = pairs};
  const size_t rows = (size_t)obs_rows, all = rows * (size_t)pairs, action = (size_t)p->action_dim;
  const size_t first = (size_t)p->net.width[1];
  const size_t size[] = {simd_padded(rows * first),      simd_padded(all * (action + (size_t)p->embedding_dim)),
                         simd_padded(all * action),      with_backward ? simd_padded(all * action) : 0,
                         simd_padded(5 * rows * action), with_backward ? simd_padded(rows * first) : 0};
  float **const view[] = {&w->shared, &w->input, &w->u, &w->d_u, &w->stage, &w->d_shared};
  size_t total = 0;
  for (size_t i = 0; i < sizeof size / sizeof *size; ++i) total += size[i];
  w->memory = aligned_alloc(64, total * sizeof(float));
  if (w->memory == NULL) return error_no_memory("the policy's workspace");
  float *next = w->memory;
  for (size_t i = 0; i < sizeof size / sizeof *size; ++i) {
    *view[i] = next;
    next += size[i];
  }
  struct error *e = mlp_tape_init(&w->tape, &p->net, obs_rows * pairs, with_backward);
  if (e != NULL) flow_workspace_free(w);
  return e;
}

void flow_workspace_free(struct flow_workspace *w) {
  mlp_tape_free(&w->tape);
  free(w->memory);
  *w = (struct flow_workspace){0};
}

// The first layer's weights stand in the order of its inputs: observation, then x_t and the embedding.
static const float *x_weights(const struct flow_policy *p, const float *parameters) {
  return parameters + p->net.weight[0] + (size_t)p->obs_dim * (size_t)p->net.width[1];
}

// The observation's share of the first layer, made once and used by all of its (x_t, t) pairs and sampler steps.
static void share_observation(const struct flow_policy *p, const float *parameters, int rows, const float *obs,
                              float *shared) {
  const int first = p->net.width[1];
  mlp_product(rows, p->obs_dim, first, obs, parameters + p->net.weight[0], false, shared);
}

// emb(t) = [cos(t·2^k), sin(t·2^k)], k = 0..frequencies-1, into rows of `stride` floats.
static void embed_times(int frequencies, size_t count, const float *t, size_t stride, float *out) {
  for (size_t i = 0; i < count; i += SIMD_LANES) {
    const size_t part = count - i < SIMD_LANES ? count - i : SIMD_LANES;
    const simd times = simd_load_part(t + i, part);
    for (int k = 0; k < frequencies; ++k) {
      float sine[SIMD_LANES], cosine[SIMD_LANES];
      simd s, c;
      SIMD_SINCOS(times * (float)(1u << k), s, c);
      simd_store(sine, s);
      simd_store(cosine, c);
      for (size_t j = 0; j < part; ++j) {
        out[(i + j) * stride + (size_t)k] = cosine[j];
        out[(i + j) * stride + (size_t)(k + frequencies)] = sine[j];
      }
    }
  }
}

// The same for a single t: its frequencies side by side.
static void embed_time(int frequencies, float t, float *out) {
  for (int k = 0; k < frequencies; k += SIMD_LANES) {
    const size_t part = (size_t)(frequencies - k < SIMD_LANES ? frequencies - k : SIMD_LANES);
    float angle[SIMD_LANES] = {0};
    simd s, c;
    for (size_t j = 0; j < part; ++j) angle[j] = t * (float)(1u << ((size_t)k + j));
    SIMD_SINCOS(simd_load(angle), s, c);
    simd_store_part(out + k, c, part);
    simd_store_part(out + frequencies + k, s, part);
  }
}

// The network's prediction, with its scale, from w->shared and w->input.
static void predict_of_input(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                             struct flow_workspace *w, float *u) {
  const int first = p->net.width[1], all = rows * pairs, columns = p->action_dim + p->embedding_dim;
  float *z = w->tape.activation[0];
  for (int i = 0; i < all; ++i)
    memcpy(z + (size_t)i * (size_t)first, w->shared + (size_t)(i / pairs) * (size_t)first,
           (size_t)first * sizeof(float));
  mlp_product(all, columns, first, w->input, x_weights(p, parameters), true, z);
  mlp_forward_hidden(&p->net, parameters, all, &w->tape, u);
  for (size_t i = 0; i < (size_t)all * (size_t)p->action_dim; ++i) u[i] *= p->output_scale;
}

// In place from the action that the network predicts to the velocity that leads there, all at one t.
static void velocity_of_action(const struct flow_policy *p, size_t count, const float *x, float t, float *u) {
  const float rate = 1.0f / fmaxf(t, p->time_floor);
  for (size_t i = 0; i < count; ++i) u[i] = (x[i] - u[i]) * rate;
}

void flow_policy_velocity(const struct flow_policy *p, const float *parameters, int rows, int pairs, const float *obs,
                          const float *x, const float *t, struct flow_workspace *w, float *u) {
  assert(rows <= w->obs_rows && pairs <= w->pairs);
  const size_t action = (size_t)p->action_dim, columns = action + (size_t)p->embedding_dim;
  const size_t all = (size_t)rows * (size_t)pairs;
  share_observation(p, parameters, rows, obs, w->shared);
  for (size_t i = 0; i < all; ++i) memcpy(w->input + i * columns, x + i * action, action * sizeof(float));
  embed_times(p->embedding_dim / 2, all, t, columns, w->input + action);
  predict_of_input(p, parameters, rows, pairs, w, u);
  for (size_t i = 0; p->supervision == SUPERVISION_DATA && i < all; ++i)
    velocity_of_action(p, action, x + i * action, t[i], u + i * action);
}

// u(obs, x, t) with one t for all rows, as a sampler needs it: the embedding's product is a single row.
static void velocity_at(const struct flow_policy *p, const float *parameters, int rows, const float *x, float t,
                        struct flow_workspace *w, float *u) {
  const int first = p->net.width[1];
  const size_t n = (size_t)first, action = (size_t)p->action_dim;
  float *const embedding = w->input, *const z = w->tape.activation[0];
  embed_time(p->embedding_dim / 2, t, embedding);
  const float *e_weights = x_weights(p, parameters) + action * n;
  for (size_t c = 0; c < n; ++c) z[c] = 0;
  for (int k = 0; k < p->embedding_dim; ++k)
    for (size_t c = 0; c < n; ++c) z[c] += embedding[k] * e_weights[(size_t)k * n + c];
  for (int r = rows - 1; r >= 0; --r) // row 0 holds the sum and is done last
    for (size_t c = 0; c < n; ++c) z[(size_t)r * n + c] = w->shared[(size_t)r * n + c] + z[c];
  mlp_product(rows, p->action_dim, first, x, x_weights(p, parameters), true, z);
  mlp_forward_hidden(&p->net, parameters, rows, &w->tape, u);
  for (size_t i = 0; i < (size_t)rows * action; ++i) u[i] *= p->output_scale;
  if (p->supervision == SUPERVISION_DATA) velocity_of_action(p, (size_t)rows * action, x, t, u);
}

// The explicit Runge-Kutta methods with as many as four stages, each stage depending on the one before it alone.
struct tableau {
  int stages;
  float node[4];   // stage i is at t + node[i]·dt, x + node[i]·dt·u_{i-1}
  float weight[4]; // x ← x + dt·Σ weight[i]·u_i
};
static const struct tableau TABLEAU[] = {
    [SAMPLER_EULER] = {1, {0}, {1}},
    [SAMPLER_HEUN] = {2, {0, 1}, {0.5f, 0.5f}},
    [SAMPLER_MIDPOINT] = {2, {0, 0.5f}, {0, 1}},
    [SAMPLER_RK4] = {4, {0, 0.5f, 0.5f, 1}, {1 / 6.0f, 1 / 3.0f, 1 / 3.0f, 1 / 6.0f}},
};

// x after step k to its place in the chain, when it has one.
static void keep(const struct flow_sampling *how, int k, int rows, size_t dims, const float *x) {
  const int place = k - (how->steps - how->kept);
  if (how->chain == NULL || place < 0) return;
  for (size_t r = 0; r < (size_t)rows; ++r)
    memcpy(how->chain + (r * (size_t)how->kept + (size_t)place) * dims, x + r * dims, dims * sizeof(float));
}

void flow_policy_sample(const struct flow_policy *p, const float *parameters, const struct flow_sampling *how, int rows,
                        const float *obs, struct flow_workspace *w, float *x) {
  assert(rows <= w->obs_rows);
  const struct tableau *method = &TABLEAU[how->sampler];
  const size_t dims = (size_t)p->action_dim, n = (size_t)rows * dims;
  const int steps = how->steps;
  float *const at = w->stage, *const u = w->stage + n, *const sum = w->stage + 2 * n;
  share_observation(p, parameters, rows, obs, w->shared);
  for (int k = 0; k < steps; ++k) {
    const float t = 1.0f - (float)k / (float)steps, dt = (1.0f - (float)(k + 1) / (float)steps) - t;
    for (int i = 0; i < method->stages; ++i) {
      const float reach = method->node[i] * dt;
      if (i > 0)
        for (size_t j = 0; j < n; ++j) at[j] = x[j] + reach * u[j];
      velocity_at(p, parameters, rows, i > 0 ? at : x, t + reach, w, u);
      for (size_t j = 0; j < n; ++j) sum[j] = (i > 0 ? sum[j] : 0.0f) + method->weight[i] * u[j];
    }
    for (size_t j = 0; j < n; ++j) x[j] += dt * sum[j];
    for (size_t r = 0; how->sde_noise != NULL && r < (size_t)rows; ++r)
      for (size_t d = 0; d < dims; ++d)
        x[r * dims + d] += p->sde_sigma * how->sde_noise[(r * (size_t)steps + (size_t)k) * dims + d];
    keep(how, k, rows, dims, x);
  }
}

int flow_policy_evaluations(enum sampler_kind sampler, int steps) { return TABLEAU[sampler].stages * steps; }

// What the supervised quantity misses: target − reach·(the network's prediction). velocity: u against eps − a; eps:
// x1 = x0 + u = x_t + (1−t)·u against eps; data: the prediction against a.
static float cfm_target(enum supervision_kind supervision, float a, float eps, float x) {
  return supervision == SUPERVISION_VELOCITY ? eps - a : supervision == SUPERVISION_EPS ? eps - x : a;
}
static float cfm_reach(enum supervision_kind supervision, float t) {
  return supervision == SUPERVISION_EPS ? 1.0f - t : 1.0f;
}

void flow_policy_cfm_forward(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                             const float *obs, const float *action, const float *eps, const float *t,
                             struct flow_workspace *w, float *loss) {
  assert(rows <= w->obs_rows && pairs <= w->pairs);
  const size_t dims = (size_t)p->action_dim, columns = dims + (size_t)p->embedding_dim;
  const size_t all = (size_t)rows * (size_t)pairs;
  share_observation(p, parameters, rows, obs, w->shared);
  for (size_t i = 0; i < all; ++i) { // x_t = t·eps + (1−t)·a
    const float *a = action + i / (size_t)pairs * dims;
    for (size_t d = 0; d < dims; ++d) w->input[i * columns + d] = t[i] * eps[i * dims + d] + (1.0f - t[i]) * a[d];
  }
  embed_times(p->embedding_dim / 2, all, t, columns, w->input + dims);
  predict_of_input(p, parameters, rows, pairs, w, w->u);
  for (size_t i = 0; i < all; ++i) {
    const float *a = action + i / (size_t)pairs * dims, *x = w->input + i * columns;
    const float reach = cfm_reach(p->supervision, t[i]);
    float sum = 0;
    for (size_t d = 0; d < dims; ++d) {
      const float target = cfm_target(p->supervision, a[d], eps[i * dims + d], x[d]);
      const float miss = target - reach * w->u[i * dims + d];
      sum += miss * miss;
    }
    loss[i] = sum / (float)dims;
  }
}

// From w->d_u, the derivative by the network's output, to the parameters. After predict_of_input with the same rows.
static void predict_backward(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                             const float *obs, struct flow_workspace *w, float *gradient) {
  const int first = p->net.width[1], all = rows * pairs, columns = p->action_dim + p->embedding_dim;
  const size_t n = (size_t)first;
  const float *dz = mlp_backward_hidden(&p->net, parameters, all, &w->tape, w->d_u, true, gradient);
  float *const d_weight = gradient + p->net.weight[0];
  mlp_weight_gradient(all, columns, first, w->input, dz, true, d_weight + (size_t)p->obs_dim * n);
  memset(w->d_shared, 0, (size_t)rows * n * sizeof(float));
  for (int i = 0; i < all; ++i)
    for (size_t c = 0; c < n; ++c) w->d_shared[(size_t)(i / pairs) * n + c] += dz[(size_t)i * n + c];
  mlp_weight_gradient(rows, p->obs_dim, first, obs, w->d_shared, true, d_weight);
}

void flow_policy_cfm_backward(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                              const float *obs, const float *action, const float *eps, const float *t,
                              struct flow_workspace *w, const float *d_loss, float *gradient) {
  const size_t dims = (size_t)p->action_dim, columns = dims + (size_t)p->embedding_dim;
  for (size_t i = 0; i < (size_t)rows * (size_t)pairs; ++i) {
    const float *a = action + i / (size_t)pairs * dims, *x = w->input + i * columns;
    const float reach = cfm_reach(p->supervision, t[i]);
    const float scale = -2.0f / (float)dims * d_loss[i] * p->output_scale * reach;
    for (size_t d = 0; d < dims; ++d) {
      const float target = cfm_target(p->supervision, a[d], eps[i * dims + d], x[d]);
      w->d_u[i * dims + d] = scale * (target - reach * w->u[i * dims + d]);
    }
  }
  predict_backward(p, parameters, rows, pairs, obs, w, gradient);
}

// Step j of the learned ones starts at x [A] and ends at `next` [A].
struct flow_step {
  const float *x, *next;
  float t, dt;
};

static struct flow_step step_of(const struct flow_chain *c, size_t dims, size_t row, int j) {
  const float *chain = c->chain + row * c->chain_stride + (size_t)j * dims;
  const int k = c->steps - c->learned + j;
  const float t = 1.0f - (float)k / (float)c->steps;
  return (struct flow_step){.x = j == 0 ? c->start + row * c->start_stride : chain - dims,
                            .next = chain,
                            .t = t,
                            .dt = (1.0f - (float)(k + 1) / (float)c->steps) - t};
}

// log N(next; x + dt·u, sigma²), without the −A·log sigma that cancels in the ratio, and sigma kept from 0 as in the
// reference.
static const float SIGMA_FLOOR = 1e-6f, HALF_LOG_TWO_PI = 0.918938533f;

void flow_policy_chain_forward(const struct flow_policy *p, const float *parameters, int rows, const float *obs,
                               const struct flow_chain *c, struct flow_workspace *w, float *log_prob) {
  assert(rows <= w->obs_rows && c->learned <= w->pairs);
  const size_t dims = (size_t)p->action_dim, columns = dims + (size_t)p->embedding_dim, pairs = (size_t)c->learned;
  const float precision = 1.0f / (p->sde_sigma + SIGMA_FLOOR);
  share_observation(p, parameters, rows, obs, w->shared);
  for (size_t i = 0; i < (size_t)rows * pairs; ++i) {
    const struct flow_step s = step_of(c, dims, i / pairs, (int)(i % pairs));
    memcpy(w->input + i * columns, s.x, dims * sizeof(float));
    float *const embedding = w->input + i * columns + dims; // the first row's serves them all
    if (i < pairs) embed_time(p->embedding_dim / 2, s.t, embedding);
    else memcpy(embedding, embedding - pairs * columns, (size_t)p->embedding_dim * sizeof(float));
  }
  predict_of_input(p, parameters, rows, c->learned, w, w->u);
  for (size_t i = 0; i < (size_t)rows * pairs; ++i) {
    const struct flow_step s = step_of(c, dims, i / pairs, (int)(i % pairs));
    float sum = 0;
    for (size_t d = 0; d < dims; ++d) {
      const float z = (s.next[d] - s.x[d] - s.dt * w->u[i * dims + d]) * precision;
      sum += z * z;
    }
    log_prob[i] = -0.5f * sum - (float)dims * HALF_LOG_TWO_PI;
  }
}

void flow_policy_chain_backward(const struct flow_policy *p, const float *parameters, int rows, const float *obs,
                                const struct flow_chain *c, struct flow_workspace *w, const float *d_log_prob,
                                float *gradient) {
  const size_t dims = (size_t)p->action_dim, pairs = (size_t)c->learned;
  const float precision = 1.0f / (p->sde_sigma + SIGMA_FLOOR);
  for (size_t i = 0; i < (size_t)rows * pairs; ++i) {
    const struct flow_step s = step_of(c, dims, i / pairs, (int)(i % pairs));
    const float scale = d_log_prob[i] * s.dt * precision * p->output_scale;
    for (size_t d = 0; d < dims; ++d)
      w->d_u[i * dims + d] = scale * (s.next[d] - s.x[d] - s.dt * w->u[i * dims + d]) * precision;
  }
  predict_backward(p, parameters, rows, c->learned, obs, w, gradient);
}

void flow_policy_chain_of_noise(const struct flow_policy *p, int learned, const float *noise, float *log_prob) {
  const size_t dims = (size_t)p->action_dim;
  const float scale = p->sde_sigma / (p->sde_sigma + SIGMA_FLOOR);
  for (size_t j = 0; j < (size_t)learned; ++j) {
    float sum = 0;
    for (size_t d = 0; d < dims; ++d) sum += scale * noise[j * dims + d] * (scale * noise[j * dims + d]);
    log_prob[j] = -0.5f * sum - (float)dims * HALF_LOG_TWO_PI;
  }
}

void flow_policy_draw_pairs(const struct config *config, int action_dim, uint32_t env, uint32_t step, int rows,
                            float *eps, float *t) {
  const size_t n = (size_t)rows, pairs = (size_t)config->objective.mc_samples, noises = pairs * (size_t)action_dim;
  const uint64_t seed = (uint64_t)config->seed;
  const struct rng_stream times = rng_stream(seed, RNG_CFM_TIME, env, step);
  rng_normal_rows(rng_stream(seed, RNG_CFM_NOISE, env, step), RNG_NEXT_STEP, n, noises, noises, eps);
  if (config->objective.flow_time == FLOW_TIME_LOGNORMAL) { // the logit is normal
    const float mean = (float)config->objective.flow_time_mean, std = (float)config->objective.flow_time_std;
    rng_normal_rows(times, RNG_NEXT_STEP, n, pairs, pairs, t);
    for (size_t i = 0; i < n * pairs; ++i) t[i] = 1.0f / (1.0f + expf(-(mean + std * t[i])));
    return;
  }
  rng_uniform_rows(times, RNG_NEXT_STEP, n, pairs, pairs, t);
  if (config->objective.flow_time == FLOW_TIME_UNIFORM) return;
  const float grid = (float)config->policy.flow_steps;
  for (size_t i = 0; i < n * pairs; ++i) t[i] = 1.0f - floorf(t[i] * grid) / grid;
}

double flow_policy_sample_flops(const struct flow_policy *p, enum sampler_kind sampler, int steps) {
  const double first = p->net.width[1];
  const double evaluation = mlp_forward_flops(&p->net) - 2.0 * (p->obs_dim + p->embedding_dim) * first;
  return 2.0 * p->obs_dim * first + flow_policy_evaluations(sampler, steps) * evaluation;
}

double flow_policy_forward_flops(const struct flow_policy *p, int pairs) {
  const double shared = 2.0 * p->obs_dim * p->net.width[1];
  return shared + pairs * (mlp_forward_flops(&p->net) - shared);
}

double flow_policy_backward_flops(const struct flow_policy *p, int pairs) {
  const double shared = 2.0 * p->obs_dim * p->net.width[1]; // the weights' gradient; the input's is not needed
  return shared + pairs * (mlp_backward_flops(&p->net) - shared);
}
