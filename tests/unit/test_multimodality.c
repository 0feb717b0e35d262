// GridWorld's figures on policies whose behaviour is known beforehand: a velocity field that is zero keeps the noise, and
// one with a constant output moves all samples by it.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "actor/multimodality.h"
#include "common/normalizer.h"

struct fixture {
  struct config config;
  struct task *task;
  struct policy policy;
  struct normalizer normalizer;
  float *parameters;
  struct evaluation evaluation;
};

static void must(struct error *e) {
  if (e != NULL) fail_msg("%s", e->text);
}

// All weights zero; the last layer's biases are what the network says everywhere.
static void set_up(struct fixture *f, const char *task, float u_x, float u_y) {
  char name[256];
  snprintf(name, sizeof name, "task.name=%s", task);
  const char *const sets[] = {name, "policy.output_scale=1", "policy.flow_steps=1", "rollout.normalizer=none"};
  must(config_parse("test", "seed: 3\n", 4, sets, &f->config));
  must(task_open(task, 0, NULL, &f->task));
  policy_layout(&f->policy, &f->config, f->task->obs_dim, f->task->action_dim, 0);
  must(normalizer_init(&f->normalizer, NORMALIZER_NONE, f->task->obs_dim));
  const struct mlp *net = policy_net(&f->policy);
  f->parameters = calloc(net->end, sizeof *f->parameters);
  assert_non_null(f->parameters);
  f->parameters[net->bias[net->layers - 1]] = u_x;
  f->parameters[net->bias[net->layers - 1] + 1] = u_y;
  f->evaluation = (struct evaluation){.task = f->task,
                                      .policy = &f->policy,
                                      .parameters = f->parameters,
                                      .normalizer = &f->normalizer,
                                      .acting = policy_evaluation(&f->config),
                                      .episodes = 1,
                                      .episode_length = 100};
}

static void tear_down(struct fixture *f) {
  free(f->parameters);
  normalizer_free(&f->normalizer);
  task_close(f->task);
}

// P(tanh(N) rounds to 1): the standard normal above atanh(1/2).
static double share_of_noise(void) { return 0.5 * erfc(atanh(0.5) / sqrt(2.0)); }

static void noise_goes_both_ways(void **state) {
  (void)state;
  struct fixture f;
  struct multimodality m;
  set_up(&f, "GridWorldTwoWalls", 0, 0);
  must(multimodality_measure(&f.evaluation, NULL, &m));
  const double share = share_of_noise(), error = 5 * sqrt(share * (1 - share) / (25 * MULTIMODALITY_DRAWS));
  assert_true(fabs(m.up - share) < error && fabs(m.down - share) < error);
  assert_true(fabs(m.up + m.down + m.level - 1) < 1e-12);
  assert_int_equal(m.start_x, 12);
  assert_int_equal(m.start_y, 12);
  assert_int_equal(m.goals, 2);
  assert_int_equal(m.walk_count, 21 * 25 * MULTIMODALITY_WALKS);
  multimodality_free(&m);
  tear_down(&f);
}

// u = −9 in y carries every sample up: at t = 0 it is noise + 9.
static void a_constant_velocity_goes_one_way(void **state) {
  (void)state;
  struct fixture f;
  struct multimodality m;
  set_up(&f, "GridWorldTwoWalls", 0, -9);
  must(multimodality_measure(&f.evaluation, NULL, &m));
  assert_true(m.up == 1 && m.down == 0 && m.level == 0);
  assert_true(m.goal_share[0] == 0 && m.goal_share[1] == 1 && m.entropy == 0);
  assert_true(m.success == 1);
  assert_true(fabs(m.mean_steps - 11) < 1e-12); // from rows 2..22 to row 23
  multimodality_free(&m);
  tear_down(&f);
}

static void a_mean_is_drawn_from_all_the_same(void **state) {
  (void)state;
  struct fixture f;
  struct multimodality with, without;
  set_up(&f, "GridWorldTwoWalls", 0, 0);
  must(multimodality_measure(&f.evaluation, NULL, &with));
  f.evaluation.acting.noise = false;
  must(multimodality_measure(&f.evaluation, NULL, &without));
  assert_true(with.up == without.up && with.success == without.success);
  multimodality_free(&with);
  multimodality_free(&without);
  tear_down(&f);
}

static void starts_are_as_far_from_every_goal(void **state) {
  (void)state;
  const char *const names[] = {"GridWorldThreeGoals", "GridWorldTreeInTheMiddle", "GridWorldTwoSlits",
                               "GridWorldCShape"};
  for (size_t i = 0; i < sizeof names / sizeof *names; ++i) {
    struct fixture f;
    struct multimodality m;
    set_up(&f, names[i], 0, 0);
    must(multimodality_measure(&f.evaluation, NULL, &m));
    double reached = 0;
    for (int g = 0; g < m.goals; ++g) reached += m.goal_share[g];
    assert_true(reached >= 0 && reached <= 1 && m.entropy >= 0 && m.entropy <= log2(m.goals) + 1e-12);
    assert_int_equal(m.goals, i == 0 ? 3 : 1);
    multimodality_free(&m);
    tear_down(&f);
  }
}

static void a_start_that_is_not_free_is_refused(void **state) {
  (void)state;
  struct fixture f;
  struct multimodality m;
  set_up(&f, "GridWorldTwoWalls", 0, 0);
  const int cells[][2] = {{12, 0}, {-1, 12}, {12, 25}, {25, 12}};
  for (size_t i = 0; i < 4; ++i) {
    struct error *e = multimodality_measure(&f.evaluation, cells[i], &m);
    assert_non_null(e);
    assert_int_equal(e->code, EXIT_CODE_USAGE);
    assert_non_null(strstr(e->text, "not a free cell"));
    error_free(e);
  }
  tear_down(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(noise_goes_both_ways),
      cmocka_unit_test(a_constant_velocity_goes_one_way),
      cmocka_unit_test(a_mean_is_drawn_from_all_the_same),
      cmocka_unit_test(starts_are_as_far_from_every_goal),
      cmocka_unit_test(a_start_that_is_not_free_is_refused),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
