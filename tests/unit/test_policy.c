// The interface of the methods: what acting records and what is drawn again fit together, what an evaluation's noise
// means, and how much is recorded.
#include "helpers.h"

#include "common/policy.h"

enum { OBS = 4, ACTIONS = 3, ROWS = 9, FIRST = 20, STEP = 77 };

static struct config config_of(enum objective_kind kind, int64_t denoising_steps) {
  struct config c;
  config_default(&c);
  c.seed = 5;
  c.policy.hidden = hidden_layers(2, (const int[]){8, 8});
  c.policy.flow_steps = 5;
  c.objective.kind = kind;
  c.objective.denoising_steps = denoising_steps;
  c.objective.mc_samples = 6;
  if (kind == OBJECTIVE_DPPO) c.policy.sde_sigma = 0.2;
  if (kind == OBJECTIVE_PPO) c.objective.entropy_cost = 0.1;
  return c;
}

struct fixture {
  struct config config;
  struct policy policy;
  float *parameters, *obs;
};

static void fixture_init(struct fixture *f, enum objective_kind kind, int64_t denoising_steps) {
  struct source source = {3};
  f->config = config_of(kind, denoising_steps);
  policy_layout(&f->policy, &f->config, OBS, ACTIONS, 0);
  f->parameters = normal_floats(&source, policy_net(&f->policy)->end, 0.5);
  f->obs = normal_floats(&source, (size_t)ROWS * OBS, 1);
}

static void fixture_free(struct fixture *f) { free(f->parameters), free(f->obs); }

// Rows [first, first + rows) of the fixture, as environments FIRST + first and so on.
static float *act(const struct fixture *f, const struct policy_acting *how, uint32_t first, int rows) {
  struct policy_workspace w;
  float *record = floats((size_t)rows * (size_t)f->policy.action_columns);
  must(policy_workspace_init(&w, &f->policy, how->explore ? POLICY_EXPLORE : POLICY_EVALUATE, rows));
  f->policy.method->act(&f->policy, f->parameters, how, FIRST + first, STEP, rows, f->obs + (size_t)first * OBS, &w,
                        record);
  policy_workspace_free(&w);
  return record;
}

static void recorded_is_what_cannot_be_drawn_again(void **state) {
  (void)state;
  static const struct {
    enum objective_kind kind;
    int64_t denoising_steps;
    int terms, columns, old;
  } cases[] = {
      {OBJECTIVE_FPO, 0, 6, ACTIONS, 1},
      {OBJECTIVE_PPO, 0, 1, ACTIONS, 1},
      {OBJECTIVE_DPPO, DENOISING_ALL, 5, 5 * ACTIONS, 0},
      {OBJECTIVE_DPPO, DENOISING_LAST_HALF, 3, 4 * ACTIONS, 0},
      {OBJECTIVE_DPPO, 1, 1, 2 * ACTIONS, 0},
      {OBJECTIVE_DPPO, 5, 5, 5 * ACTIONS, 0},
  };
  for (size_t i = 0; i < COUNT_OF(cases); ++i) {
    struct fixture f;
    fixture_init(&f, cases[i].kind, cases[i].denoising_steps);
    assert_int_equal(f.policy.terms, cases[i].terms);
    assert_int_equal(f.policy.action_columns, cases[i].columns);
    assert_int_equal(f.policy.old_columns, cases[i].old);
    fixture_free(&f);
  }
}

// The old log-probabilities that noise tells are those of the policy that acted, from the recorded chain.
static void noise_tells_the_chains_old_log_probabilities(void **state) {
  (void)state;
  static const int64_t settings[] = {DENOISING_ALL, DENOISING_LAST_HALF, 1, 4, 5};
  for (size_t i = 0; i < COUNT_OF(settings); ++i)
    for (int noise = 0; noise < 2; ++noise) {
      struct fixture f;
      fixture_init(&f, OBJECTIVE_DPPO, settings[i]);
      f.config.policy.noise = noise;
      const struct policy *p = &f.policy;
      const size_t terms = (size_t)p->terms, drawn = (size_t)p->noises * ACTIONS;
      const struct policy_acting how = policy_training(&f.config);
      float *record = act(&f, &how, 0, ROWS), *eps = floats(ROWS * drawn), *old = floats(ROWS * terms);
      float *log_prob = floats(ROWS * terms);
      for (uint32_t r = 0; r < ROWS; ++r)
        p->method->draw(p, FIRST + r, STEP, 1, (struct policy_draws){.eps = eps + r * drawn, .old = old + r * terms});
      struct policy_workspace w;
      must(policy_workspace_init(&w, p, POLICY_COMPARE, ROWS));
      const struct policy_batch b = {.rows = ROWS, .obs = f.obs, .action = record, .eps = eps};
      p->method->forward(p, f.parameters, &b, &w, log_prob);
      double *want = to_doubles(ROWS * terms, old);
      assert_near("log-probability", ROWS * terms, log_prob, want, 1e-5);
      policy_workspace_free(&w);
      free(record), free(eps), free(old), free(log_prob), free(want);
      fixture_free(&f);
    }
}

// Actions of consecutive steps are drawn as they would be one by one.
static void steps_are_drawn_together_or_one_by_one(void **state) {
  (void)state;
  for (enum objective_kind kind = OBJECTIVE_FPO; kind < OBJECTIVE_KINDS; ++kind) {
    struct fixture f;
    fixture_init(&f, kind, DENOISING_LAST_HALF);
    const struct policy *p = &f.policy;
    const size_t drawn = (size_t)p->noises * ACTIONS, times = (size_t)p->times, ratios = (size_t)p->ratios;
    const size_t all = drawn + times + ratios;
    float *together = floats(ROWS * all), *single = floats(ROWS * all);
    memset(together, 0, ROWS * all * sizeof *together), memset(single, 0, ROWS * all * sizeof *single);
    p->method->draw(p, 3, STEP, ROWS,
                    (struct policy_draws){together, together + ROWS * drawn, together + ROWS * (drawn + times)});
    for (uint32_t r = 0; r < ROWS; ++r)
      p->method->draw(p, 3, STEP + r, 1,
                      (struct policy_draws){single + r * drawn, single + ROWS * drawn + r * times,
                                            single + ROWS * (drawn + times) + r * ratios});
    assert_same_bits("draws", ROWS * all, together, single);
    free(together), free(single);
    fixture_free(&f);
  }
}

// The chain that is recorded ends in the action that no recording would have made.
static void recording_does_not_change_the_action(void **state) {
  (void)state;
  struct fixture all, half;
  fixture_init(&all, OBJECTIVE_DPPO, DENOISING_ALL);
  fixture_init(&half, OBJECTIVE_DPPO, DENOISING_LAST_HALF);
  const struct policy_acting how = policy_training(&all.config);
  float *whole = act(&all, &how, 0, ROWS), *part = act(&half, &how, 0, ROWS);
  const size_t columns = (size_t)all.policy.action_columns, kept = (size_t)half.policy.action_columns;
  for (size_t r = 0; r < ROWS; ++r) assert_same_bits("chain", kept, part + r * kept, whole + (r + 1) * columns - kept);
  free(whole), free(part);
  fixture_free(&all), fixture_free(&half);
}

// A row's action is that of its environment and step, whoever acts and in whatever company's order.
static void rows_draw_from_their_own_streams(void **state) {
  (void)state;
  for (enum objective_kind kind = OBJECTIVE_FPO; kind < OBJECTIVE_KINDS; ++kind) {
    struct fixture f;
    fixture_init(&f, kind, DENOISING_ALL);
    const struct policy_acting how = policy_training(&f.config);
    const size_t columns = (size_t)f.policy.action_columns;
    float *whole = act(&f, &how, 0, ROWS), *rest = act(&f, &how, 4, ROWS - 4);
    double *want = to_doubles((ROWS - 4) * columns, whole + 4 * columns);
    assert_near("record", (ROWS - 4) * columns, rest, want, 1e-6);
    free(whole), free(rest), free(want);
    fixture_free(&f);
  }
}

static void evaluation_without_noise_knows_no_seed(void **state) {
  (void)state;
  for (enum objective_kind kind = OBJECTIVE_FPO; kind < OBJECTIVE_KINDS; ++kind)
    for (int noise = 0; noise < 2; ++noise) {
      struct fixture f;
      fixture_init(&f, kind, DENOISING_ALL);
      f.config.eval.noise = noise;
      struct policy_acting how = policy_evaluation(&f.config), other = how;
      other.seed += 1;
      float *one = act(&f, &how, 0, ROWS), *two = act(&f, &other, 0, ROWS);
      if (noise == 0) assert_same_bits("action", (size_t)ROWS * ACTIONS, one, two);
      for (size_t i = 0; noise != 0 && i < (size_t)ROWS * ACTIONS; ++i) assert_true(one[i] != two[i]);
      free(one), free(two);
      fixture_free(&f);
    }
}

// auto: a Gaussian is evaluated in its mean, as Brax does; a flow starts from fresh noise, as the FPO paper does.
static void evaluation_follows_the_references(void **state) {
  (void)state;
  for (enum objective_kind kind = OBJECTIVE_FPO; kind < OBJECTIVE_KINDS; ++kind) {
    const struct config c = config_of(kind, DENOISING_ALL);
    assert_int_equal(policy_evaluation(&c).noise, kind != OBJECTIVE_PPO);
    assert_false(policy_evaluation(&c).explore);
    assert_int_equal(policy_evaluation(&c).flow_steps, 5);
  }
  struct fixture f;
  fixture_init(&f, OBJECTIVE_PPO, 0);
  const struct policy_acting how = policy_evaluation(&f.config);
  float *mean = act(&f, &how, 0, ROWS);
  double *exact = to_doubles(policy_net(&f.policy)->end, f.parameters), out[2 * ACTIONS], input[OBS];
  for (size_t r = 0; r < ROWS; ++r) {
    for (size_t i = 0; i < OBS; ++i) input[i] = (double)f.obs[r * OBS + i];
    naive_mlp(policy_net(&f.policy), exact, input, out);
    assert_near("mean", ACTIONS, mean + r * ACTIONS, out, 1e-5);
  }
  free(mean), free(exact);
  fixture_free(&f);
}

// With an observation of zeros a fresh network's output is its biases: loc is 0, and a raw action the deviation's multiple.
static void gaussian_starts_as_wide_as_asked(void **state) {
  (void)state;
  static const double asked[] = {0.02, 0.25, 1, 40, 0};
  for (size_t i = 0; i < COUNT_OF(asked); ++i) {
    struct fixture f;
    fixture_init(&f, OBJECTIVE_PPO, 0);
    f.config.policy.initial_std = asked[i];
    policy_initialise(&f.policy, 9, f.parameters);
    memset(f.obs, 0, (size_t)ROWS * OBS * sizeof *f.obs);
    const struct policy_acting how = policy_training(&f.config);
    float *record = act(&f, &how, 0, ROWS), *unit;
    f.config.policy.initial_std = 1;
    policy_initialise(&f.policy, 9, f.parameters);
    unit = act(&f, &how, 0, ROWS);
    double *want = to_doubles((size_t)ROWS * ACTIONS, unit);
    for (size_t j = 0; j < (size_t)ROWS * ACTIONS; ++j) want[j] *= asked[i] > 0 ? asked[i] : log(2) + 1e-3;
    assert_near("raw action", (size_t)ROWS * ACTIONS, record, want, 1e-5);
    free(record), free(unit), free(want);
    fixture_free(&f);
  }
}

// Of log-probabilities and of their gradient it is a factor.
static void loss_weight_is_a_factor(void **state) {
  (void)state;
  struct fixture f;
  fixture_init(&f, OBJECTIVE_FPO, 0);
  const struct policy *p = &f.policy;
  const struct policy_acting how = policy_training(&f.config);
  const size_t terms = ROWS * (size_t)p->terms, end = policy_net(p)->end;
  float *record = act(&f, &how, 0, ROWS), *eps = floats(terms * ACTIONS), *t = floats(terms);
  p->method->draw(p, FIRST, STEP, ROWS, (struct policy_draws){.eps = eps, .t = t});
  const struct policy_batch b = {.rows = ROWS, .obs = f.obs, .action = record, .eps = eps, .t = t};
  float *log_prob[2], *gradient[2];
  for (size_t i = 0; i < 2; ++i) {
    struct policy_workspace w;
    log_prob[i] = floats(terms), gradient[i] = floats(end);
    f.config.objective.loss_weight = i == 0 ? 1 : 32;
    must(policy_workspace_init(&w, p, POLICY_LEARN, ROWS));
    p->method->forward(p, f.parameters, &b, &w, log_prob[i]);
    float *d_log_prob = floats(terms);
    for (size_t j = 0; j < terms; ++j) d_log_prob[j] = 0.5f;
    p->method->backward(p, f.parameters, &b, &w, d_log_prob, 0, gradient[i]);
    policy_workspace_free(&w);
    free(d_log_prob);
  }
  for (size_t j = 0; j < terms; ++j) log_prob[0][j] *= 32; // a power of two: exact
  for (size_t j = 0; j < end; ++j) gradient[0][j] *= 32;
  assert_same_bits("log-probability", terms, log_prob[1], log_prob[0]);
  assert_same_bits("gradient", end, gradient[1], gradient[0]);
  for (size_t i = 0; i < 2; ++i) free(log_prob[i]), free(gradient[i]);
  free(record), free(eps), free(t);
  fixture_free(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(recorded_is_what_cannot_be_drawn_again),
      cmocka_unit_test(noise_tells_the_chains_old_log_probabilities),
      cmocka_unit_test(steps_are_drawn_together_or_one_by_one),
      cmocka_unit_test(recording_does_not_change_the_action),
      cmocka_unit_test(rows_draw_from_their_own_streams),
      cmocka_unit_test(evaluation_without_noise_knows_no_seed),
      cmocka_unit_test(evaluation_follows_the_references),
      cmocka_unit_test(gaussian_starts_as_wide_as_asked),
      cmocka_unit_test(loss_weight_is_a_factor),
  };
  return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
