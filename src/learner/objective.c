#include "learner/objective.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "learner/advantage.h"

// Rows worked at once: enough for the matrix products to run at full rate, few enough for activations to stay in cache.
enum { VALUE_BLOCK_ROWS = 512, POLICY_BLOCK_TERMS = 512 };

struct objective_workspace {
  int value_unrolls, value_rows; // a value block: unrolls; rows with the last and final observations
  int policy_rows;               // a policy block: actions
  struct mlp_tape value_tape;
  struct policy_workspace policy;
  float *memory, *obs, *value, *d_value, *final_value, *target; // of a value block
  float *log_prob, *d_log_prob;                                 // [policy_rows, terms]
  float *combined;                                              // [policy_rows, ratios]
};

void objective_layout(struct objective *o, const struct config *config, int obs_dim, int action_dim) {
  *o = (struct objective){.config = config};
  policy_layout(&o->policy, config, obs_dim, action_dim, 0);
  mlp_layout(&o->value, obs_dim, &config->value.hidden, 1, policy_net(&o->policy)->end);
  o->parameter_count = o->value.end;
}

static int value_block_unrolls(int steps) { return VALUE_BLOCK_ROWS > steps ? VALUE_BLOCK_ROWS / steps : 1; }

static int policy_block_rows(const struct policy *p) {
  return POLICY_BLOCK_TERMS > p->terms ? POLICY_BLOCK_TERMS / p->terms : 1;
}

void objective_block_rows(const struct objective *o, int unrolls, int *value_rows, int *policy_rows) {
  const int steps = (int)o->config->rollout.unroll_length, most = value_block_unrolls(steps);
  *value_rows = (unrolls < most ? unrolls : most) * steps;
  *policy_rows = policy_block_rows(&o->policy);
  if (*policy_rows > unrolls * steps) *policy_rows = unrolls * steps;
}

struct error *objective_workspace_init(struct objective_workspace **out, const struct objective *o) {
  struct objective_workspace *w = *out = calloc(1, sizeof *w);
  if (w == NULL) return error_no_memory("the objective's workspace");
  const int steps = (int)o->config->rollout.unroll_length;
  w->value_unrolls = value_block_unrolls(steps);
  w->value_rows = w->value_unrolls * (2 * steps + 1); // at the worst every step has a final observation
  w->policy_rows = policy_block_rows(&o->policy);
  const size_t rows = (size_t)w->value_rows, terms = (size_t)w->policy_rows * (size_t)o->policy.terms;
  const size_t ratios = (size_t)w->policy_rows * (size_t)o->policy.ratios;
  w->memory = malloc((rows * ((size_t)o->policy.obs_dim + 4) + 2 * terms + ratios) * sizeof(float));
  struct error *e = w->memory ? NULL : error_no_memory("the objective's workspace");
  if (e == NULL) e = mlp_tape_init(&w->value_tape, &o->value, w->value_rows, 1);
  if (e == NULL) e = policy_workspace_init(&w->policy, &o->policy, POLICY_LEARN, w->policy_rows);
  if (e != NULL) {
    objective_workspace_free(w);
    *out = NULL;
    return e;
  }
  w->obs = w->memory;
  w->value = w->obs + rows * (size_t)o->policy.obs_dim;
  w->d_value = w->value + rows;
  w->final_value = w->d_value + rows;
  w->target = w->final_value + rows;
  w->log_prob = w->target + rows;
  w->d_log_prob = w->log_prob + terms;
  w->combined = w->d_log_prob + terms;
  return NULL;
}

void objective_workspace_free(struct objective_workspace *w) {
  if (w == NULL) return;
  mlp_tape_free(&w->value_tape);
  policy_workspace_free(&w->policy);
  free(w->memory);
  free(w);
}

void objective_values(const struct objective *o, const float *parameters, size_t rows, const float *obs,
                      struct objective_workspace *w, float *values) {
  const size_t most = (size_t)w->value_unrolls * (size_t)o->config->rollout.unroll_length;
  for (size_t first = 0; first < rows; first += most) {
    const size_t block = rows - first < most ? rows - first : most;
    mlp_forward(&o->value, parameters, (int)block, obs + first * (size_t)o->policy.obs_dim, &w->value_tape,
                values + first);
  }
}

// Rows of a value block: the steps of its unrolls, then the observation after each unroll, then the final observations
// of the episodes that were truncated inside it. Returns how many rows; [*final_first, *final_end) are its finals.
static int gather_value_block(const struct objective *o, const struct minibatch *b, int unroll, int unrolls,
                              struct objective_workspace *w, int *final_first, int *final_end) {
  const size_t dim = (size_t)o->policy.obs_dim, steps = (size_t)b->steps;
  const int first_row = unroll * b->steps, rows = unrolls * b->steps;
  float *next = w->obs;
  memcpy(next, b->obs + (size_t)first_row * dim, (size_t)rows * dim * sizeof(float));
  next += (size_t)rows * dim;
  memcpy(next, b->last_obs + (size_t)unroll * dim, (size_t)unrolls * dim * sizeof(float));
  next += (size_t)unrolls * dim;
  int first = 0;
  while (first < b->finals && b->final_at[first] < first_row) ++first;
  int end = first;
  while (end < b->finals && b->final_at[end] < first_row + rows) ++end;
  if (end > first) memcpy(next, b->final_obs + (size_t)first * dim, (size_t)(end - first) * dim * sizeof(float));
  *final_first = first;
  *final_end = end;
  return (int)((size_t)unrolls * (steps + 1)) + end - first;
}

// Distance of a value from its target, and whether it pulls. Of the value and the one held within `clip` of the old one
// the farther counts, as in the PPO authors' implementation; a held one does not pull.
static float value_miss(float target, float value, float old, float clip, bool *pulls) {
  const float plain = target - value, held = target - fminf(fmaxf(value, old - clip), old + clip);
  *pulls = fabsf(plain) >= fabsf(held);
  return *pulls ? plain : held;
}

// Value loss = value_coef · mean((target − V)²·(1 − truncated)), over the whole minibatch.
// old_value [rows]: null where values are not clipped.
static void value_loss(const struct objective *o, int rows, const uint8_t *flags, const float *old_value,
                       int64_t total_actions, struct objective_workspace *w, double *sums) {
  const float scale = (float)(-2.0 * o->config->objective.value_coef / (double)total_actions);
  const float clip = old_value != NULL ? (float)o->config->objective.value_clip : INFINITY;
  for (int i = 0; i < rows; ++i) {
    const int masked = !o->config->objective.bootstrap_truncated && (flags[i] & STEP_TRUNCATED);
    bool pulls = false;
    const float old = old_value != NULL ? old_value[i] : w->value[i];
    const float miss = masked ? 0.0f : value_miss(w->target[i], w->value[i], old, clip, &pulls);
    w->d_value[i] = pulls ? scale * miss : 0.0f;
    sums[SUM_VALUE_LOSS] += (double)miss * (double)miss;
    sums[SUM_VALUE] += (double)w->value[i];
  }
}

void objective_value(const struct objective *o, const float *parameters, const struct minibatch *b,
                     int64_t total_actions, struct objective_workspace *w, bool add, float *gradient, double *sums,
                     float *advantage) {
  const struct config *c = o->config;
  const struct gae gae = {.discount = (float)c->objective.discount,
                          .lambda = (float)c->objective.gae_lambda,
                          .reward_scaling = (float)c->rollout.reward_scaling};
  for (int unroll = 0; unroll < b->unrolls; unroll += w->value_unrolls) {
    const int unrolls = b->unrolls - unroll < w->value_unrolls ? b->unrolls - unroll : w->value_unrolls;
    const int rows = unrolls * b->steps, first_row = unroll * b->steps;
    int final_first, final_end;
    const int all = gather_value_block(o, b, unroll, unrolls, w, &final_first, &final_end);
    mlp_forward(&o->value, parameters, all, w->obs, &w->value_tape, w->value);
    for (int f = final_first; f < final_end; ++f)
      w->final_value[b->final_at[f] - first_row] = w->value[rows + unrolls + f - final_first];
    for (int u = 0; u < unrolls; ++u) {
      const int at = u * b->steps;
      advantage_gae(&gae, b->steps, b->reward + first_row + at, b->flags + first_row + at, w->value + at,
                    w->value[rows + u], c->objective.bootstrap_truncated ? w->final_value + at : NULL, w->target + at,
                    advantage + first_row + at);
    }
    value_loss(o, rows, b->flags + first_row, b->old_value ? b->old_value + first_row : NULL, total_actions, w, sums);
    mlp_backward(&o->value, parameters, rows, w->obs, &w->value_tape, w->d_value, add || unroll > 0, gradient);
  }
}

// Negated surrogate of one ratio and its derivative by ρ. clip: −min(ρ·Â, clip(ρ, 1 ± ε)·Â) (FPO eq. 9; PPO-clip).
// spo: −(ρ·Â − |Â|/(2ε)·(ρ − 1)²), whose pull back never ends (Xie et al. 2024, arXiv 2401.16025). aspo: clip where Â ≥ 0, spo
// elsewhere (FPO++, arXiv 2602.02481).
static float surrogate(const struct objective *o, float ratio, float advantage, float *d_ratio) {
  const float clip = (float)o->config->objective.clip;
  const enum trust_region_kind kind = o->config->objective.trust_region;
  if (kind == TRUST_REGION_SPO || (kind == TRUST_REGION_ASPO && advantage < 0)) {
    const float pull = fabsf(advantage) / clip, away = ratio - 1.0f;
    *d_ratio = pull * away - advantage;
    return 0.5f * pull * away * away - ratio * advantage;
  }
  const float low = 1.0f - clip, high = 1.0f + clip;
  const float bounded = ratio < low ? low : ratio > high ? high : ratio;
  const float plain = ratio * advantage, limited = bounded * advantage;
  *d_ratio = plain <= limited ? -advantage : 0.0f;
  return -(plain <= limited ? plain : limited);
}

static void count_ratio(float ratio, float clip, double *sums) {
  sums[SUM_RATIO] += (double)ratio;
  sums[SUM_RATIO_SQUARED] += (double)ratio * (double)ratio;
  sums[SUM_CLIPPED] += fabsf(ratio - 1.0f) > clip;
}

// Ratios of one action: ρ = exp(new − old) of each of its log-probabilities or of their mean (FPO eq. 10), each with the
// action's advantage; d_log_prob [terms]: derivative by each new log-probability. fpo's per-sample ratios have their
// logarithm bounded.
static void action_ratios(const struct objective *o, const float *old, const float *combined, float advantage,
                          float weight, double *sums, float *d_log_prob) {
  const struct config *c = o->config;
  const int ratios = o->policy.ratios, shared = o->policy.terms / ratios; // terms of a ratio
  const bool bounded = c->objective.kind == OBJECTIVE_FPO && c->objective.ratio == RATIO_PER_SAMPLE;
  const float clip = (float)c->objective.clip, limit = bounded ? (float)c->objective.log_ratio_clip : INFINITY;
  for (int i = 0; i < ratios; ++i) {
    const float log_ratio = combined[i] - old[i];
    const int inside = !(fabsf(log_ratio) > limit); // what is not a number stays so, and is seen
    const float ratio = expf(inside ? log_ratio : copysignf(limit, log_ratio));
    float d_ratio;
    sums[SUM_POLICY_LOSS] += (double)surrogate(o, ratio, advantage, &d_ratio);
    count_ratio(ratio, clip, sums);
    const float d = inside ? weight * d_ratio * ratio / (float)o->policy.terms : 0.0f;
    for (int m = i * shared; m < (i + 1) * shared; ++m) d_log_prob[m] = d;
  }
}

void objective_policy(const struct objective *o, const float *parameters, const struct minibatch *b,
                      int64_t total_actions, const float *advantage, struct objective_workspace *w, float *gradient,
                      double *sums) {
  const struct policy *p = &o->policy;
  const int n = b->unrolls * b->steps;
  const size_t terms = (size_t)p->terms, ratios = (size_t)p->ratios;
  const float weight = (float)(1.0 / (double)total_actions);
  const double cost = o->config->objective.entropy_cost;
  for (int first = 0; first < n; first += w->policy_rows) {
    const size_t at = (size_t)first;
    const struct policy_batch block = {.rows = n - first < w->policy_rows ? n - first : w->policy_rows,
                                       .obs = b->obs + at * (size_t)p->obs_dim,
                                       .action = b->action + at * (size_t)p->action_columns,
                                       .eps = b->eps + at * (size_t)p->noises * (size_t)p->action_dim,
                                       .t = b->t + at * (size_t)p->times};
    p->method->forward(p, parameters, &block, &w->policy, w->log_prob);
    for (size_t i = 0; i < (size_t)block.rows; ++i) {
      const float *log_prob = w->log_prob + i * terms;
      for (size_t m = 0; m < terms; ++m) sums[SUM_LOG_PROB] += (double)log_prob[m];
      if (cost > 0) sums[SUM_ENTROPY] += (double)w->policy.entropy[i];
      policy_combine(p, log_prob, w->combined + i * ratios);
      action_ratios(o, b->old_log_prob + (at + i) * ratios, w->combined + i * ratios, advantage[at + i], weight, sums,
                    w->d_log_prob + i * terms);
    }
    p->method->backward(p, parameters, &block, &w->policy, w->d_log_prob, (float)-cost * weight, gradient);
  }
}
