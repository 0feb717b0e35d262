#include "common/policy.h"

#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "common/simd.h"

// --- Flows: acting is the same for both methods ---

static struct rng_stream draws(const struct policy_acting *how, uint32_t purpose, uint32_t owner, uint32_t step) {
  return rng_stream(how->seed, how->purpose + purpose, owner, step);
}

// Where actions start: x [rows, dims], rows `stride` floats apart.
static void draw_start(const struct policy_acting *how, uint32_t owner, uint32_t step, enum rng_next next, size_t rows,
                       size_t dims, size_t stride, float *x) {
  if (how->noise) rng_normal_rows(draws(how, RNG_ACTION_NOISE, owner, step), next, rows, dims, stride, x);
  for (size_t r = 0; !how->noise && r < rows; ++r) memset(x + r * stride, 0, dims * sizeof *x);
}

static void flow_act(const struct policy *p, const float *parameters, const struct policy_acting *how,
                     uint32_t first_owner, uint32_t step, int rows, const float *obs, struct policy_workspace *w,
                     float *record) {
  const size_t dims = (size_t)p->action_dim, steps = (size_t)how->flow_steps, n = (size_t)rows;
  const bool sde = how->explore && p->config->policy.sde_sigma > 0;
  const struct flow_sampling sampling = {.sampler = how->sampler,
                                         .steps = how->flow_steps,
                                         .sde_noise = sde ? w->sde_noise : NULL,
                                         .kept = how->explore ? p->action_columns / p->action_dim : 1,
                                         .chain = record};
  draw_start(how, first_owner, step, RNG_NEXT_OWNER, n, dims, dims, w->x);
  if (sde)
    rng_normal_rows(draws(how, RNG_SDE_NOISE, first_owner, step), RNG_NEXT_OWNER, n, steps * dims, steps * dims,
                    w->sde_noise);
  flow_policy_sample(&p->flow, parameters, &sampling, rows, obs, &w->flow, w->x);
  const float feather = how->explore ? (float)p->config->policy.feather_std : 0.0f;
  if (feather > 0) { // fpo alone has it, and records the action alone
    rng_normal_rows(draws(how, RNG_FEATHER, first_owner, step), RNG_NEXT_OWNER, n, dims, dims, w->x);
    for (size_t i = 0; i < n * dims; ++i) record[i] += feather * w->x[i];
  }
}

// --- fpo: the CFM loss bounds the negative log-likelihood from above (FPO §3) ---

static void fpo_layout(struct policy *p, size_t offset) {
  const struct config *c = p->config;
  flow_policy_layout(&p->flow, c, p->obs_dim, p->action_dim, offset);
  p->terms = p->noises = p->times = (int)c->objective.mc_samples;
  p->ratios = p->old_columns = c->objective.ratio == RATIO_AVERAGED ? 1 : p->terms;
  p->action_columns = p->action_dim;
}

static void fpo_draw(const struct policy *p, uint32_t env, uint32_t step, int rows, struct policy_draws out) {
  flow_policy_draw_pairs(p->config, p->action_dim, env, step, rows, out.eps, out.t);
}

static void fpo_forward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                        struct policy_workspace *w, float *log_prob) {
  flow_policy_cfm_forward(&p->flow, parameters, b->rows, p->terms, b->obs, b->action, b->eps, b->t, &w->flow, log_prob);
  const float weight = -(float)p->config->objective.loss_weight;
  for (size_t i = 0; i < (size_t)b->rows * (size_t)p->terms; ++i) log_prob[i] *= weight;
}

static void fpo_backward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                         struct policy_workspace *w, float *d_log_prob, float d_entropy, float *gradient) {
  (void)d_entropy;
  const float weight = -(float)p->config->objective.loss_weight;
  for (size_t i = 0; i < (size_t)b->rows * (size_t)p->terms; ++i) d_log_prob[i] *= weight;
  flow_policy_cfm_backward(&p->flow, parameters, b->rows, p->terms, b->obs, b->action, b->eps, b->t, &w->flow,
                           d_log_prob, gradient);
}

// --- ppo ---

static void ppo_layout(struct policy *p, size_t offset) {
  gaussian_policy_layout(&p->gaussian, p->config, p->obs_dim, p->action_dim, offset);
  p->terms = p->ratios = p->old_columns = 1;
  p->noises = p->config->objective.entropy_cost > 0;
  p->action_columns = p->action_dim;
}

static void ppo_act(const struct policy *p, const float *parameters, const struct policy_acting *how,
                    uint32_t first_owner, uint32_t step, int rows, const float *obs, struct policy_workspace *w,
                    float *record) {
  const size_t dims = (size_t)p->action_dim;
  draw_start(how, first_owner, step, RNG_NEXT_OWNER, (size_t)rows, dims, dims, record);
  gaussian_policy_sample(&p->gaussian, parameters, rows, obs, &w->gaussian, record);
}

static void ppo_draw(const struct policy *p, uint32_t env, uint32_t step, int rows, struct policy_draws out) {
  if (p->noises == 0) return;
  const size_t dims = (size_t)p->action_dim;
  rng_normal_rows(rng_stream((uint64_t)p->config->seed, RNG_ENTROPY, env, step), RNG_NEXT_STEP, (size_t)rows, dims,
                  dims, out.eps);
}

static void ppo_forward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                        struct policy_workspace *w, float *log_prob) {
  gaussian_policy_forward(&p->gaussian, parameters, b->rows, b->obs, b->action, p->noises ? b->eps : NULL, &w->gaussian,
                          log_prob, w->entropy);
}

static void ppo_backward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                         struct policy_workspace *w, float *d_log_prob, float d_entropy, float *gradient) {
  gaussian_policy_backward(&p->gaussian, parameters, b->rows, b->obs, b->action, p->noises ? b->eps : NULL,
                           &w->gaussian, d_log_prob, d_entropy, gradient);
}

// --- dppo: the noisy flow steps are the actions. Its draws are the start of the chain and the noise of each step, so
// that x after each learned step is all that is recorded; where the first steps do not learn, x before as well ---

static void dppo_layout(struct policy *p, size_t offset) {
  const int steps = (int)p->config->policy.flow_steps, setting = (int)p->config->objective.denoising_steps;
  flow_policy_layout(&p->flow, p->config, p->obs_dim, p->action_dim, offset);
  p->flow.supervision = SUPERVISION_VELOCITY; // the network's output
  p->terms = setting == DENOISING_ALL ? steps : setting == DENOISING_LAST_HALF ? steps - steps / 2 : setting;
  p->ratios = p->terms;
  p->noises = steps + 1;
  p->action_columns = (p->terms == steps ? steps : p->terms + 1) * p->action_dim;
}

static struct flow_chain chain_of(const struct policy *p, const struct policy_batch *b) {
  const size_t dims = (size_t)p->action_dim, record = (size_t)p->action_columns;
  const int steps = (int)p->config->policy.flow_steps, whole = p->terms == steps;
  return (struct flow_chain){.steps = steps,
                             .learned = p->terms,
                             .start = whole ? b->eps : b->action,
                             .start_stride = whole ? (size_t)p->noises * dims : record,
                             .chain = whole ? b->action : b->action + dims,
                             .chain_stride = record};
}

static void dppo_draw(const struct policy *p, uint32_t env, uint32_t step, int rows, struct policy_draws out) {
  const struct policy_acting how = policy_training(p->config);
  const size_t dims = (size_t)p->action_dim, steps = (size_t)how.flow_steps, terms = (size_t)p->terms;
  const size_t stride = (1 + steps) * dims;
  draw_start(&how, env, step, RNG_NEXT_STEP, (size_t)rows, dims, stride, out.eps);
  rng_normal_rows(draws(&how, RNG_SDE_NOISE, env, step), RNG_NEXT_STEP, (size_t)rows, steps * dims, stride,
                  out.eps + dims);
  for (size_t r = 0; r < (size_t)rows; ++r)
    flow_policy_chain_of_noise(&p->flow, p->terms, out.eps + r * stride + (1 + steps - terms) * dims,
                               out.old + r * terms);
}

static void dppo_forward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                         struct policy_workspace *w, float *log_prob) {
  const struct flow_chain chain = chain_of(p, b);
  flow_policy_chain_forward(&p->flow, parameters, b->rows, b->obs, &chain, &w->flow, log_prob);
}

static void dppo_backward(const struct policy *p, const float *parameters, const struct policy_batch *b,
                          struct policy_workspace *w, float *d_log_prob, float d_entropy, float *gradient) {
  (void)d_entropy;
  const struct flow_chain chain = chain_of(p, b);
  flow_policy_chain_backward(&p->flow, parameters, b->rows, b->obs, &chain, &w->flow, d_log_prob, gradient);
}

static const struct policy_method METHODS[] = {
    [OBJECTIVE_FPO] = {fpo_layout, flow_act, fpo_draw, fpo_forward, fpo_backward},
    [OBJECTIVE_PPO] = {ppo_layout, ppo_act, ppo_draw, ppo_forward, ppo_backward},
    [OBJECTIVE_DPPO] = {dppo_layout, flow_act, dppo_draw, dppo_forward, dppo_backward},
};

// --- The interface ---

static bool is_gaussian(const struct policy *p) { return p->config->objective.kind == OBJECTIVE_PPO; }

void policy_layout(struct policy *p, const struct config *config, int obs_dim, int action_dim, size_t offset) {
  *p = (struct policy){
      .config = config, .method = &METHODS[config->objective.kind], .obs_dim = obs_dim, .action_dim = action_dim};
  p->method->layout(p, offset);
}

void policy_initialise(const struct policy *p, uint64_t seed, float *parameters) {
  mlp_initialise(policy_net(p), seed, 0, parameters);
  if (is_gaussian(p)) gaussian_policy_set_std(&p->gaussian, p->config->policy.initial_std, parameters);
}

const struct mlp *policy_net(const struct policy *p) { return is_gaussian(p) ? &p->gaussian.net : &p->flow.net; }

struct error *policy_workspace_init(struct policy_workspace *w, const struct policy *p, enum policy_use use, int rows) {
  *w = (struct policy_workspace){0};
  const int backward = use == POLICY_LEARN, pairs = use == POLICY_EVALUATE || use == POLICY_EXPLORE ? 1 : p->terms;
  if (is_gaussian(p)) TRY(gaussian_workspace_init(&w->gaussian, &p->gaussian, rows, backward));
  else TRY(flow_workspace_init(&w->flow, &p->flow, rows, pairs, backward));
  const size_t x = simd_padded((size_t)rows * (size_t)p->action_dim);
  const bool noisy = use == POLICY_EXPLORE && p->config->policy.sde_sigma > 0;
  const size_t sde = noisy ? x * (size_t)p->config->policy.flow_steps : 0;
  w->memory = malloc((x + sde + (size_t)rows) * sizeof(float));
  if (w->memory == NULL) {
    policy_workspace_free(w);
    return error_no_memory("the policy's workspace");
  }
  w->x = w->memory;
  w->sde_noise = w->x + x;
  w->entropy = w->sde_noise + sde;
  return NULL;
}

void policy_workspace_free(struct policy_workspace *w) {
  gaussian_workspace_free(&w->gaussian);
  flow_workspace_free(&w->flow);
  free(w->memory);
  *w = (struct policy_workspace){0};
}

struct policy_acting policy_training(const struct config *config) {
  return (struct policy_acting){.explore = true,
                                .noise = config->policy.noise != 0,
                                .sampler = config->policy.sampler,
                                .flow_steps = (int)config->policy.flow_steps,
                                .seed = (uint64_t)config->seed};
}

struct policy_acting policy_evaluation(const struct config *config) {
  const int64_t own = config->policy.flow_steps, noise = config->eval.noise;
  return (struct policy_acting){.noise = noise == NOISE_AUTO ? config->objective.kind != OBJECTIVE_PPO
                                                             : noise != 0, // as Brax evaluates
                                .sampler = config->eval.sampler,
                                .flow_steps = (int)(config->eval.flow_steps ? config->eval.flow_steps : own),
                                .seed = (uint64_t)config->eval.seed,
                                .purpose = RNG_EVAL};
}

void policy_squash(size_t count, const float *raw, float *action) {
  for (size_t i = 0; i < count; i += SIMD_LANES) {
    const size_t part = count - i < SIMD_LANES ? count - i : SIMD_LANES;
    simd_store_part(action + i, SIMD_TANH(simd_load_part(raw + i, part)), part);
  }
}

void policy_combine(const struct policy *p, const float *terms, float *out) {
  if (p->ratios == p->terms) {
    memcpy(out, terms, (size_t)p->terms * sizeof *out);
    return;
  }
  float mean = 0;
  for (int m = 0; m < p->terms; ++m) mean += terms[m];
  *out = mean / (float)p->terms;
}

int policy_evaluations(const struct policy *p, const struct policy_acting *how) {
  return is_gaussian(p) ? 1 : flow_policy_evaluations(how->sampler, how->flow_steps);
}

double policy_act_flops(const struct policy *p, const struct policy_acting *how) {
  return is_gaussian(p) ? mlp_forward_flops(&p->gaussian.net)
                        : flow_policy_sample_flops(&p->flow, how->sampler, how->flow_steps);
}

double policy_forward_flops(const struct policy *p) {
  return is_gaussian(p) ? mlp_forward_flops(&p->gaussian.net) : flow_policy_forward_flops(&p->flow, p->terms);
}

double policy_backward_flops(const struct policy *p) {
  return is_gaussian(p) ? mlp_backward_flops(&p->gaussian.net) : flow_policy_backward_flops(&p->flow, p->terms);
}
