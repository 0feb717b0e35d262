// Adam against algorithm 1 of Kingma & Ba in double precision; clipping; independence of the number of threads.
#include "helpers.h"

#include <omp.h>

#include "learner/adam.h"

static const struct adam USUAL = {.learning_rate = 3e-4f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f};

struct moments {
  double *m, *v, *parameters;
};

static double naive_step(const struct adam *a, int64_t step, size_t count, const float *gradient, struct moments *s) {
  double norm = 0;
  for (size_t i = 0; i < count; ++i) norm += (double)gradient[i] * (double)gradient[i];
  norm = sqrt(norm);
  const double clip = a->max_grad_norm > 0 && norm > (double)a->max_grad_norm ? (double)a->max_grad_norm / norm : 1;
  const double b1 = (double)a->beta1, b2 = (double)a->beta2;
  for (size_t i = 0; i < count; ++i) {
    const double g = clip * (double)gradient[i];
    s->m[i] = b1 * s->m[i] + (1 - b1) * g;
    s->v[i] = b2 * s->v[i] + (1 - b2) * g * g;
    const double m_hat = s->m[i] / (1 - pow(b1, (double)step)), v_hat = s->v[i] / (1 - pow(b2, (double)step));
    s->parameters[i] -= (double)a->learning_rate * m_hat / (sqrt(v_hat) + (double)a->epsilon);
  }
  return norm;
}

// Several steps of both; the sum of updates is compared, so that the parameters' own size hides nothing.
static void assert_equals_naive(const struct adam *a, size_t count, int64_t steps, double gradient_scale) {
  struct source source = {20};
  float *parameters = floats(count), *m = floats(count), *v = floats(count);
  struct moments naive = {doubles(count), doubles(count), doubles(count)};
  for (int64_t step = 1; step <= steps; ++step) {
    float *gradient = normal_floats(&source, count, gradient_scale * (double)step);
    const double norm = adam_step(a, step, count, gradient, m, v, parameters);
    assert_number("norm", norm, naive_step(a, step, count, gradient, &naive), 1e-6, 1e-12);
    assert_near("updates", count, parameters, naive.parameters, 1e-5);
    assert_near("m", count, m, naive.m, 1e-5);
    assert_near("v", count, v, naive.v, 1e-5);
    free(gradient);
  }
  free(parameters), free(m), free(v), free(naive.m), free(naive.v), free(naive.parameters);
}

static void steps_equal_the_paper(void **state) {
  (void)state;
  static const size_t counts[] = {1, 7, 8, 1000, 16384, 40003};
  for (size_t i = 0; i < COUNT_OF(counts); ++i) assert_equals_naive(&USUAL, counts[i], 5, 0.3);
  const struct adam other = {.learning_rate = 0.1f, .beta1 = 0.5f, .beta2 = 0.9f, .epsilon = 0.01f};
  assert_equals_naive(&other, 333, 20, 0.05);
}

// Bias correction makes the first step lr·sign(g), whatever the gradient's size; epsilon stands outside the root.
static void first_step_is_the_learning_rate(void **state) {
  (void)state;
  const float gradient[] = {1e-4f, -3, 500, 1e-8f, 0};
  float parameters[5] = {0}, m[5] = {0}, v[5] = {0};
  adam_step(&USUAL, 1, 5, gradient, m, v, parameters);
  assert_number("small", (double)parameters[0], -3e-4, 2e-4, 0);
  assert_number("negative", (double)parameters[1], 3e-4, 1e-5, 0);
  assert_number("large", (double)parameters[2], -3e-4, 1e-5, 0);
  assert_number("of epsilon's size", (double)parameters[3], -1.5e-4, 1e-5, 0);
  assert_true(parameters[4] == 0);
  assert_number("m", (double)m[1], -0.3, 1e-5, 0);
  assert_number("v", (double)v[1], 0.009, 1e-4, 0);
}

static void bias_correction_fades(void **state) {
  (void)state;
  // A constant gradient: both corrected moments are exact at every step, so that each step moves by lr.
  float parameters = 0, m = 0, v = 0;
  const float gradient = 0.02f;
  for (int64_t step = 1; step <= 3000; ++step) {
    const float before = parameters;
    adam_step(&USUAL, step, 1, &gradient, &m, &v, &parameters);
    assert_number("move", (double)before - (double)parameters, 3e-4, 1e-3, 0);
  }
}

static void clipping_scales_the_gradient_to_the_limit(void **state) {
  (void)state;
  struct adam clipped = USUAL;
  clipped.max_grad_norm = 0.5f;
  assert_equals_naive(&clipped, 1000, 5, 1);
  float gradient[] = {3, 4}, parameters[2] = {0}, m[2] = {0}, v[2] = {0};
  assert_true(adam_step(&clipped, 1, 2, gradient, m, v, parameters) == 5); // the norm before clipping
  assert_number("m", (double)m[0], 0.1 * 0.3, 1e-5, 0);
  assert_number("m", (double)m[1], 0.1 * 0.4, 1e-5, 0);
  assert_true(gradient[0] == 3 && gradient[1] == 4);
}

static void clipping_leaves_shorter_gradients(void **state) {
  (void)state;
  struct adam clipped = USUAL;
  clipped.max_grad_norm = 100;
  struct source source = {21};
  float *gradient = normal_floats(&source, 1000, 1), *state_a = floats(3000), *state_b = floats(3000);
  const double norm = adam_step(&clipped, 1, 1000, gradient, state_a, state_a + 1000, state_a + 2000);
  assert_true(norm > 25 && norm < 40);
  assert_true(adam_step(&USUAL, 1, 1000, gradient, state_b, state_b + 1000, state_b + 2000) == norm);
  assert_same_bits("unclipped", 3000, state_a, state_b);
  free(gradient), free(state_a), free(state_b);
}

static void result_does_not_depend_on_the_threads(void **state) {
  (void)state;
  struct adam clipped = USUAL;
  clipped.max_grad_norm = 1;
  const int kept = omp_get_max_threads();
  static const size_t counts[] = {5, 16385, 100003};
  for (size_t c = 0; c < COUNT_OF(counts); ++c) {
    const size_t n = counts[c];
    float *first = NULL;
    double first_norm = 0;
    for (int threads = 1; threads <= 3; ++threads) {
      struct source source = {22};
      omp_set_num_threads(threads);
      float *all = normal_floats(&source, 3 * n, 0); // m, v, parameters
      double norm = 0;
      for (int64_t step = 1; step <= 3; ++step) {
        float *gradient = normal_floats(&source, n, 1);
        norm += adam_step(&clipped, step, n, gradient, all, all + n, all + 2 * n);
        free(gradient);
      }
      if (first == NULL) {
        first = all;
        first_norm = norm;
        continue;
      }
      assert_true(norm == first_norm);
      assert_same_bits("m, v and parameters", 3 * n, all, first);
      free(all);
    }
    free(first);
  }
  omp_set_num_threads(kept);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(steps_equal_the_paper),
      cmocka_unit_test(first_step_is_the_learning_rate),
      cmocka_unit_test(bias_correction_fades),
      cmocka_unit_test(clipping_scales_the_gradient_to_the_limit),
      cmocka_unit_test(clipping_leaves_shorter_gradients),
      cmocka_unit_test(result_does_not_depend_on_the_threads),
  };
  return cmocka_run_group_tests_name("adam", tests, NULL, NULL);
}
