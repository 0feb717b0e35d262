// GAE against sums written out step by step in double precision, for random ends of episodes.
#include "helpers.h"

#include "learner/advantage.h"

enum { MAX_STEPS = 64 };

struct unroll {
  int steps;
  float reward[MAX_STEPS], value[MAX_STEPS], final_value[MAX_STEPS], last_value;
  uint8_t flags[MAX_STEPS];
};

static struct unroll random_unroll(struct source *source, int steps, double end_probability) {
  struct unroll u = {.steps = steps, .last_value = (float)source_normal(source)};
  for (int t = 0; t < steps; ++t) {
    u.reward[t] = (float)source_uniform(source);
    u.value[t] = (float)source_normal(source);
    if (source_uniform(source) < end_probability) u.flags[t] |= STEP_TERMINATED;
    if (source_uniform(source) < end_probability) u.flags[t] |= STEP_TRUNCATED;
    u.final_value[t] = u.flags[t] & STEP_TRUNCATED ? (float)source_normal(source) : NAN; // unused entries stay unused
  }
  return u;
}

// No recursion: for each step, the sum over later steps of delta times the product of decays up to there.
static void brute_force(const struct gae *g, const struct unroll *u, int bootstrap, double *target, double *advantage) {
  double delta[MAX_STEPS], decay[MAX_STEPS], discount[MAX_STEPS], reward[MAX_STEPS], mask[MAX_STEPS];
  for (int t = 0; t < u->steps; ++t) {
    const int truncated = (u->flags[t] & STEP_TRUNCATED) != 0;
    double next = t + 1 < u->steps ? (double)u->value[t + 1] : (double)u->last_value;
    if (truncated && bootstrap) next = (double)u->final_value[t];
    mask[t] = truncated && !bootstrap ? 0 : 1;
    discount[t] = u->flags[t] & STEP_TERMINATED ? 0 : (double)g->discount;
    decay[t] = truncated ? 0 : discount[t] * (double)g->lambda;
    reward[t] = (double)g->reward_scaling * (double)u->reward[t];
    delta[t] = (reward[t] + discount[t] * next - (double)u->value[t]) * mask[t];
  }
  for (int t = 0; t < u->steps; ++t) {
    double product = 1;
    target[t] = (double)u->value[t];
    for (int k = t; k < u->steps; ++k) {
      target[t] += product * delta[k];
      product *= decay[k];
    }
  }
  for (int t = 0; t < u->steps; ++t) {
    double next = t + 1 < u->steps ? target[t + 1] : (double)u->last_value;
    if (bootstrap && u->flags[t] & STEP_TRUNCATED) next = (double)u->final_value[t];
    advantage[t] = (reward[t] + discount[t] * next - (double)u->value[t]) * mask[t];
  }
}

static void assert_equals_brute_force(int bootstrap) {
  struct source source = {10};
  for (int round = 0; round < 300; ++round) {
    const struct gae g = {.discount = 0.5f + 0.5f * (float)source_uniform(&source),
                          .lambda = (float)source_uniform(&source),
                          .reward_scaling = round % 2 ? 10.0f : 1.0f};
    const int steps = 1 + (int)(source_uniform(&source) * (MAX_STEPS - 1));
    const struct unroll u = random_unroll(&source, steps, round % 3 * 0.2);
    float target[MAX_STEPS + 1], advantage[MAX_STEPS + 1];
    double want_target[MAX_STEPS], want_advantage[MAX_STEPS];
    target[steps] = advantage[steps] = 31;
    advantage_gae(&g, steps, u.reward, u.flags, u.value, u.last_value, bootstrap ? u.final_value : NULL, target,
                  advantage);
    brute_force(&g, &u, bootstrap, want_target, want_advantage);
    assert_near("target", (size_t)steps, target, want_target, 3e-6);
    assert_near("advantage", (size_t)steps, advantage, want_advantage, 1e-5);
    assert_true(target[steps] == 31 && advantage[steps] == 31);
  }
}

static void masked_gae_equals_brute_force(void **state) {
  (void)state;
  assert_equals_brute_force(0);
}

static void bootstrapped_gae_equals_brute_force(void **state) {
  (void)state;
  assert_equals_brute_force(1);
}

// Worked out on paper: gamma 1/2, lambda 1/2, rewards scaled by 2.
static void two_steps_by_hand(void **state) {
  (void)state;
  const struct gae g = {.discount = 0.5f, .lambda = 0.5f, .reward_scaling = 2};
  const float reward[] = {1, 3}, value[] = {4, 8};
  float target[2], advantage[2];
  uint8_t flags[] = {0, 0};
  // delta_1 = 6 + 8 − 8 = 6; delta_0 = 2 + 4 − 4 = 2; acc_0 = 2 + 6/4
  advantage_gae(&g, 2, reward, flags, value, 16, NULL, target, advantage);
  assert_true(target[1] == 14 && advantage[1] == 6);
  assert_true(target[0] == 7.5f && advantage[0] == 2 + 0.5f * 14 - 4);
  flags[0] = STEP_TERMINATED; // nothing comes after: 2 − 4
  advantage_gae(&g, 2, reward, flags, value, 16, NULL, target, advantage);
  assert_true(target[1] == 14 && target[0] == 2 && advantage[0] == -2);
  flags[0] = STEP_TRUNCATED; // masked: learns nothing
  advantage_gae(&g, 2, reward, flags, value, 16, NULL, target, advantage);
  assert_true(target[1] == 14 && target[0] == 4 && advantage[0] == 0);
  const float final_value[] = {20, NAN}; // bootstrapped: 2 + 10 − 4
  advantage_gae(&g, 2, reward, flags, value, 16, final_value, target, advantage);
  assert_true(target[1] == 14 && target[0] == 12 && advantage[0] == 8);
  flags[0] = STEP_TERMINATED | STEP_TRUNCATED; // an end that is both is an end
  advantage_gae(&g, 2, reward, flags, value, 16, final_value, target, advantage);
  assert_true(target[0] == 2 && advantage[0] == -2);
}

// What happens after an end of an episode does not reach back over it.
static void nothing_leaks_over_the_end_of_an_episode(void **state) {
  (void)state;
  struct source source = {11};
  const struct gae g = {.discount = 0.995f, .lambda = 0.95f, .reward_scaling = 10};
  for (int kind = 0; kind < 3; ++kind) {
    struct unroll u = random_unroll(&source, 20, 0);
    u.flags[9] = kind == 0 ? STEP_TERMINATED : STEP_TRUNCATED;
    u.final_value[9] = 0.7f;
    float target[2][20], advantage[2][20];
    for (int round = 0; round < 2; ++round) {
      advantage_gae(&g, 20, u.reward, u.flags, u.value, u.last_value, kind == 2 ? u.final_value : NULL, target[round],
                    advantage[round]);
      u.reward[10] += 100;
      u.value[10] -= 50;
      u.last_value += 7;
    }
    assert_same_bits("targets before the end", 10, target[0], target[1]);
    assert_same_bits("advantages before the end", 10, advantage[0], advantage[1]);
    assert_true(target[0][19] != target[1][19]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(masked_gae_equals_brute_force),
      cmocka_unit_test(bootstrapped_gae_equals_brute_force),
      cmocka_unit_test(two_steps_by_hand),
      cmocka_unit_test(nothing_leaks_over_the_end_of_an_episode),
  };
  return cmocka_run_group_tests_name("advantage", tests, NULL, NULL);
}
