// The flow policy against its definition in double precision: velocity, samplers, CFM loss and gradient, and the draws
// of the (eps, t) pairs.
#include "helpers.h"

static const struct shape {
  int obs, action, frequencies, hidden, width[4], rows, pairs;
} SHAPES[] = {
    {5, 2, 4, 4, {32, 32, 32, 32}, 16, 8}, {3, 1, 1, 1, {7}, 1, 1},
    {11, 5, 3, 2, {17, 9}, 13, 3},         {1, 3, 4, 1, {1}, 4, 2},
    {67, 21, 4, 2, {33, 40}, 5, 5},        {4, 2, 2, 3, {8, 16, 24}, 30, 4},
};

struct fixture {
  struct config config;
  struct flow_policy policy;
  struct flow_workspace workspace;
  struct source source;
  float *parameters, *obs, *action, *eps, *t;
  double *exact; // the parameters in double
  size_t rows, pairs, actions;
};

// A policy behind `offset` floats, its workspace somewhat larger than needed, and data for all rows and pairs.
static struct fixture fixture_of(const struct shape *s, enum supervision_kind supervision, size_t offset) {
  struct fixture f = {.source = {(uint64_t)(s->obs + 31 * s->rows)}};
  f.config.policy.hidden = hidden_layers(s->hidden, s->width);
  f.config.policy.output_scale = 0.25;
  f.config.policy.time_frequencies = s->frequencies;
  f.config.policy.flow_steps = 10;
  f.config.policy.time_floor = 0.15;
  f.config.objective.supervision = supervision;
  f.config.objective.mc_samples = s->pairs;
  flow_policy_layout(&f.policy, &f.config, s->obs, s->action, offset);
  f.rows = (size_t)s->rows;
  f.pairs = (size_t)s->pairs;
  f.actions = (size_t)s->action;
  must(flow_workspace_init(&f.workspace, &f.policy, s->rows + 3, s->pairs + 1, 1));
  f.parameters = normal_floats(&f.source, f.policy.net.end, 0.5);
  f.exact = to_doubles(f.policy.net.end, f.parameters);
  f.obs = normal_floats(&f.source, f.rows * (size_t)s->obs, 1);
  f.action = normal_floats(&f.source, f.rows * f.actions, 1);
  f.eps = normal_floats(&f.source, f.rows * f.pairs * f.actions, 1);
  f.t = uniform_floats(&f.source, f.rows * f.pairs);
  if (f.rows * f.pairs > 1) f.t[0] = 1; // the sampler's first time, where eps supervision has no gradient
  return f;
}

static void fixture_free(struct fixture *f) {
  flow_workspace_free(&f->workspace);
  free(f->parameters), free(f->exact), free(f->obs), free(f->action), free(f->eps), free(f->t);
}

static const float *obs_row(const struct fixture *f, size_t row) { return f->obs + row * (size_t)f->policy.obs_dim; }

static void layout_is_the_configs_network(void **state) {
  (void)state;
  struct fixture f = fixture_of(&SHAPES[5], SUPERVISION_VELOCITY, 9);
  const int width[] = {4 + 2 + 4, 8, 16, 24, 2};
  assert_int_equal(f.policy.net.layers, 4);
  for (int l = 0; l <= 4; ++l) assert_int_equal(f.policy.net.width[l], width[l]);
  assert_int_equal(f.policy.net.weight[0], 9);
  assert_int_equal(f.policy.embedding_dim, 4);
  assert_true(f.policy.output_scale == 0.25f);
  assert_int_equal(f.policy.supervision, SUPERVISION_VELOCITY);
  fixture_free(&f);
}

static void velocity_equals_naive(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(SHAPES); ++i)
    for (size_t pairs = 1; pairs <= (size_t)SHAPES[i].pairs; pairs += (size_t)SHAPES[i].pairs) {
      struct fixture f = fixture_of(SHAPES + i, SUPERVISION_EPS, 5);
      const size_t all = f.rows * pairs, n = all * f.actions;
      float *u = floats(n + 1);
      double *want = doubles(n), *x = to_doubles(n, f.eps);
      for (size_t r = 0; r < all; ++r)
        naive_velocity(&f.policy, f.exact, obs_row(&f, r / pairs), x + r * f.actions, (double)f.t[r],
                       want + r * f.actions);
      u[n] = 3;
      flow_policy_velocity(&f.policy, f.parameters, (int)f.rows, (int)pairs, f.obs, f.eps, f.t, &f.workspace, u);
      assert_near("velocity", n, u, want, 3e-6);
      assert_true(u[n] == 3);
      free(u), free(want), free(x);
      fixture_free(&f);
    }
}

static void naive_u(const struct fixture *f, size_t row, const double *x, double t, double *u) {
  naive_velocity(&f->policy, f->exact, obs_row(f, row), x, t, u);
}

// One row from t = 1 to t = 0; each method written out from its textbook form.
static void naive_sample(const struct fixture *f, enum sampler_kind sampler, int steps, size_t row,
                         const float *sde_noise, double *x) {
  const size_t n = f->actions;
  double k[4][NAIVE_MAX_WIDTH], y[NAIVE_MAX_WIDTH];
  for (int step = 0; step < steps; ++step) {
    const double t = 1 - (double)step / steps, next = 1 - (double)(step + 1) / steps, h = next - t;
    naive_u(f, row, x, t, k[0]);
    switch (sampler) {
    case SAMPLER_EULER:
      for (size_t d = 0; d < n; ++d) x[d] += h * k[0][d];
      break;
    case SAMPLER_HEUN:
      for (size_t d = 0; d < n; ++d) y[d] = x[d] + h * k[0][d];
      naive_u(f, row, y, next, k[1]);
      for (size_t d = 0; d < n; ++d) x[d] += h * (k[0][d] + k[1][d]) / 2;
      break;
    case SAMPLER_MIDPOINT:
      for (size_t d = 0; d < n; ++d) y[d] = x[d] + h / 2 * k[0][d];
      naive_u(f, row, y, t + h / 2, k[1]);
      for (size_t d = 0; d < n; ++d) x[d] += h * k[1][d];
      break;
    case SAMPLER_RK4:
      for (size_t d = 0; d < n; ++d) y[d] = x[d] + h / 2 * k[0][d];
      naive_u(f, row, y, t + h / 2, k[1]);
      for (size_t d = 0; d < n; ++d) y[d] = x[d] + h / 2 * k[1][d];
      naive_u(f, row, y, t + h / 2, k[2]);
      for (size_t d = 0; d < n; ++d) y[d] = x[d] + h * k[2][d];
      naive_u(f, row, y, next, k[3]);
      for (size_t d = 0; d < n; ++d) x[d] += h * (k[0][d] + 2 * k[1][d] + 2 * k[2][d] + k[3][d]) / 6;
      break;
    default:
      fail_msg("a sampler that this test does not know");
    }
    if (sde_noise == NULL) continue;
    for (size_t d = 0; d < n; ++d)
      x[d] += (double)f->policy.sde_sigma * (double)sde_noise[(row * (size_t)steps + (size_t)step) * n + d];
  }
}

static double *naive_samples(const struct fixture *f, enum sampler_kind sampler, int steps, const float *sde_noise) {
  double *x = to_doubles(f->rows * f->actions, f->eps);
  for (size_t r = 0; r < f->rows; ++r) naive_sample(f, sampler, steps, r, sde_noise, x + r * f->actions);
  return x;
}

// The noise is the first rows of eps.
static float *samples(struct fixture *f, enum sampler_kind sampler, int steps, const float *sde_noise) {
  const size_t n = f->rows * f->actions;
  float *x = floats(n);
  memcpy(x, f->eps, n * sizeof *x);
  const struct flow_sampling how = {.sampler = sampler, .steps = steps, .sde_noise = sde_noise};
  flow_policy_sample(&f->policy, f->parameters, &how, (int)f->rows, f->obs, &f->workspace, x);
  return x;
}

// The flow of a predicted velocity, and that towards a predicted action.
static void assert_sampler_equals_naive(enum sampler_kind sampler) {
  static const int steps[] = {1, 2, 3, 10};
  static const enum supervision_kind supervisions[] = {SUPERVISION_EPS, SUPERVISION_DATA};
  for (size_t i = 0; i < COUNT_OF(SHAPES); ++i)
    for (size_t k = 0; k < COUNT_OF(steps) * COUNT_OF(supervisions); ++k) {
      struct fixture f = fixture_of(SHAPES + i, supervisions[k / COUNT_OF(steps)], 2);
      const int count = steps[k % COUNT_OF(steps)];
      float *x = samples(&f, sampler, count, NULL);
      double *want = naive_samples(&f, sampler, count, NULL);
      assert_near_above("action", f.rows * f.actions, x, want, 5e-6, 1); // 1: the noise's size
      free(x), free(want);
      fixture_free(&f);
    }
}
static void euler_equals_naive(void **state) { (void)state, assert_sampler_equals_naive(SAMPLER_EULER); }
static void heun_equals_naive(void **state) { (void)state, assert_sampler_equals_naive(SAMPLER_HEUN); }
static void midpoint_equals_naive(void **state) { (void)state, assert_sampler_equals_naive(SAMPLER_MIDPOINT); }
static void rk4_equals_naive(void **state) { (void)state, assert_sampler_equals_naive(SAMPLER_RK4); }

static void sampling_needs_no_backward_workspace(void **state) {
  (void)state;
  struct fixture f = fixture_of(&SHAPES[2], SUPERVISION_EPS, 0);
  float *want = samples(&f, SAMPLER_RK4, 4, NULL);
  flow_workspace_free(&f.workspace);
  must(flow_workspace_init(&f.workspace, &f.policy, (int)f.rows, 1, 0));
  float *x = samples(&f, SAMPLER_RK4, 4, NULL);
  assert_same_bits("action", f.rows * f.actions, x, want);
  free(x), free(want);
  fixture_free(&f);
}

static void sde_noise_is_added_at_each_step(void **state) {
  (void)state;
  enum { STEPS = 6 };
  struct fixture f = fixture_of(&SHAPES[2], SUPERVISION_EPS, 0);
  const size_t n = f.rows * f.actions;
  float *noise = normal_floats(&f.source, STEPS * n, 1);
  f.config.policy.sde_sigma = 0.3;
  flow_policy_layout(&f.policy, &f.config, f.policy.obs_dim, f.policy.action_dim, 0);
  float *x = samples(&f, SAMPLER_EULER, STEPS, noise);
  double *want = naive_samples(&f, SAMPLER_EULER, STEPS, noise);
  assert_near("action", n, x, want, 5e-6);
  free(x), free(want);
  f.policy.sde_sigma = 0;
  x = samples(&f, SAMPLER_EULER, STEPS, noise);
  want = naive_samples(&f, SAMPLER_EULER, STEPS, NULL);
  assert_near("action without sigma", n, x, want, 5e-6);
  free(x), free(want), free(noise);
  fixture_free(&f);
}

static void evaluations_are_stages_times_steps(void **state) {
  (void)state;
  for (int steps = 1; steps < 30; steps += 7) {
    assert_int_equal(flow_policy_evaluations(SAMPLER_EULER, steps), steps);
    assert_int_equal(flow_policy_evaluations(SAMPLER_HEUN, steps), 2 * steps);
    assert_int_equal(flow_policy_evaluations(SAMPLER_MIDPOINT, steps), 2 * steps);
    assert_int_equal(flow_policy_evaluations(SAMPLER_RK4, steps), 4 * steps);
  }
}

// Halving the step divides the error by 2 to the order, on a field that is smooth over a step. Fewer steps for higher
// orders, so that the error stays above what float32 resolves.
static void samplers_converge_with_their_order(void **state) {
  (void)state;
  static const struct {
    enum sampler_kind sampler;
    int order, steps;
  } cases[] = {{SAMPLER_EULER, 1, 64}, {SAMPLER_HEUN, 2, 32}, {SAMPLER_MIDPOINT, 2, 32}, {SAMPLER_RK4, 4, 8}};
  const struct shape smooth = {2, 2, 2, 1, {24}, 40, 1};
  struct fixture f = fixture_of(&smooth, SUPERVISION_EPS, 0);
  f.policy.output_scale = 1;
  const size_t n = f.rows * f.actions;
  double *truth = naive_samples(&f, SAMPLER_RK4, 400, NULL);
  for (size_t c = 0; c < COUNT_OF(cases); ++c) {
    double error[2] = {0};
    for (int half = 0; half < 2; ++half) {
      float *x = samples(&f, cases[c].sampler, cases[c].steps << half, NULL);
      for (size_t i = 0; i < n; ++i) error[half] += fabs((double)x[i] - truth[i]) / (double)n;
      free(x);
    }
    assert_true(error[1] > 3e-6);
    assert_true(fabs(log2(error[0] / error[1]) - cases[c].order) < 0.25);
  }
  free(truth);
  fixture_free(&f);
}

static double *naive_losses(const struct fixture *f, const double *parameters) {
  double *loss = doubles(f->rows * f->pairs);
  for (size_t i = 0; i < f->rows * f->pairs; ++i)
    loss[i] = naive_cfm_loss(&f->policy, parameters, obs_row(f, i / f->pairs), f->action + i / f->pairs * f->actions,
                             f->eps + i * f->actions, f->t[i]);
  return loss;
}

static void cfm_forward(struct fixture *f, float *loss) {
  flow_policy_cfm_forward(&f->policy, f->parameters, (int)f->rows, (int)f->pairs, f->obs, f->action, f->eps, f->t,
                          &f->workspace, loss);
}

static void assert_loss_equals_naive(enum supervision_kind supervision) {
  for (size_t i = 0; i < COUNT_OF(SHAPES); ++i) {
    struct fixture f = fixture_of(SHAPES + i, supervision, 7);
    const size_t n = f.rows * f.pairs;
    float *loss = floats(n + 1);
    double *want = naive_losses(&f, f.exact);
    loss[n] = 5;
    cfm_forward(&f, loss);
    assert_near("loss", n, loss, want, 5e-6);
    assert_true(loss[n] == 5);
    free(loss), free(want);
    fixture_free(&f);
  }
}
static void velocity_loss_equals_naive(void **state) { (void)state, assert_loss_equals_naive(SUPERVISION_VELOCITY); }
static void eps_loss_equals_naive(void **state) { (void)state, assert_loss_equals_naive(SUPERVISION_EPS); }
static void data_loss_equals_naive(void **state) { (void)state, assert_loss_equals_naive(SUPERVISION_DATA); }

static double weighted_loss(const struct fixture *f, const double *parameters, const float *d_loss) {
  double *loss = naive_losses(f, parameters), sum = 0;
  for (size_t i = 0; i < f->rows * f->pairs; ++i) sum += (double)d_loss[i] * loss[i];
  free(loss);
  return sum;
}

// Every parameter's derivative, by central differences of the naive loss.
static void assert_gradient_equals_differences(enum supervision_kind supervision) {
  static const size_t some[] = {1, 2, 3, 5};
  for (size_t i = 0; i < COUNT_OF(some); ++i) {
    const size_t offset = 4;
    struct fixture f = fixture_of(SHAPES + some[i], supervision, offset);
    const struct mlp *net = &f.policy.net;
    float *loss = floats(f.rows * f.pairs), *gradient = floats(net->end);
    float *d_loss = normal_floats(&f.source, f.rows * f.pairs, 1);
    double *want = doubles(net->end);
    for (size_t k = offset; k < net->end; ++k) {
      const double kept = f.exact[k], h = 1e-5;
      f.exact[k] = kept + h;
      want[k] = weighted_loss(&f, f.exact, d_loss);
      f.exact[k] = kept - h;
      want[k] = (want[k] - weighted_loss(&f, f.exact, d_loss)) / (2 * h);
      f.exact[k] = kept;
    }
    cfm_forward(&f, loss);
    flow_policy_cfm_backward(&f.policy, f.parameters, (int)f.rows, (int)f.pairs, f.obs, f.action, f.eps, f.t,
                             &f.workspace, d_loss, gradient);
    for (int l = 0; l < net->layers; ++l) {
      assert_near("weight gradient", net->bias[l] - net->weight[l], gradient + net->weight[l], want + net->weight[l],
                  1e-5);
      assert_near("bias gradient", (size_t)net->width[l + 1], gradient + net->bias[l], want + net->bias[l], 1e-5);
    }
    for (size_t k = 0; k < offset; ++k) assert_true(gradient[k] == 0);
    free(loss), free(gradient), free(d_loss), free(want);
    fixture_free(&f);
  }
}
static void velocity_gradient_equals_differences(void **state) {
  (void)state;
  assert_gradient_equals_differences(SUPERVISION_VELOCITY);
}
static void eps_gradient_equals_differences(void **state) {
  (void)state;
  assert_gradient_equals_differences(SUPERVISION_EPS);
}

static void data_gradient_equals_differences(void **state) {
  (void)state;
  assert_gradient_equals_differences(SUPERVISION_DATA);
}

static void backward_adds_to_the_gradient(void **state) {
  (void)state;
  struct fixture f = fixture_of(&SHAPES[2], SUPERVISION_EPS, 0);
  const size_t count = f.policy.net.end;
  float *loss = floats(f.rows * f.pairs), *d_loss = normal_floats(&f.source, f.rows * f.pairs, 1);
  float *once = floats(count), *more = floats(count);
  for (size_t i = 0; i < count; ++i) more[i] = 50;
  for (int round = 0; round < 3; ++round) {
    cfm_forward(&f, loss);
    flow_policy_cfm_backward(&f.policy, f.parameters, (int)f.rows, (int)f.pairs, f.obs, f.action, f.eps, f.t,
                             &f.workspace, d_loss, round == 0 ? once : more);
  }
  for (size_t i = 0; i < count; ++i) assert_number("gradient", (double)more[i], 50 + 2 * (double)once[i], 1e-6, 50);
  free(loss), free(d_loss), free(once), free(more);
  fixture_free(&f);
}

static struct config drawing_config(enum flow_time_kind time, int steps, int pairs) {
  struct config config = {.seed = 77};
  config.policy.flow_steps = steps;
  config.objective.mc_samples = pairs;
  config.objective.flow_time = time;
  return config;
}

static void grid_times_are_the_left_grid_points_equally_often(void **state) {
  (void)state;
  enum { PAIRS = 8, DRAWS = 4000 };
  static const int steps[] = {1, 2, 3, 7, 10, 64};
  for (size_t i = 0; i < COUNT_OF(steps); ++i) {
    const struct config config = drawing_config(FLOW_TIME_GRID, steps[i], PAIRS);
    int seen[64] = {0};
    for (uint32_t step = 0; step < DRAWS; ++step) {
      float eps[PAIRS * 2], t[PAIRS];
      flow_policy_draw_pairs(&config, 2, 3, step, 1, eps, t);
      for (int m = 0; m < PAIRS; ++m) {
        const long k = lround((1 - (double)t[m]) * steps[i]);
        assert_true(k >= 0 && k < steps[i]);
        assert_true(fabs((double)t[m] - (1 - (double)k / steps[i])) < 1e-6);
        ++seen[k];
      }
    }
    const double want = PAIRS * DRAWS / (double)steps[i];
    for (int k = 0; k < steps[i]; ++k) assert_true(fabs(seen[k] - want) < 5 * sqrt(want));
  }
}

static void uniform_times_and_noise_have_their_distributions(void **state) {
  (void)state;
  enum { PAIRS = 8, DRAWS = 4000, ACTIONS = 3 };
  const struct config config = drawing_config(FLOW_TIME_UNIFORM, 10, PAIRS);
  double sum = 0, squares = 0, noise_sum = 0, noise_squares = 0, on_grid = 0;
  for (uint32_t env = 0; env < DRAWS; ++env) {
    float eps[PAIRS * ACTIONS], t[PAIRS];
    flow_policy_draw_pairs(&config, ACTIONS, env, 9, 1, eps, t);
    for (int m = 0; m < PAIRS; ++m) {
      assert_true(t[m] > 0 && t[m] < 1);
      sum += (double)t[m];
      squares += (double)t[m] * (double)t[m];
      on_grid += fabs((double)t[m] * 10 - round((double)t[m] * 10)) < 1e-5;
    }
    for (int k = 0; k < PAIRS * ACTIONS; ++k) {
      noise_sum += (double)eps[k];
      noise_squares += (double)eps[k] * (double)eps[k];
    }
  }
  const double n = PAIRS * DRAWS;
  assert_true(fabs(sum / n - 0.5) < 5 / sqrt(12 * n));
  assert_true(fabs(squares / n - 1 / 3.0) < 5 * 0.3 / sqrt(n));
  assert_true(on_grid < 30);
  assert_true(fabs(noise_sum / (ACTIONS * n)) < 5 / sqrt(ACTIONS * n));
  assert_true(fabs(noise_squares / (ACTIONS * n) - 1) < 5 * sqrt(2 / (ACTIONS * n)));
}

// Their logit is normal with the config's mean and deviation.
static void lognormal_times_have_their_distribution(void **state) {
  (void)state;
  enum { PAIRS = 8, DRAWS = 4000 };
  struct config config = drawing_config(FLOW_TIME_LOGNORMAL, 10, PAIRS);
  config.objective.flow_time_mean = -1.2;
  config.objective.flow_time_std = 0.7;
  double sum = 0, squares = 0, n = PAIRS * DRAWS;
  for (uint32_t env = 0; env < DRAWS; ++env) {
    float eps[PAIRS], t[PAIRS];
    flow_policy_draw_pairs(&config, 1, env, 9, 1, eps, t);
    for (int m = 0; m < PAIRS; ++m) {
      assert_true(t[m] > 0 && t[m] < 1);
      const double z = (log((double)t[m] / (1 - (double)t[m])) + 1.2) / 0.7;
      sum += z;
      squares += z * z;
    }
  }
  assert_true(fabs(sum / n) < 5 / sqrt(n));
  assert_true(fabs(squares / n - 1) < 5 * sqrt(2 / n));
}

static void pairs_are_drawn_again_and_differ_between_actions(void **state) {
  (void)state;
  enum { N = 16, PAIRS = 8 };
  const struct config config = drawing_config(FLOW_TIME_UNIFORM, 10, PAIRS);
  float eps[5][N + 1], t[5][PAIRS + 1];
  for (int i = 0; i < 5; ++i) eps[i][N] = t[i][PAIRS] = 6;
  struct config other = config;
  other.seed = 78;
  flow_policy_draw_pairs(&config, 2, 4, 1000, 1, eps[0], t[0]);
  flow_policy_draw_pairs(&config, 2, 5, 1000, 1, eps[1], t[1]);
  flow_policy_draw_pairs(&config, 2, 4, 1001, 1, eps[2], t[2]);
  flow_policy_draw_pairs(&other, 2, 4, 1000, 1, eps[3], t[3]);
  flow_policy_draw_pairs(&config, 2, 4, 1000, 1, eps[4], t[4]);
  assert_same_bits("eps", N, eps[4], eps[0]);
  assert_same_bits("t", PAIRS, t[4], t[0]);
  for (int i = 1; i < 4; ++i) {
    for (int k = 0; k < N; ++k) assert_true(eps[i][k] != eps[0][k]);
    for (int k = 0; k < PAIRS; ++k) assert_true(t[i][k] != t[0][k]);
  }
  for (int i = 0; i < 5; ++i) assert_true(eps[i][N] == 6 && t[i][PAIRS] == 6);
  float eps_of_two[2 * N], t_of_two[2 * PAIRS];
  flow_policy_draw_pairs(&config, 2, 4, 1000, 2, eps_of_two, t_of_two);
  for (size_t i = 0; i < 2; ++i) {
    assert_same_bits("eps of two steps", N, eps_of_two + i * N, eps[2 * i]);
    assert_same_bits("t of two steps", PAIRS, t_of_two + i * PAIRS, t[2 * i]);
  }
}

// The observation's product is counted once for all pairs or sampler steps.
static void flops_share_the_observations_product(void **state) {
  (void)state;
  struct fixture f = fixture_of(&SHAPES[5], SUPERVISION_EPS, 0);
  const double first_obs = 2 * 4 * 8, first_x = 2 * 2 * 8, first_t = 2 * 4 * 8, rest = 2 * (8 * 16 + 16 * 24 + 24 * 2);
  assert_true(flow_policy_forward_flops(&f.policy, 6) == first_obs + 6 * (first_x + first_t + rest));
  assert_true(flow_policy_backward_flops(&f.policy, 6) == first_obs + 6 * (first_x + first_t + 2 * rest));
  // The embedding of a sampler's step is one row for all actions, so that it may or may not be counted.
  const double least = first_obs + 20 * (first_x + rest);
  const double flops = flow_policy_sample_flops(&f.policy, SAMPLER_HEUN, 10);
  assert_true(flops >= least && flops <= least + 20 * first_t);
  fixture_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layout_is_the_configs_network),
      cmocka_unit_test(velocity_equals_naive),
      cmocka_unit_test(euler_equals_naive),
      cmocka_unit_test(heun_equals_naive),
      cmocka_unit_test(midpoint_equals_naive),
      cmocka_unit_test(rk4_equals_naive),
      cmocka_unit_test(sampling_needs_no_backward_workspace),
      cmocka_unit_test(sde_noise_is_added_at_each_step),
      cmocka_unit_test(evaluations_are_stages_times_steps),
      cmocka_unit_test(samplers_converge_with_their_order),
      cmocka_unit_test(velocity_loss_equals_naive),
      cmocka_unit_test(eps_loss_equals_naive),
      cmocka_unit_test(data_loss_equals_naive),
      cmocka_unit_test(velocity_gradient_equals_differences),
      cmocka_unit_test(eps_gradient_equals_differences),
      cmocka_unit_test(data_gradient_equals_differences),
      cmocka_unit_test(backward_adds_to_the_gradient),
      cmocka_unit_test(grid_times_are_the_left_grid_points_equally_often),
      cmocka_unit_test(uniform_times_and_noise_have_their_distributions),
      cmocka_unit_test(lognormal_times_have_their_distribution),
      cmocka_unit_test(pairs_are_drawn_again_and_differ_between_actions),
      cmocka_unit_test(flops_share_the_observations_product),
  };
  return cmocka_run_group_tests_name("flow_policy", tests, NULL, NULL);
}
