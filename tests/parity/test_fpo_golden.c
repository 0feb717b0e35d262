// flowrank against the authors' functions: golden/fpo/golden.h5, spec/algorithm §9. Every size, the depth and the
// width of the networks come from the file. The promise is a relative error of 1e-4 in each array, in float32.
#include "../unit/helpers.h"
#include "golden_file.h"

#include "common/normalizer.h"
#include "learner/adam.h"
#include "learner/advantage.h"
#include "learner/objective.h"

static const double PROMISE = 1e-4;

// What the file takes for granted (spec/algorithm §1, §3, §4, §5).
static const double OUTPUT_SCALE = 0.25, CLIP = 0.05, GAUSSIAN_CLIP = 0.3, LOG_RATIO_CLIP = 3, VALUE_COEF = 0.25;

static struct fixture {
  struct golden golden;
  struct config config;
  struct objective objective; // the layout; `supervision` is set by whoever needs it
  size_t steps, unrolls, obs, actions, pairs;
  size_t rows;  // steps · unrolls
  size_t count; // parameters
  float *parameters;
  struct normalizer stats; // obs_stats
  // Unroll after unroll, where the file is time-major; obs are normalised.
  float *batch_obs, *last_obs, *action, *eps, *t, *reward, *old_loss, *old_loss_u;
  uint8_t *flags;
} f;

static float *rounded(size_t count, const double *from) {
  float *out = floats(count);
  for (size_t i = 0; i < count; ++i) out[i] = (float)from[i];
  return out;
}

// [steps, unrolls, inner] → [unrolls, steps, inner]
static double *unroll_major(const struct golden_array *a) {
  assert_true(a->rank >= 2 && a->dim[0] == f.steps && a->dim[1] == f.unrolls);
  const size_t inner = a->count / f.rows;
  double *out = doubles(a->count);
  for (size_t step = 0; step < f.steps; ++step)
    for (size_t unroll = 0; unroll < f.unrolls; ++unroll)
      memcpy(out + (unroll * f.steps + step) * inner, a->data + (step * f.unrolls + unroll) * inner,
             inner * sizeof *out);
  return out;
}

// A time-major dataset, unroll after unroll, with `inner` numbers an action.
static double *read_rows(const char *path, size_t inner) {
  struct golden_array a = golden_read(&f.golden, path);
  if (a.count != f.rows * inner) fail_msg("%s has %zu numbers instead of %zu", path, a.count, f.rows * inner);
  double *out = unroll_major(&a);
  golden_array_free(&a);
  return out;
}

static float *read_float_rows(const char *path, size_t inner) {
  double *exact = read_rows(path, inner);
  float *out = rounded(f.rows * inner, exact);
  free(exact);
  return out;
}

// Hidden widths from w0, w1, .. of a group, and the inputs of its first layer.
static struct config_layers read_layers(const char *group, size_t *inputs, size_t *outputs) {
  struct config_layers layers = {0};
  for (int l = 0;; ++l) {
    char path[GOLDEN_NAME_SIZE];
    snprintf(path, sizeof path, "%s/w%d", group, l);
    if (!golden_has(&f.golden, path)) break;
    assert_true(l <= CONFIG_MAX_LAYERS);
    struct golden_array w = golden_read(&f.golden, path);
    assert_int_equal(w.rank, 2);
    if (l == 0) *inputs = w.dim[0];
    else layers.width[l - 1] = (int64_t)w.dim[0];
    *outputs = w.dim[1];
    layers.count = l;
    golden_array_free(&w);
  }
  return layers;
}

// Calls `act` for each tensor of both networks: its name in the file below `group`, its place, its numbers.
static void for_each_tensor(const struct objective *o, const char *group,
                            void (*act)(const char *path, size_t offset, size_t count, const double *data,
                                        void *context),
                            void *context) {
  const struct mlp *const nets[] = {policy_net(&o->policy), &o->value};
  const char *const names[] = {"policy", "value"};
  for (size_t n = 0; n < COUNT_OF(nets); ++n)
    for (int l = 0; l < nets[n]->layers; ++l)
      for (int bias = 0; bias < 2; ++bias) {
        char path[2 * GOLDEN_NAME_SIZE];
        snprintf(path, sizeof path, "%.255s/%s/%c%d", group, names[n], bias ? 'b' : 'w', l);
        struct golden_array a = golden_read(&f.golden, path);
        const size_t inputs = (size_t)nets[n]->width[l], outputs = (size_t)nets[n]->width[l + 1];
        const size_t count = bias ? outputs : inputs * outputs;
        if (a.count != count) fail_msg("%s has %zu numbers instead of %zu", path, a.count, count);
        act(path, bias ? nets[n]->bias[l] : nets[n]->weight[l], count, a.data, context);
        golden_array_free(&a);
      }
}

static void put_tensor(const char *path, size_t offset, size_t count, const double *data, void *context) {
  (void)path;
  float *flat = context;
  for (size_t i = 0; i < count; ++i) flat[offset + i] = (float)data[i];
}

// The parameters, gradients or moments of both networks as one flat array.
static float *read_flat(const struct objective *o, const char *group) {
  float *flat = floats(o->parameter_count);
  for_each_tensor(o, group, put_tensor, flat);
  return flat;
}

static void compare_tensor(const char *path, size_t offset, size_t count, const double *data, void *context) {
  const float *flat = context;
  assert_near(path, count, flat + offset, data, PROMISE);
}

// In every element as well, where that is not cancellation: elements below a tenth of the largest are held to
// the promise on that.
static void assert_promise(const char *what, size_t count, const float *got, const double *want) {
  double largest = 0;
  assert_near(what, count, got, want, PROMISE);
  for (size_t i = 0; i < count; ++i) largest = fmax(largest, fabs(want[i]));
  for (size_t i = 0; i < count; ++i) assert_number(what, (double)got[i], want[i], PROMISE, 0.1 * largest);
}

static void read_stats(void) {
  struct golden_array mean = golden_read(&f.golden, "obs_stats/mean"), std = golden_read(&f.golden, "obs_stats/std");
  assert_true(mean.count == f.obs && std.count == f.obs);
  must(normalizer_init(&f.stats, NORMALIZER_EXACT, (int)f.obs));
  f.stats.moments[0] = 1;
  for (size_t i = 0; i < f.obs; ++i) {
    f.stats.mean[i] = mean.data[i];
    f.stats.m2[i] = std.data[i] * std.data[i];
  }
  normalizer_refresh(&f.stats);
  golden_array_free(&mean);
  golden_array_free(&std);
}

static float *normalised(size_t rows, const float *obs) {
  float *out = floats(rows * f.obs);
  normalizer_apply(&f.stats, rows, obs, out);
  return out;
}

static void read_batch(void) {
  float *obs = read_float_rows("batch/obs", f.obs), *next = read_float_rows("batch/next_obs", f.obs);
  f.batch_obs = normalised(f.rows, obs);
  float *last = floats(f.unrolls * f.obs);
  for (size_t u = 0; u < f.unrolls; ++u)
    memcpy(last + u * f.obs, next + ((u + 1) * f.steps - 1) * f.obs, f.obs * sizeof *last);
  f.last_obs = normalised(f.unrolls, last);
  free(obs), free(next), free(last);
  f.action = read_float_rows("batch/action", f.actions);
  f.eps = read_float_rows("batch/eps", f.pairs * f.actions);
  f.t = read_float_rows("batch/t", f.pairs);
  f.reward = read_float_rows("batch/reward", 1);
  f.old_loss = read_float_rows("batch/old_cfm_loss", f.pairs);
  f.old_loss_u = read_float_rows("batch/old_cfm_loss_u", f.pairs);
  double *discount = read_rows("batch/discount", 1), *truncated = read_rows("batch/truncated", 1);
  f.flags = zeroed(f.rows, sizeof *f.flags);
  for (size_t i = 0; i < f.rows; ++i) {
    assert_true(discount[i] == 0 || discount[i] == 1);
    if (discount[i] == 0) f.flags[i] |= STEP_TERMINATED;
    if (truncated[i] != 0) f.flags[i] |= STEP_TRUNCATED;
  }
  free(discount), free(truncated);
}

static void read_config(void) {
  size_t inputs = 0, outputs = 0, value_inputs = 0, value_outputs = 0;
  f.config.policy.hidden = read_layers("params/policy", &inputs, &outputs);
  f.config.value.hidden = read_layers("params/value", &value_inputs, &value_outputs);
  assert_true(outputs == f.actions && value_inputs == f.obs && value_outputs == 1);
  assert_true(inputs > f.obs + f.actions && (inputs - f.obs - f.actions) % 2 == 0);
  f.config.policy.time_frequencies = (int64_t)(inputs - f.obs - f.actions) / 2;
  f.config.policy.output_scale = OUTPUT_SCALE;
  f.config.policy.flow_steps = (int64_t)golden_attribute(&f.golden, "/", "flow_steps");
  f.config.rollout.unroll_length = (int64_t)f.steps;
  f.config.rollout.unrolls = 1;
  f.config.rollout.shards = 1;
  f.config.rollout.envs = (int64_t)f.unrolls;
  f.config.rollout.reward_scaling = golden_attribute(&f.golden, "gae", "reward_scaling");
  f.config.objective.kind = OBJECTIVE_FPO;
  f.config.objective.mc_samples = (int64_t)f.pairs;
  f.config.objective.loss_weight = 1;
  f.config.objective.clip = CLIP;
  f.config.objective.log_ratio_clip = LOG_RATIO_CLIP;
  f.config.objective.value_coef = VALUE_COEF;
  f.config.objective.discount = golden_attribute(&f.golden, "gae", "gamma");
  f.config.objective.gae_lambda = golden_attribute(&f.golden, "gae", "lambda_");
  f.config.objective.normalize_advantage = true;
}

static int open_fixture(void **state) {
  (void)state;
  golden_open(&f.golden, "fpo/golden.h5");
  f.steps = (size_t)golden_attribute(&f.golden, "/", "unroll");
  f.unrolls = (size_t)golden_attribute(&f.golden, "/", "batch");
  f.obs = (size_t)golden_attribute(&f.golden, "/", "obs_dim");
  f.actions = (size_t)golden_attribute(&f.golden, "/", "action_dim");
  f.pairs = (size_t)golden_attribute(&f.golden, "/", "n_mc");
  f.rows = f.steps * f.unrolls;
  read_config();
  objective_layout(&f.objective, &f.config, (int)f.obs, (int)f.actions);
  f.count = f.objective.parameter_count;
  f.parameters = read_flat(&f.objective, "params");
  read_stats();
  read_batch();
  return 0;
}

static int close_fixture(void **state) {
  (void)state;
  normalizer_free(&f.stats);
  free(f.parameters), free(f.batch_obs), free(f.last_obs), free(f.action), free(f.eps), free(f.t), free(f.reward);
  free(f.old_loss), free(f.old_loss_u), free(f.flags);
  golden_close(&f.golden);
  return 0;
}

// Every member "action_<sampler>_<K>" of sampler/. Returns how many there were.
static int check_samplers(const char *name, enum sampler_kind kind) {
  struct golden_array obs = golden_read(&f.golden, "sampler/obs"), noise = golden_read(&f.golden, "sampler/noise");
  const size_t rows = noise.dim[0];
  assert_true(obs.count == rows * f.obs && noise.count == rows * f.actions);
  float *raw = rounded(obs.count, obs.data), *input = normalised(rows, raw);
  struct flow_workspace w;
  must(flow_workspace_init(&w, &f.objective.policy.flow, (int)rows, 1, 0));
  char member[GOLDEN_NAME_SIZE];
  int checked = 0;
  for (size_t i = 0; golden_member(&f.golden, "sampler", i, member); ++i) {
    char path[2 * GOLDEN_NAME_SIZE], prefix[64];
    const int length = snprintf(prefix, sizeof prefix, "action_%s_", name);
    if (strncmp(member, prefix, (size_t)length) != 0) continue;
    char *behind;
    const long steps = strtol(member + length, &behind, 10);
    if (steps < 1 || *behind != '\0') fail_msg("sampler/%s: no number of steps", member);
    snprintf(path, sizeof path, "sampler/%s", member);
    struct golden_array want = golden_read(&f.golden, path);
    assert_int_equal(want.count, noise.count);
    float *x = rounded(noise.count, noise.data);
    const struct flow_sampling how = {.sampler = kind, .steps = (int)steps};
    flow_policy_sample(&f.objective.policy.flow, f.parameters, &how, (int)rows, input, &w, x);
    assert_promise(path, want.count, x, want.data);
    // The sampler moves x by little beside the noise: what it adds is held to the promise as well.
    double *moved = doubles(want.count);
    for (size_t k = 0; k < want.count; ++k) moved[k] = want.data[k] - noise.data[k];
    for (size_t k = 0; k < want.count; ++k) x[k] = (float)((double)x[k] - noise.data[k]);
    assert_near(path, want.count, x, moved, PROMISE);
    golden_array_free(&want);
    free(x), free(moved);
    ++checked;
  }
  flow_workspace_free(&w);
  golden_array_free(&obs);
  golden_array_free(&noise);
  free(raw), free(input);
  return checked;
}

static void sampler_euler_takes_the_noise_to_the_reference_action(void **state) {
  (void)state;
  assert_true(check_samplers("euler", SAMPLER_EULER) > 0);
}

static void sampler_heun_takes_the_noise_to_the_reference_action(void **state) {
  (void)state;
  assert_true(check_samplers("heun", SAMPLER_HEUN) > 0);
}

// Nothing of sampler/ goes unchecked: a sampler that is not known by name is a failure, not a pass.
static void every_sampler_of_the_file_is_checked(void **state) {
  (void)state;
  static const struct {
    const char *name;
    enum sampler_kind kind;
  } known[] = {{"euler", SAMPLER_EULER}, {"heun", SAMPLER_HEUN}, {"midpoint", SAMPLER_MIDPOINT}, {"rk4", SAMPLER_RK4}};
  char member[GOLDEN_NAME_SIZE];
  int actions = 0, checked = 0;
  for (size_t i = 0; golden_member(&f.golden, "sampler", i, member); ++i) actions += strncmp(member, "action_", 7) == 0;
  for (size_t k = 0; k < COUNT_OF(known); ++k) checked += check_samplers(known[k].name, known[k].kind);
  assert_int_equal(checked, actions);
}

static void check_cfm(const char *path, enum supervision_kind supervision) {
  struct flow_policy policy = f.objective.policy.flow;
  policy.supervision = supervision;
  struct flow_workspace w;
  must(flow_workspace_init(&w, &policy, (int)f.rows, (int)f.pairs, 0));
  float *loss = floats(f.rows * f.pairs);
  double *want = read_rows(path, f.pairs);
  flow_policy_cfm_forward(&policy, f.parameters, (int)f.rows, (int)f.pairs, f.batch_obs, f.action, f.eps, f.t, &w,
                          loss);
  assert_promise(path, f.rows * f.pairs, loss, want);
  flow_workspace_free(&w);
  free(loss), free(want);
}

static void cfm_velocity_loss_of_every_pair(void **state) {
  (void)state;
  check_cfm("cfm/u", SUPERVISION_VELOCITY);
}

static void cfm_eps_loss_of_every_pair(void **state) {
  (void)state;
  check_cfm("cfm/u_but_supervise_as_eps", SUPERVISION_EPS);
}

// Values of `rows` normalised observations.
static float *values_of(size_t rows, const float *obs) {
  struct mlp_tape tape;
  float *value = floats(rows);
  must(mlp_tape_init(&tape, &f.objective.value, (int)rows, 0));
  mlp_forward(&f.objective.value, f.parameters, (int)rows, obs, &tape, value);
  mlp_tape_free(&tape);
  return value;
}

static void gae_values_targets_and_advantages(void **state) {
  (void)state;
  float *value = values_of(f.rows, f.batch_obs), *last = values_of(f.unrolls, f.last_obs);
  float *target = floats(f.rows), *advantage = floats(f.rows);
  const struct gae g = {.discount = (float)f.config.objective.discount,
                        .lambda = (float)f.config.objective.gae_lambda,
                        .reward_scaling = (float)f.config.rollout.reward_scaling};
  for (size_t u = 0; u < f.unrolls; ++u) {
    const size_t at = u * f.steps;
    advantage_gae(&g, (int)f.steps, f.reward + at, f.flags + at, value + at, last[u], NULL, target + at,
                  advantage + at);
  }
  double *want_value = read_rows("gae/values", 1), *want_target = read_rows("gae/value_targets", 1);
  double *want_advantage = read_rows("gae/advantages", 1);
  struct golden_array want_last = golden_read(&f.golden, "gae/bootstrap_value");
  assert_int_equal(want_last.count, f.unrolls);
  assert_promise("gae/values", f.rows, value, want_value);
  assert_promise("gae/bootstrap_value", f.unrolls, last, want_last.data);
  assert_promise("gae/value_targets", f.rows, target, want_target);
  assert_promise("gae/advantages", f.rows, advantage, want_advantage);
  golden_array_free(&want_last);
  free(value), free(last), free(target), free(advantage), free(want_value), free(want_target), free(want_advantage);
}

// batch0, batch1, .. in turn. The file's mean and deviation are those of all rows together.
static void normalizer_mean_and_deviation_of_all_batches(void **state) {
  (void)state;
  struct golden_array mean = golden_read(&f.golden, "normalizer/mean"), std = golden_read(&f.golden, "normalizer/std");
  const size_t dim = mean.count;
  assert_int_equal(std.count, dim);
  struct normalizer n;
  double *part = doubles(moments_size((int)dim)), rows = 0;
  must(normalizer_init(&n, NORMALIZER_EXACT, (int)dim));
  for (int i = 0;; ++i) {
    char path[GOLDEN_NAME_SIZE];
    snprintf(path, sizeof path, "normalizer/batch%d", i);
    if (!golden_has(&f.golden, path)) break;
    struct golden_array batch = golden_read(&f.golden, path);
    assert_true(batch.rank == 2 && batch.dim[1] == dim);
    float *obs = rounded(batch.count, batch.data);
    moments_of_rows((int)dim, batch.dim[0], obs, part);
    normalizer_update(&n, part);
    rows += (double)batch.dim[0];
    golden_array_free(&batch);
    free(obs);
  }
  assert_true(rows > 0 && n.moments[0] == rows);
  float *deviation = floats(dim);
  for (size_t i = 0; i < dim; ++i) deviation[i] = 1 / n.scale[i];
  assert_promise("normalizer/mean", dim, n.shift, mean.data);
  assert_promise("normalizer/std", dim, deviation, std.data);
  normalizer_free(&n);
  golden_array_free(&mean);
  golden_array_free(&std);
  free(part), free(deviation);
}

struct loss_case {
  const char *group; // its losses and gradients
  const char *parameters;
  enum objective_kind kind;
  enum ratio_kind ratio;
  enum supervision_kind supervision;
};
static const struct loss_case FPO = {"loss/fpo", "params", OBJECTIVE_FPO, RATIO_AVERAGED, SUPERVISION_EPS};
static const struct loss_case PER_SAMPLE = {"loss/fpo_per_sample", "params", OBJECTIVE_FPO, RATIO_PER_SAMPLE,
                                            SUPERVISION_EPS};
static const struct loss_case VELOCITY = {"loss/fpo_u", "params", OBJECTIVE_FPO, RATIO_AVERAGED, SUPERVISION_VELOCITY};
static const struct loss_case GAUSSIAN = {"gaussian", "gaussian/params", OBJECTIVE_PPO, RATIO_AVERAGED,
                                          SUPERVISION_EPS};

struct result {
  struct config config;
  struct objective objective;
  float *gradient;
  double sums[OBJECTIVE_SUMS], advantage_mean, advantage_std;
};

static void result_init(struct result *r, const struct loss_case *c) {
  *r = (struct result){.config = f.config};
  r->config.objective.kind = c->kind;
  r->config.objective.ratio = c->ratio;
  r->config.objective.supervision = c->supervision;
  if (c->kind == OBJECTIVE_PPO) {
    size_t inputs, outputs;
    r->config.policy.hidden = read_layers("gaussian/params/policy", &inputs, &outputs);
    assert_true(inputs == f.obs && outputs == 2 * f.actions);
    r->config.objective.clip = GAUSSIAN_CLIP;
  }
  objective_layout(&r->objective, &r->config, (int)f.obs, (int)f.actions);
  r->gradient = floats(r->objective.parameter_count);
}

// [rows, ratios]: of the Gaussian, or minus the CFM losses or their means.
static float *old_log_probs(const struct loss_case *c, const struct policy *p) {
  if (c->kind == OBJECTIVE_PPO) return read_float_rows("gaussian/old_log_prob", 1);
  const float *each = c->supervision == SUPERVISION_EPS ? f.old_loss : f.old_loss_u;
  const size_t ratios = (size_t)p->ratios, shared = (size_t)p->terms / ratios;
  float *out = floats(f.rows * ratios);
  for (size_t i = 0; i < f.rows * ratios; ++i) {
    double sum = 0;
    for (size_t m = 0; m < shared; ++m) sum += (double)each[i * shared + m];
    out[i] = (float)(-sum / (double)shared);
  }
  return out;
}

static void normalise_advantages(struct result *r, float *advantage) {
  double squares = 0;
  for (size_t i = 0; i < f.rows; ++i) r->advantage_mean += (double)advantage[i] / (double)f.rows;
  for (size_t i = 0; i < f.rows; ++i) {
    const double deviation = (double)advantage[i] - r->advantage_mean;
    squares += deviation * deviation / (double)f.rows;
  }
  r->advantage_std = sqrt(squares);
  for (size_t i = 0; i < f.rows; ++i)
    advantage[i] = (float)(((double)advantage[i] - r->advantage_mean) / (r->advantage_std + 1e-8));
}

// The learner's way through one minibatch that is cut into `slices` of unequal sizes: values and advantages of all
// slices, normalisation over the minibatch, then the surrogate of all slices.
static void run_objective(const struct loss_case *c, size_t slices, struct result *r) {
  result_init(r, c);
  const struct policy *p = &r->objective.policy;
  const size_t noises = (size_t)p->noises * f.actions, times = (size_t)p->times, ratios = (size_t)p->ratios;
  struct objective_workspace *w;
  must(objective_workspace_init(&w, &r->objective));
  float *parameters = read_flat(&r->objective, c->parameters), *old = old_log_probs(c, p), *advantage = floats(f.rows);
  float *action = read_float_rows(c->kind == OBJECTIVE_PPO ? "gaussian/action" : "batch/action", f.actions);
  struct minibatch *batch = zeroed(slices, sizeof *batch);
  size_t *row = zeroed(slices, sizeof *row);
  for (size_t s = 0; s < slices; ++s) {
    const size_t first = f.unrolls * s * s / (slices * slices), end = f.unrolls * (s + 1) * (s + 1) / (slices * slices);
    const size_t at = row[s] = first * f.steps;
    batch[s] = (struct minibatch){
        .unrolls = (int)(end - first),
        .steps = (int)f.steps,
        .obs = f.batch_obs + at * f.obs,
        .last_obs = f.last_obs + first * f.obs,
        .action = action + at * f.actions,
        .eps = f.eps + at * noises,
        .t = f.t + at * times,
        .old_log_prob = old + at * ratios,
        .reward = f.reward + at,
        .flags = f.flags + at,
    };
    objective_value(&r->objective, parameters, &batch[s], (int64_t)f.rows, w, true, r->gradient, r->sums,
                    advantage + at);
  }
  normalise_advantages(r, advantage);
  for (size_t s = 0; s < slices; ++s)
    objective_policy(&r->objective, parameters, &batch[s], (int64_t)f.rows, advantage + row[s], w, r->gradient,
                     r->sums);
  objective_workspace_free(w);
  free(parameters), free(old), free(advantage), free(action), free(batch), free(row);
}

// Held to the promise on its own size, or on `floor` where it is smaller.
static void check_attribute(const struct loss_case *c, const char *name, double got, double floor) {
  char what[GOLDEN_NAME_SIZE];
  snprintf(what, sizeof what, "%s: %s", c->group, name);
  assert_number(what, got, golden_attribute(&f.golden, c->group, name), PROMISE, floor);
}

static void check_loss(const struct loss_case *c, size_t slices) {
  struct result r;
  run_objective(c, slices, &r);
  const double actions = (double)f.rows, ratios = actions * r.objective.policy.ratios;
  const double policy_loss = r.sums[SUM_POLICY_LOSS] / ratios;
  const double value_loss = VALUE_COEF * r.sums[SUM_VALUE_LOSS] / actions;
  check_attribute(c, "advantages_mean", r.advantage_mean, 0.1 * r.advantage_std);
  check_attribute(c, "advantages_std", r.advantage_std, 1e-30);
  check_attribute(c, "v_loss", value_loss, 1e-30);
  // The policy loss is a mean of terms of size 1 that nearly cancel: float32 resolves it to 1e-7 of them.
  check_attribute(c, "policy_loss", policy_loss, 1e-3);
  check_attribute(c, "total", policy_loss + value_loss, 1e-30);
  check_attribute(c, "policy_ratio_mean", r.sums[SUM_RATIO] / ratios, 1e-30);
  check_attribute(c, "clipped_ratio_mean", r.sums[SUM_CLIPPED] / ratios, 1e-30);
  char group[GOLDEN_NAME_SIZE];
  snprintf(group, sizeof group, "%s/grad", c->group);
  for_each_tensor(&r.objective, group, compare_tensor, r.gradient);
  const char *terms = c->kind == OBJECTIVE_PPO                 ? "gaussian/log_prob"
                      : c->supervision == SUPERVISION_VELOCITY ? "cfm/u"
                                                               : "cfm/u_but_supervise_as_eps";
  const double sign = c->kind == OBJECTIVE_PPO ? 1 : -1;
  double *term = read_rows(terms, (size_t)r.objective.policy.terms), *value = read_rows("gae/values", 1);
  double term_sum = 0, value_sum = 0;
  for (size_t i = 0; i < f.rows * (size_t)r.objective.policy.terms; ++i) term_sum += sign * term[i];
  for (size_t i = 0; i < f.rows; ++i) value_sum += value[i];
  assert_number("sum of log-probabilities", r.sums[SUM_LOG_PROB], term_sum, PROMISE, 1e-30);
  if (c->kind == OBJECTIVE_FPO) assert_number("sum of values", r.sums[SUM_VALUE], value_sum, PROMISE, 0.01 * actions);
  free(term), free(value), free(r.gradient);
}

static void fpo_loss_and_every_gradient(void **state) { (void)state, check_loss(&FPO, 1); }
static void fpo_per_sample_loss_and_every_gradient(void **state) { (void)state, check_loss(&PER_SAMPLE, 1); }
static void fpo_velocity_loss_and_every_gradient(void **state) { (void)state, check_loss(&VELOCITY, 1); }

static void gaussian_ppo_loss_and_every_gradient(void **state) { (void)state, check_loss(&GAUSSIAN, 1); }

// Each action's, where the sums above could hide two faults that cancel.
static void gaussian_log_probability_of_every_action(void **state) {
  (void)state;
  struct result r;
  result_init(&r, &GAUSSIAN);
  const struct gaussian_policy *p = &r.objective.policy.gaussian;
  struct gaussian_workspace w;
  must(gaussian_workspace_init(&w, p, (int)f.rows, 0));
  float *parameters = read_flat(&r.objective, GAUSSIAN.parameters), *log_prob = floats(f.rows);
  float *action = read_float_rows("gaussian/action", f.actions), *mean = floats(f.rows * f.actions);
  double *want = read_rows("gaussian/log_prob", 1), *loc = read_rows("gaussian/loc", f.actions);
  gaussian_policy_forward(p, parameters, (int)f.rows, f.batch_obs, action, NULL, &w, log_prob, NULL);
  assert_promise("gaussian/log_prob", f.rows, log_prob, want);
  gaussian_policy_sample(p, parameters, (int)f.rows, f.batch_obs, &w, mean);
  assert_promise("gaussian/loc", f.rows * f.actions, mean, loc);
  double *scale = read_rows("gaussian/scale", f.actions);
  float *above = floats(f.rows * f.actions);
  for (size_t i = 0; i < f.rows * f.actions; ++i) above[i] = 1;
  gaussian_policy_sample(p, parameters, (int)f.rows, f.batch_obs, &w, above);
  for (size_t i = 0; i < f.rows * f.actions; ++i) above[i] -= mean[i];
  assert_promise("gaussian/scale", f.rows * f.actions, above, scale);
  gaussian_workspace_free(&w);
  free(parameters), free(log_prob), free(action), free(mean), free(want), free(loc), free(scale), free(above);
  free(r.gradient);
}

// path [.., K + 1, A]: x at t = 1 first.
static void denoising_mdp_log_likelihood_of_every_flow_step(void **state) {
  (void)state;
  const size_t steps = (size_t)f.config.policy.flow_steps, columns = (steps + 1) * f.actions;
  struct config config = f.config;
  config.policy.sde_sigma = golden_attribute(&f.golden, "denoising_mdp", "sde_sigma");
  float *path = read_float_rows("denoising_mdp/path", columns);
  double *want = read_rows("denoising_mdp/log_likelihood", steps);
  for (size_t learned = 1; learned <= steps; ++learned) {
    struct policy policy;
    config.objective.kind = OBJECTIVE_DPPO;
    config.objective.denoising_steps = (int64_t)learned;
    policy_layout(&policy, &config, (int)f.obs, (int)f.actions, 0);
    assert_int_equal(policy.terms, learned);
    const size_t recorded = (size_t)policy.action_columns, noises = (size_t)policy.noises * f.actions;
    float *record = floats(f.rows * recorded), *eps = floats(f.rows * noises), *got = floats(f.rows * learned);
    double *want_learned = doubles(f.rows * learned);
    for (size_t i = 0; i < f.rows; ++i) {
      memcpy(record + i * recorded, path + (i + 1) * columns - recorded, recorded * sizeof *record);
      memcpy(eps + i * noises, path + i * columns, f.actions * sizeof *eps);
      memcpy(want_learned + i * learned, want + (i + 1) * steps - learned, learned * sizeof *want);
    }
    struct policy_workspace w;
    must(policy_workspace_init(&w, &policy, POLICY_COMPARE, (int)f.rows));
    const struct policy_batch b = {.rows = (int)f.rows, .obs = f.batch_obs, .action = record, .eps = eps};
    policy.method->forward(&policy, f.parameters, &b, &w, got);
    assert_promise("denoising_mdp/log_likelihood", f.rows * learned, got, want_learned);
    policy_workspace_free(&w);
    free(record), free(eps), free(got), free(want_learned);
  }
  free(path), free(want);
}

static void slices_of_a_minibatch_add_up_to_the_same(void **state) {
  (void)state;
  const struct loss_case *const cases[] = {&FPO, &PER_SAMPLE, &VELOCITY, &GAUSSIAN};
  for (size_t c = 0; c < COUNT_OF(cases); ++c)
    for (size_t slices = 2; slices <= 4; ++slices) check_loss(cases[c], slices);
}

struct adam_comparison {
  const float *parameters;
  const double *start;
};

static void compare_update(const char *path, size_t offset, size_t count, const double *data, void *context) {
  const struct adam_comparison *c = context;
  double *update = doubles(count);
  float *got = floats(count);
  assert_near(path, count, c->parameters + offset, data, PROMISE);
  // The steps are small beside the parameters, whose rounding (2^-24 of them, each step) is all that may be off.
  for (size_t i = 0; i < count; ++i) {
    update[i] = data[i] - c->start[offset + i];
    got[i] = (float)((double)c->parameters[offset + i] - c->start[offset + i]);
    const double rounding = 3 * 0x1p-23 * (fabs(data[i]) + fabs(update[i]));
    if (!(fabs((double)got[i] - update[i]) <= PROMISE * fabs(update[i]) + rounding))
      fail_msg("%s: [%zu] has moved by %.9g instead of %.9g", path, i, (double)got[i], update[i]);
  }
  free(update), free(got);
}

static void put_exact(const char *path, size_t offset, size_t count, const double *data, void *context) {
  (void)path;
  memcpy((double *)context + offset, data, count * sizeof *data);
}

static void adam_steps_take_params_to_the_reference(void **state) {
  (void)state;
  const struct adam adam = {.learning_rate = (float)golden_attribute(&f.golden, "adam", "lr"),
                            .beta1 = (float)golden_attribute(&f.golden, "adam", "beta1"),
                            .beta2 = (float)golden_attribute(&f.golden, "adam", "beta2"),
                            .epsilon = (float)golden_attribute(&f.golden, "adam", "eps")};
  float *parameters = read_flat(&f.objective, "params"), *m = floats(f.count), *v = floats(f.count);
  double *start = doubles(f.count);
  for_each_tensor(&f.objective, "params", put_exact, start);
  int64_t step = 0;
  for (;; ++step) {
    char group[GOLDEN_NAME_SIZE];
    snprintf(group, sizeof group, "adam/grad%d", (int)step);
    if (!golden_has(&f.golden, group)) break;
    float *gradient = read_flat(&f.objective, group);
    adam_step(&adam, step + 1, f.count, gradient, m, v, parameters);
    snprintf(group, sizeof group, "adam/params%d", (int)step + 1);
    struct adam_comparison comparison = {parameters, start};
    for_each_tensor(&f.objective, group, compare_update, &comparison);
    free(gradient);
  }
  assert_true(step > 0);
  free(parameters), free(m), free(v), free(start);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(sampler_euler_takes_the_noise_to_the_reference_action),
      cmocka_unit_test(sampler_heun_takes_the_noise_to_the_reference_action),
      cmocka_unit_test(every_sampler_of_the_file_is_checked),
      cmocka_unit_test(cfm_velocity_loss_of_every_pair),
      cmocka_unit_test(cfm_eps_loss_of_every_pair),
      cmocka_unit_test(gae_values_targets_and_advantages),
      cmocka_unit_test(normalizer_mean_and_deviation_of_all_batches),
      cmocka_unit_test(fpo_loss_and_every_gradient),
      cmocka_unit_test(fpo_per_sample_loss_and_every_gradient),
      cmocka_unit_test(fpo_velocity_loss_and_every_gradient),
      cmocka_unit_test(gaussian_ppo_loss_and_every_gradient),
      cmocka_unit_test(gaussian_log_probability_of_every_action),
      cmocka_unit_test(denoising_mdp_log_likelihood_of_every_flow_step),
      cmocka_unit_test(slices_of_a_minibatch_add_up_to_the_same),
      cmocka_unit_test(adam_steps_take_params_to_the_reference),
  };
  return cmocka_run_group_tests_name("fpo_golden", tests, open_fixture, close_fixture);
}
