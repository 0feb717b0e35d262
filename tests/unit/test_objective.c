// The objective of a minibatch, of every method, against the whole of it written naively in double: losses, ratios and
// clipping, the gradient by central differences, and the freedom to cut a minibatch into slices.
#include "helpers.h"

#include "learner/advantage.h"
#include "learner/objective.h"

// Big enough for several blocks of rows and of pairs, with a rest; every network is small, for the differences' sake.
enum { OBS = 5, ACTIONS = 3, MAX_TERMS = 3, STEPS = 6, UNROLLS = 101, ROWS = UNROLLS * STEPS };

struct variant {
  enum objective_kind kind;
  enum ratio_kind ratio;
  enum supervision_kind supervision;
  enum trust_region_kind trust_region;
  int flow_steps; // dppo learns from the last 3
  bool bootstrap;
};
static const struct variant VARIANTS[] = {
    {.ratio = RATIO_AVERAGED, .supervision = SUPERVISION_EPS},
    {.ratio = RATIO_AVERAGED, .supervision = SUPERVISION_EPS, .bootstrap = true},
    {.ratio = RATIO_AVERAGED, .supervision = SUPERVISION_VELOCITY, .trust_region = TRUST_REGION_SPO},
    {.ratio = RATIO_AVERAGED, .supervision = SUPERVISION_VELOCITY, .bootstrap = true},
    {.ratio = RATIO_PER_SAMPLE, .supervision = SUPERVISION_EPS},
    {.ratio = RATIO_PER_SAMPLE, .supervision = SUPERVISION_EPS, .bootstrap = true},
    {.ratio = RATIO_PER_SAMPLE, .supervision = SUPERVISION_VELOCITY, .trust_region = TRUST_REGION_ASPO},
    {.ratio = RATIO_PER_SAMPLE, .supervision = SUPERVISION_DATA},
    {.kind = OBJECTIVE_PPO},
    {.kind = OBJECTIVE_PPO, .trust_region = TRUST_REGION_ASPO, .bootstrap = true},
    {.kind = OBJECTIVE_DPPO, .flow_steps = 3},
    {.kind = OBJECTIVE_DPPO, .flow_steps = 5, .trust_region = TRUST_REGION_SPO},
};
enum { DEFAULT = 0, BOOTSTRAPPING = 1, PER_SAMPLE = 4, GAUSSIAN = 8, CHAIN = 10, PART_OF_CHAIN = 11 };

struct fixture {
  struct config config;
  struct objective objective;
  struct objective_workspace *workspace;
  struct minibatch batch;
  size_t count; // parameters
  size_t terms, ratios;
  float *parameters, *old;
  double *exact;                      // the parameters in double
  double *value, *target, *advantage; // naive, [ROWS]; they carry no gradient
  float *obs, *last_obs, *final_obs, *action, *eps, *t, *reward;
  int32_t *final_at;
  uint8_t *flags;
};

static struct config config_of(const struct variant *v) {
  struct config c = {0};
  c.rollout.unroll_length = STEPS;
  c.rollout.reward_scaling = 3;
  c.policy.hidden = hidden_layers(2, (const int[]){7, 6});
  c.policy.output_scale = 0.25;
  c.policy.time_frequencies = 2;
  c.policy.flow_steps = v->flow_steps ? v->flow_steps : 10;
  c.policy.sde_sigma = 0.5;
  c.policy.noise = 1;
  c.value.hidden = hidden_layers(2, (const int[]){9, 4});
  c.objective.kind = v->kind;
  c.objective.ratio = v->ratio;
  c.objective.supervision = v->supervision;
  c.objective.trust_region = v->trust_region;
  c.objective.mc_samples = 3;
  c.objective.loss_weight = 3;
  c.objective.denoising_steps = 3;
  c.objective.entropy_cost = v->kind == OBJECTIVE_PPO ? 0.3 : 0;
  c.objective.clip = 0.05;
  c.objective.log_ratio_clip = 0.15;
  c.objective.value_coef = 0.4;
  c.objective.discount = 0.97;
  c.objective.gae_lambda = 0.9;
  c.objective.normalize_advantage = true;
  c.objective.bootstrap_truncated = v->bootstrap;
  return c;
}

static double naive_value(const struct fixture *f, const double *parameters, const float *obs) {
  double input[OBS], value;
  for (int i = 0; i < OBS; ++i) input[i] = (double)obs[i];
  naive_mlp(&f->objective.value, parameters, input, &value);
  return value;
}

// Log-likelihood of flow step j of the learned ones, spec/algorithm §8. x before a step and after it stand in the
// record; before the first of all steps it is the noise that the chain starts from.
static double naive_flow_step(const struct fixture *f, const double *parameters, size_t row, size_t j) {
  const struct policy *p = &f->objective.policy;
  const size_t steps = (size_t)f->config.policy.flow_steps, columns = (size_t)p->action_columns;
  const float *end = f->action + (row + 1) * columns - (f->terms - 1 - j) * ACTIONS, *next = end - ACTIONS;
  const float *from = f->terms == steps && j == 0 ? f->eps + row * (steps + 1) * ACTIONS : next - ACTIONS;
  const double t = 1 - (double)(steps - f->terms + j) / (double)steps, sigma = f->config.policy.sde_sigma + 1e-6;
  double x[ACTIONS], u[ACTIONS], sum = 0;
  for (int d = 0; d < ACTIONS; ++d) x[d] = (double)from[d];
  naive_velocity(&p->flow, parameters, f->obs + row * OBS, x, t, u);
  for (int d = 0; d < ACTIONS; ++d) {
    const double z = ((double)next[d] - x[d] + u[d] / (double)steps) / sigma;
    sum += z * z;
  }
  return -sum / 2 - ACTIONS / 2.0 * log(2 * 3.14159265358979323846);
}

// The log-probability that ratios are made of.
static double naive_term(const struct fixture *f, const double *parameters, size_t row, size_t term) {
  const struct policy *p = &f->objective.policy;
  const float *obs = f->obs + row * OBS;
  const size_t i = row * f->terms + term;
  switch (f->config.objective.kind) {
  case OBJECTIVE_PPO:
    return naive_gaussian(&p->gaussian, parameters, obs, f->action + row * ACTIONS);
  case OBJECTIVE_DPPO:
    return naive_flow_step(f, parameters, row, term);
  default:
    return -f->config.objective.loss_weight *
           naive_cfm_loss(&p->flow, parameters, obs, f->action + row * ACTIONS, f->eps + i * ACTIONS, f->t[i]);
  }
}

// Spec/algorithm §5 in double; a truncated step is masked, or ends in the value of its final observation.
static void naive_advantages(struct fixture *f) {
  const struct config *c = &f->config;
  const bool bootstrap = c->objective.bootstrap_truncated;
  double *final_value = doubles(ROWS);
  for (size_t i = 0; i < ROWS; ++i) f->value[i] = naive_value(f, f->exact, f->obs + i * OBS);
  for (int i = 0; i < f->batch.finals; ++i)
    final_value[f->final_at[i]] = naive_value(f, f->exact, f->final_obs + i * OBS);
  for (size_t u = 0; u < UNROLLS; ++u) {
    const double last = naive_value(f, f->exact, f->last_obs + u * OBS);
    double next_value = last, next_target = last, sum = 0;
    for (size_t i = (u + 1) * STEPS; i-- > u * STEPS;) {
      const int cut = (f->flags[i] & STEP_TRUNCATED) != 0, masked = cut && !bootstrap;
      const double d = f->flags[i] & STEP_TERMINATED ? 0 : c->objective.discount;
      const double r = c->rollout.reward_scaling * (double)f->reward[i];
      if (cut && bootstrap) next_value = next_target = final_value[i];
      const double delta = masked ? 0 : r + d * next_value - f->value[i];
      sum = delta + (cut ? 0 : d * c->objective.gae_lambda * sum);
      f->advantage[i] = masked ? 0 : r + d * next_target - f->value[i];
      next_target = f->target[i] = f->value[i] + sum;
      next_value = f->value[i];
    }
  }
  free(final_value);
}

// Old log-probabilities near the new ones, as training has them: ratios on both sides of both clips.
static void set_old(struct fixture *f, double spread, double offset, struct source *source) {
  for (size_t i = 0; i < ROWS; ++i) {
    double sum = 0;
    for (size_t m = 0; m < f->terms; ++m) {
      const double old = naive_term(f, f->exact, i, m) + offset + (spread > 0 ? spread * source_normal(source) : 0);
      if (f->ratios > 1) f->old[i * f->ratios + m] = (float)old;
      sum += old;
    }
    if (f->ratios == 1) f->old[i] = (float)(sum / (double)f->terms);
  }
}

static struct fixture fixture_of(const struct variant *v) {
  struct fixture f = {.config = config_of(v)};
  const bool bootstrap = v->bootstrap;
  struct source source = {91};
  objective_layout(&f.objective, &f.config, OBS, ACTIONS);
  f.count = f.objective.parameter_count;
  f.parameters = normal_floats(&source, f.count, 0.5);
  f.exact = to_doubles(f.count, f.parameters);
  f.obs = normal_floats(&source, ROWS * OBS, 1);
  f.last_obs = normal_floats(&source, UNROLLS * OBS, 1);
  f.final_obs = normal_floats(&source, ROWS * OBS, 1);
  const struct policy *p = &f.objective.policy;
  f.terms = (size_t)p->terms;
  f.ratios = (size_t)p->ratios;
  assert_true(f.terms <= MAX_TERMS);
  const size_t columns = (size_t)p->action_columns, noises = (size_t)p->noises * ACTIONS;
  f.action = normal_floats(&source, ROWS * columns, 1);
  f.eps = normal_floats(&source, ROWS * noises, 1);
  f.t = uniform_floats(&source, ROWS * (size_t)p->times);
  for (size_t i = 0; v->kind == OBJECTIVE_DPPO && i < ROWS; ++i) // a chain's steps are of the size of its noise
    for (size_t k = 0; k < columns; ++k) {
      const float *before = k < ACTIONS ? f.eps + i * noises + k : f.action + i * columns + k - ACTIONS;
      f.action[i * columns + k] = *before + 0.5f * f.action[i * columns + k];
    }
  f.reward = normal_floats(&source, ROWS, 1);
  f.final_at = zeroed(ROWS, sizeof *f.final_at);
  f.flags = zeroed(ROWS, sizeof *f.flags);
  f.old = floats(ROWS * f.ratios);
  f.value = doubles(ROWS);
  f.target = doubles(ROWS);
  f.advantage = doubles(ROWS);
  for (size_t i = 0; i < ROWS; ++i) {
    if (source_uniform(&source) < 0.1) f.flags[i] |= STEP_TERMINATED;
    if (source_uniform(&source) < 0.15) f.flags[i] |= STEP_TRUNCATED;
    if (bootstrap && f.flags[i] & STEP_TRUNCATED) f.final_at[f.batch.finals++] = (int32_t)i;
  }
  set_old(&f, 0.12, 0, &source);
  f.batch.unrolls = UNROLLS;
  f.batch.steps = STEPS;
  f.batch.obs = f.obs;
  f.batch.last_obs = f.last_obs;
  f.batch.final_obs = bootstrap ? f.final_obs : NULL;
  f.batch.final_at = f.final_at;
  f.batch.action = f.action;
  f.batch.eps = f.eps;
  f.batch.t = f.t;
  f.batch.old_log_prob = f.old;
  f.batch.reward = f.reward;
  f.batch.flags = f.flags;
  naive_advantages(&f);
  return f;
}

// The objective points to its config, so that it is laid out again where the fixture has come to rest.
static void fixture_settle(struct fixture *f) {
  objective_layout(&f->objective, &f->config, OBS, ACTIONS);
  must(objective_workspace_init(&f->workspace, &f->objective));
}

static void fixture_free(struct fixture *f) {
  objective_workspace_free(f->workspace);
  free(f->parameters), free(f->old), free(f->exact), free(f->value), free(f->target);
  free(f->advantage), free(f->obs), free(f->last_obs), free(f->final_obs), free(f->action), free(f->eps), free(f->t);
  free(f->reward), free(f->final_at), free(f->flags);
}

// Advantages of the surrogate: normalised over the minibatch, in float as the learner hands them over.
static float *normalised(const double *advantage) {
  double mean = 0, squares = 0;
  float *out = floats(ROWS);
  for (size_t i = 0; i < ROWS; ++i) mean += advantage[i] / ROWS;
  for (size_t i = 0; i < ROWS; ++i) squares += (advantage[i] - mean) * (advantage[i] - mean) / ROWS;
  for (size_t i = 0; i < ROWS; ++i) out[i] = (float)((advantage[i] - mean) / (sqrt(squares) + 1e-8));
  return out;
}

struct naive_sums {
  double policy, value, ratio, ratio_squared, clipped, log_prob, entropy, values;
  double inside, limited; // ratios inside 1 ± clip; per-sample ratios at the limit of the logarithm
};

static void naive_ratio(const struct fixture *f, double log_ratio, double advantage, struct naive_sums *s) {
  const double clip = f->config.objective.clip, ratio = exp(log_ratio);
  const enum trust_region_kind kind = f->config.objective.trust_region;
  if (kind == TRUST_REGION_SPO || (kind == TRUST_REGION_ASPO && advantage < 0))
    s->policy -= ratio * advantage - fabs(advantage) / (2 * clip) * (ratio - 1) * (ratio - 1);
  else s->policy -= fmin(ratio * advantage, fmin(fmax(ratio, 1 - clip), 1 + clip) * advantage);
  s->ratio += ratio;
  s->ratio_squared += ratio * ratio;
  s->clipped += fabs(ratio - 1) > clip;
  s->inside += fabs(ratio - 1) <= clip;
}

// All sums for any parameters; targets and advantages stay those of the fixture's parameters.
static struct naive_sums naive_objective(const struct fixture *f, const double *parameters, const float *advantage) {
  const struct config *c = &f->config;
  struct naive_sums s = {0};
  for (size_t i = 0; i < ROWS; ++i) {
    const double value = naive_value(f, parameters, f->obs + i * OBS);
    const int masked = !c->objective.bootstrap_truncated && f->flags[i] & STEP_TRUNCATED;
    s.value += masked ? 0 : (f->target[i] - value) * (f->target[i] - value);
    s.values += value;
    double term[MAX_TERMS], mean = 0;
    for (size_t m = 0; m < f->terms; ++m) {
      term[m] = naive_term(f, parameters, i, m);
      mean += term[m] / (double)f->terms;
      s.log_prob += term[m];
    }
    if (c->objective.entropy_cost > 0)
      s.entropy += naive_entropy(&f->objective.policy.gaussian, parameters, f->obs + i * OBS, f->eps + i * ACTIONS);
    if (f->ratios == 1) {
      naive_ratio(f, mean - (double)f->old[i], (double)advantage[i], &s);
      continue;
    }
    for (size_t m = 0; m < f->terms; ++m) {
      const double limit = c->objective.kind == OBJECTIVE_FPO ? c->objective.log_ratio_clip : INFINITY;
      const double difference = term[m] - (double)f->old[i * f->ratios + m];
      s.limited += fabs(difference) > limit;
      naive_ratio(f, fmin(fmax(difference, -limit), limit), (double)advantage[i], &s);
    }
  }
  return s;
}

static double ratios_of(const struct fixture *f) { return (double)ROWS * (double)f->ratios; }

// What is differentiated: policy loss, less the entropy's share, plus value loss.
static double naive_total(const struct fixture *f, const double *parameters, const float *advantage) {
  const struct naive_sums s = naive_objective(f, parameters, advantage);
  return s.policy / ratios_of(f) - f->config.objective.entropy_cost * s.entropy / ROWS +
         f->config.objective.value_coef * s.value / ROWS;
}

static void layout_is_policy_then_value(void **state) {
  (void)state;
  struct config config = config_of(&VARIANTS[DEFAULT]);
  struct objective o;
  objective_layout(&o, &config, OBS, ACTIONS);
  assert_int_equal(o.policy.flow.net.weight[0], 0);
  assert_int_equal(o.value.weight[0], o.policy.flow.net.end);
  assert_int_equal(o.parameter_count, o.value.end);
  assert_int_equal(o.parameter_count, (12 * 7 + 7 + 7 * 6 + 6 + 6 * 3 + 3) + (5 * 9 + 9 + 9 * 4 + 4 + 4 + 1));
  assert_int_equal(o.value.width[o.value.layers], 1);
  assert_int_equal(o.policy.obs_dim, OBS);
  assert_int_equal(o.policy.action_dim, ACTIONS);
  assert_int_equal(o.policy.terms, 3);
  assert_ptr_equal(o.config, &config);
}

static void sums_and_advantages_equal_naive(void **state) {
  (void)state;
  for (size_t v = 0; v < COUNT_OF(VARIANTS); ++v) {
    struct fixture f = fixture_of(&VARIANTS[v]);
    fixture_settle(&f);
    float *gradient = floats(f.count), *got = floats(ROWS + 1), *advantage = normalised(f.advantage);
    double sums[OBJECTIVE_SUMS] = {0};
    got[ROWS] = 8;
    objective_value(&f.objective, f.parameters, &f.batch, ROWS, f.workspace, true, gradient, sums, got);
    assert_near("advantage", ROWS, got, f.advantage, 1e-5);
    assert_true(got[ROWS] == 8);
    for (size_t i = 0; i < policy_net(&f.objective.policy)->end; ++i) assert_true(gradient[i] == 0);
    objective_policy(&f.objective, f.parameters, &f.batch, ROWS, advantage, f.workspace, gradient, sums);
    const struct naive_sums s = naive_objective(&f, f.exact, advantage);
    assert_number("value loss", sums[SUM_VALUE_LOSS], s.value, 1e-5, 1);
    assert_number("values", sums[SUM_VALUE], s.values, 1e-5, ROWS * 0.1);
    assert_number("policy loss", sums[SUM_POLICY_LOSS], s.policy, 1e-5, ROWS * 0.1);
    assert_number("ratios", sums[SUM_RATIO], s.ratio, 1e-6, 1);
    assert_number("squared ratios", sums[SUM_RATIO_SQUARED], s.ratio_squared, 1e-6, 1);
    assert_number("clipped", sums[SUM_CLIPPED], s.clipped, 1e-12, 1);
    assert_number("log-probabilities", sums[SUM_LOG_PROB], s.log_prob, 1e-5, 1);
    assert_number("entropy", sums[SUM_ENTROPY], s.entropy, 1e-5, 1);
    // The data are such that the cases are there to be got wrong.
    assert_true(s.clipped > 50 && s.inside > 50);
    if (VARIANTS[v].ratio == RATIO_PER_SAMPLE) assert_true(s.limited > 50);
    free(gradient), free(got), free(advantage);
    fixture_free(&f);
  }
}

// Into `gradient` and `sums`: both halves of the objective, given normalised advantages.
static void whole_objective(struct fixture *f, const float *advantage, float *gradient, double *sums) {
  float *raw = floats(ROWS);
  objective_value(&f->objective, f->parameters, &f->batch, ROWS, f->workspace, true, gradient, sums, raw);
  objective_policy(&f->objective, f->parameters, &f->batch, ROWS, advantage, f->workspace, gradient, sums);
  free(raw);
}

// Central difference of the naive total along `direction`, which is zero outside [first, end).
static double difference_along(const struct fixture *f, const float *advantage, const float *direction, size_t first,
                               size_t end) {
  const double h = 1e-6;
  double *moved = doubles(f->count), difference = 0;
  memcpy(moved, f->exact, f->count * sizeof *moved);
  for (int side = -1; side <= 1; side += 2) {
    for (size_t i = first; i < end; ++i) moved[i] = f->exact[i] + side * h * (double)direction[i];
    difference += side * naive_total(f, moved, advantage) / (2 * h);
  }
  free(moved);
  return difference;
}

// Each tensor alone and all at once, along random directions.
static void gradient_equals_differences_along_random_directions(void **state) {
  (void)state;
  struct source source = {92};
  for (size_t v = 0; v < COUNT_OF(VARIANTS); ++v) {
    struct fixture f = fixture_of(&VARIANTS[v]);
    fixture_settle(&f);
    float *gradient = floats(f.count), *advantage = normalised(f.advantage);
    double sums[OBJECTIVE_SUMS] = {0};
    whole_objective(&f, advantage, gradient, sums);
    size_t bound[4 * MLP_MAX_LAYERS + 2], tensors = 0;
    const struct mlp *const nets[] = {policy_net(&f.objective.policy), &f.objective.value};
    for (size_t n = 0; n < COUNT_OF(nets); ++n)
      for (int l = 0; l < nets[n]->layers; ++l) {
        bound[tensors++] = nets[n]->weight[l];
        bound[tensors++] = nets[n]->bias[l];
      }
    bound[tensors] = f.count;
    for (size_t k = 0; k <= tensors; ++k) {
      const size_t first = k < tensors ? bound[k] : 0, end = k < tensors ? bound[k + 1] : f.count;
      for (int round = 0; round < 3; ++round) {
        float *direction = normal_floats(&source, f.count, 1);
        double slope = 0, norm = 0;
        for (size_t i = first; i < end; ++i) slope += (double)gradient[i] * (double)direction[i];
        for (size_t i = first; i < end; ++i) norm += (double)gradient[i] * (double)gradient[i];
        assert_true(norm > 0);
        const double want = difference_along(&f, advantage, direction, first, end);
        assert_number("directional derivative", slope, want, 2e-4, sqrt(norm)); // spo's pull is 1/clip times a rounding
        free(direction);
      }
    }
    free(gradient), free(advantage);
    fixture_free(&f);
  }
}

// Every parameter alone.
static void gradient_equals_differences_in_every_parameter(void **state) {
  (void)state;
  static const size_t some[] = {BOOTSTRAPPING, PER_SAMPLE, GAUSSIAN, CHAIN, PART_OF_CHAIN};
  for (size_t v = 0; v < COUNT_OF(some); ++v) {
    struct fixture f = fixture_of(VARIANTS + some[v]);
    fixture_settle(&f);
    float *gradient = floats(f.count), *advantage = normalised(f.advantage), *unit = floats(f.count);
    double sums[OBJECTIVE_SUMS] = {0}, *want = doubles(f.count);
    whole_objective(&f, advantage, gradient, sums);
    for (size_t i = 0; i < f.count; ++i) {
      unit[i] = 1;
      want[i] = difference_along(&f, advantage, unit, i, i + 1);
      unit[i] = 0;
    }
    const size_t policy = policy_net(&f.objective.policy)->end;
    assert_near("policy gradient", policy, gradient, want, 5e-5); // spo's pull is 1/clip times the rounding of a ratio
    assert_near("value gradient", f.count - policy, gradient + policy, want + policy, 2e-5);
    free(gradient), free(advantage), free(unit), free(want);
    fixture_free(&f);
  }
}

// The farther of the value and the one near the old one counts; only a value that counts itself has a gradient.
static void values_are_clipped_to_the_old_ones(void **state) {
  (void)state;
  struct fixture f = fixture_of(&VARIANTS[0]);
  const double clip = f.config.objective.value_clip = 0.3;
  struct source source = {5};
  float *old = floats(ROWS), *gradient = floats(f.count), *advantage = floats(ROWS);
  double sums[OBJECTIVE_SUMS] = {0}, want = 0, *weight = doubles(ROWS);
  size_t held_count = 0;
  fixture_settle(&f);
  for (size_t i = 0; i < ROWS; ++i) {
    old[i] = (float)(f.value[i] + 0.5 * source_normal(&source));
    const double near = fmin(fmax(f.value[i], (double)old[i] - clip), (double)old[i] + clip);
    const double plain = f.target[i] - f.value[i], held = f.target[i] - near;
    const bool masked = (f.flags[i] & STEP_TRUNCATED) != 0 && !f.config.objective.bootstrap_truncated;
    if (masked) continue;
    held_count += fabs(held) > fabs(plain);
    want += fmax(plain * plain, held * held);
    weight[i] = fabs(held) > fabs(plain) ? 0 : -2 * f.config.objective.value_coef * plain / ROWS;
  }
  f.batch.old_value = old;
  objective_value(&f.objective, f.parameters, &f.batch, ROWS, f.workspace, false, gradient, sums, advantage);
  assert_true(held_count > ROWS / 10 && held_count < ROWS / 2);
  if (!(fabs(sums[SUM_VALUE_LOSS] - want) < 1e-5 * want)) fail_msg("loss %g, not %g", sums[SUM_VALUE_LOSS], want);
  const size_t first = policy_net(&f.objective.policy)->end;
  const double step = 1e-6;
  double *by_difference = doubles(f.count - first);
  for (size_t p = first; p < f.count; ++p) {
    const double kept = f.exact[p];
    for (int side = -1; side <= 1; side += 2) {
      f.exact[p] = kept + side * step;
      for (size_t i = 0; i < ROWS; ++i)
        if (weight[i] != 0)
          by_difference[p - first] += side * weight[i] * naive_value(&f, f.exact, f.obs + i * OBS) / (2 * step);
    }
    f.exact[p] = kept;
  }
  assert_near("clipped value gradient", f.count - first, gradient + first, by_difference, 2e-5);
  free(old), free(gradient), free(advantage), free(weight), free(by_difference);
  fixture_free(&f);
}

// A slice of whole unrolls, with its own share of the final observations.
static struct minibatch slice_of(const struct fixture *f, int first, int end, int32_t *final_at) {
  struct minibatch b = f->batch;
  const size_t row = (size_t)(first * STEPS);
  const struct policy *p = &f->objective.policy;
  b.unrolls = end - first;
  b.obs += row * OBS;
  b.last_obs += first * OBS;
  b.action += row * (size_t)p->action_columns;
  b.eps += row * (size_t)p->noises * ACTIONS;
  b.t += row * (size_t)p->times;
  b.old_log_prob += row * f->ratios;
  b.reward += row;
  b.flags += row;
  b.finals = 0;
  b.final_at = final_at;
  for (int i = 0; i < f->batch.finals; ++i) {
    if (f->final_at[i] < first * STEPS || f->final_at[i] >= end * STEPS) continue;
    if (b.finals == 0) b.final_obs = f->batch.final_obs + i * OBS;
    final_at[b.finals++] = f->final_at[i] - first * STEPS;
  }
  return b;
}

static void slices_add_up_to_the_whole(void **state) {
  (void)state;
  static const int cut[] = {0, 1, 44, 44, UNROLLS};
  for (size_t v = 0; v < COUNT_OF(VARIANTS); ++v) {
    struct fixture f = fixture_of(&VARIANTS[v]);
    fixture_settle(&f);
    float *whole = floats(f.count), *added = floats(f.count), *advantage = normalised(f.advantage);
    float *raw = floats(ROWS), *raw_slices = floats(ROWS);
    double whole_sums[OBJECTIVE_SUMS] = {0}, sums[OBJECTIVE_SUMS] = {0};
    whole_objective(&f, advantage, whole, whole_sums);
    double untouched[OBJECTIVE_SUMS] = {0};
    objective_value(&f.objective, f.parameters, &f.batch, ROWS, f.workspace, true, added, untouched, raw);
    memset(added, 0, f.count * sizeof *added);
    for (size_t k = 0; k + 1 < COUNT_OF(cut); ++k) { // one of them is empty
      int32_t final_at[ROWS];
      const struct minibatch slice = slice_of(&f, cut[k], cut[k + 1], final_at);
      const size_t row = (size_t)(cut[k] * STEPS);
      objective_value(&f.objective, f.parameters, &slice, ROWS, f.workspace, true, added, sums, raw_slices + row);
      objective_policy(&f.objective, f.parameters, &slice, ROWS, advantage + row, f.workspace, added, sums);
    }
    double *want = to_doubles(f.count, whole), *want_raw = to_doubles(ROWS, raw);
    assert_near("advantage", ROWS, raw_slices, want_raw, 2e-6);
    assert_near("gradient", f.count, added, want, 2e-6);
    for (int i = 0; i < OBJECTIVE_SUMS; ++i) assert_number("sum", sums[i], whole_sums[i], 1e-6, ROWS * 0.1);
    assert_true(sums[SUM_CLIPPED] == whole_sums[SUM_CLIPPED]);
    free(whole), free(added), free(advantage), free(raw), free(raw_slices), free(want), free(want_raw);
    fixture_free(&f);
  }
}

static void gradient_and_sums_are_added_to(void **state) {
  (void)state;
  struct fixture f = fixture_of(&VARIANTS[BOOTSTRAPPING]);
  fixture_settle(&f);
  float *once = floats(f.count), *more = floats(f.count), *advantage = normalised(f.advantage);
  double sums[OBJECTIVE_SUMS] = {0}, more_sums[OBJECTIVE_SUMS];
  whole_objective(&f, advantage, once, sums);
  for (size_t i = 0; i < f.count; ++i) more[i] = 1;
  for (int i = 0; i < OBJECTIVE_SUMS; ++i) more_sums[i] = 1000;
  whole_objective(&f, advantage, more, more_sums);
  for (size_t i = 0; i < f.count; ++i) assert_number("gradient", (double)more[i], 1 + (double)once[i], 1e-5, 1);
  for (int i = 0; i < OBJECTIVE_SUMS; ++i) assert_number("sum", more_sums[i], 1000 + sums[i], 1e-12, 1000);
  for (size_t i = 0; i < f.count; ++i) more[i] = NAN;
  const size_t policy = policy_net(&f.objective.policy)->end;
  float raw[ROWS];
  objective_value(&f.objective, f.parameters, &f.batch, ROWS, f.workspace, false, more, more_sums, raw);
  assert_same_bits("value gradient put there", f.count - policy, more + policy, once + policy);
  for (size_t i = 0; i < policy; ++i) assert_true(isnan(more[i]));
  free(once), free(more), free(advantage);
  fixture_free(&f);
}

// total_actions divides the gradient and nothing else: it is that of the whole minibatch, not of the slice.
static void total_actions_divides_the_gradient(void **state) {
  (void)state;
  struct fixture f = fixture_of(&VARIANTS[PER_SAMPLE]);
  fixture_settle(&f);
  float *one = floats(f.count), *four = floats(f.count), *advantage = normalised(f.advantage), *raw = floats(ROWS);
  double sums[OBJECTIVE_SUMS] = {0}, same[OBJECTIVE_SUMS] = {0}, *want = doubles(f.count);
  whole_objective(&f, advantage, one, sums);
  objective_value(&f.objective, f.parameters, &f.batch, 4 * ROWS, f.workspace, true, four, same, raw);
  objective_policy(&f.objective, f.parameters, &f.batch, 4 * ROWS, advantage, f.workspace, four, same);
  for (size_t i = 0; i < f.count; ++i) want[i] = (double)one[i] / 4;
  assert_near("gradient", f.count, four, want, 1e-6);
  assert_memory_equal(sums, same, sizeof sums);
  free(one), free(four), free(advantage), free(raw), free(want);
  fixture_free(&f);
}

// The first step after acting: old log-probabilities are the new ones, every ratio is 1, nothing is clipped.
static void ratio_is_one_where_the_policy_has_not_moved(void **state) {
  (void)state;
  for (size_t v = 0; v < COUNT_OF(VARIANTS); v += 2) {
    struct fixture f = fixture_of(&VARIANTS[v]);
    fixture_settle(&f);
    set_old(&f, 0, 0, NULL);
    float *gradient = floats(f.count), *advantage = normalised(f.advantage);
    double sums[OBJECTIVE_SUMS] = {0}, want = 0;
    whole_objective(&f, advantage, gradient, sums);
    for (size_t i = 0; i < ROWS; ++i) want -= (double)advantage[i] * ratios_of(&f) / ROWS;
    assert_number("ratios", sums[SUM_RATIO], ratios_of(&f), 1e-6, 1);
    assert_number("squared ratios", sums[SUM_RATIO_SQUARED], ratios_of(&f), 1e-6, 1);
    assert_true(sums[SUM_CLIPPED] == 0);
    assert_number("policy loss", sums[SUM_POLICY_LOSS], want, 1e-5, ROWS * 0.1);
    free(gradient), free(advantage);
    fixture_free(&f);
  }
}

// Where the clip has made the surrogate flat, or the limit has the ratio, the policy has no gradient.
static void clipped_ratios_carry_no_gradient(void **state) {
  (void)state;
  for (int sign = -1; sign <= 1; sign += 2)
    for (int per_sample = 0; per_sample < 2; ++per_sample) {
      struct fixture f = fixture_of(&VARIANTS[per_sample ? PER_SAMPLE : DEFAULT]);
      fixture_settle(&f);
      f.config.objective.log_ratio_clip = 3;
      float *gradient = floats(f.count), *advantage = floats(ROWS);
      double sums[OBJECTIVE_SUMS] = {0};
      for (size_t i = 0; i < ROWS; ++i) advantage[i] = (float)sign;
      // Ratios of e^±1: too large for a good action, too small for a bad one.
      set_old(&f, 0, -sign, NULL);
      objective_policy(&f.objective, f.parameters, &f.batch, ROWS, advantage, f.workspace, gradient, sums);
      assert_true(sums[SUM_CLIPPED] == ratios_of(&f));
      for (size_t i = 0; i < f.count; ++i) assert_true(gradient[i] == 0);
      // The other sign is not clipped: that is what the minimum is for.
      for (size_t i = 0; i < ROWS; ++i) advantage[i] = (float)-sign;
      objective_policy(&f.objective, f.parameters, &f.batch, ROWS, advantage, f.workspace, gradient, sums);
      assert_true(gradient[0] != 0);
      // At the limit of the logarithm a per-sample ratio does not move either.
      f.config.objective.log_ratio_clip = 0.5;
      memset(gradient, 0, f.count * sizeof *gradient);
      objective_policy(&f.objective, f.parameters, &f.batch, ROWS, advantage, f.workspace, gradient, sums);
      assert_true((gradient[0] == 0) == per_sample);
      free(gradient), free(advantage);
      fixture_free(&f);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layout_is_policy_then_value),
      cmocka_unit_test(sums_and_advantages_equal_naive),
      cmocka_unit_test(gradient_equals_differences_along_random_directions),
      cmocka_unit_test(gradient_equals_differences_in_every_parameter),
      cmocka_unit_test(values_are_clipped_to_the_old_ones),
      cmocka_unit_test(slices_add_up_to_the_whole),
      cmocka_unit_test(gradient_and_sums_are_added_to),
      cmocka_unit_test(total_actions_divides_the_gradient),
      cmocka_unit_test(ratio_is_one_where_the_policy_has_not_moved),
      cmocka_unit_test(clipped_ratios_carry_no_gradient),
  };
  return cmocka_run_group_tests_name("objective", tests, NULL, NULL);
}
