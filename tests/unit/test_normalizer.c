// Streaming moments: combining is as good as one pass, and accurate where the naive sum of squares is not.
#include "helpers.h"

#include "common/normalizer.h"

// Moments in long double, two passes.
static double *moments_directly(int dim, size_t rows, const float *obs) {
  const size_t d = (size_t)dim;
  double *moments = doubles(1 + 2 * d);
  moments[0] = (double)rows;
  for (size_t i = 0; i < d; ++i) {
    long double sum = 0, squares = 0;
    for (size_t r = 0; r < rows; ++r) sum += obs[r * d + i];
    const long double mean = rows ? sum / (long double)rows : 0;
    for (size_t r = 0; r < rows; ++r) squares += (obs[r * d + i] - mean) * (obs[r * d + i] - mean);
    moments[1 + i] = (double)mean;
    moments[1 + d + i] = (double)squares;
  }
  return moments;
}

static void assert_moments(int dim, const double *got, const double *want, double tolerance) {
  assert_true(got[0] == want[0]);
  for (int i = 0; i < dim; ++i) {
    const double deviation = sqrt(want[1 + dim + i] / want[0]);
    assert_number("mean", got[1 + i], want[1 + i], tolerance, deviation);
    assert_number("m2", got[1 + dim + i], want[1 + dim + i], tolerance, 1e-30);
  }
}

// Columns of different mean and deviation.
static float *observations(struct source *source, int dim, size_t rows) {
  float *obs = normal_floats(source, rows * (size_t)dim, 1);
  for (size_t r = 0; r < rows; ++r)
    for (int i = 0; i < dim; ++i) {
      float *x = obs + r * (size_t)dim + (size_t)i;
      *x = *x * (float)(0.1 * (i + 1)) + (float)(3 - 2 * i);
    }
  return obs;
}

static void moments_of_rows_are_count_mean_and_squares(void **state) {
  (void)state;
  struct source source = {1};
  static const size_t rows[] = {1, 2, 3, 1000};
  static const int dims[] = {1, 5, 67};
  for (size_t a = 0; a < COUNT_OF(rows); ++a)
    for (size_t b = 0; b < COUNT_OF(dims); ++b) {
      const int dim = dims[b];
      float *obs = observations(&source, dim, rows[a]);
      assert_int_equal(moments_size(dim), 1 + 2 * dim);
      double *got = doubles(moments_size(dim) + 1), *want = moments_directly(dim, rows[a], obs);
      for (size_t i = 0; i <= moments_size(dim); ++i) got[i] = 5; // whatever was there goes
      moments_of_rows(dim, rows[a], obs, got);
      assert_moments(dim, got, want, 1e-12);
      assert_true(got[moments_size(dim)] == 5);
      free(obs), free(got), free(want);
    }
}

static void combining_equals_one_pass(void **state) {
  (void)state;
  enum { DIM = 5, ROWS = 999, SIZE = 1 + 2 * DIM };
  struct source source = {2};
  float *obs = observations(&source, DIM, ROWS);
  double *want = moments_directly(DIM, ROWS, obs), whole[SIZE] = {0}, part[SIZE];
  static const size_t cut[] = {0, 1, 1, 500, 502, 998, 999}; // an empty part among them
  for (size_t i = 0; i + 1 < COUNT_OF(cut); ++i) {
    moments_of_rows(DIM, cut[i + 1] - cut[i], obs + cut[i] * DIM, part);
    moments_combine(DIM, whole, part);
  }
  assert_moments(DIM, whole, want, 1e-12);
  free(obs), free(want);
}

static void combining_is_associative_and_commutative(void **state) {
  (void)state;
  enum { DIM = 4, SIZE = 1 + 2 * DIM };
  struct source source = {3};
  static const size_t rows[] = {40, 3, 700};
  double part[3][SIZE], left[SIZE], right[SIZE], back[SIZE];
  for (int i = 0; i < 3; ++i) {
    float *obs = observations(&source, DIM, rows[i]);
    for (size_t k = 0; k < rows[i] * DIM; ++k) obs[k] += (float)(10 * i);
    moments_of_rows(DIM, rows[i], obs, part[i]);
    free(obs);
  }
  memcpy(left, part[0], sizeof left); // (0 ∪ 1) ∪ 2
  moments_combine(DIM, left, part[1]);
  moments_combine(DIM, left, part[2]);
  memcpy(right, part[1], sizeof right); // 0 ∪ (1 ∪ 2)
  moments_combine(DIM, right, part[2]);
  memcpy(back, right, sizeof back); // (1 ∪ 2) ∪ 0
  moments_combine(DIM, back, part[0]);
  double swap[SIZE];
  memcpy(swap, part[0], sizeof swap);
  moments_combine(DIM, swap, right);
  assert_moments(DIM, swap, left, 1e-13);
  assert_moments(DIM, back, left, 1e-13);
}

static void combining_leaves_the_second_argument(void **state) {
  (void)state;
  double into[] = {2, 1, 4}, from[] = {3, 2, 5};
  const double kept[] = {3, 2, 5};
  moments_combine(1, into, from);
  assert_memory_equal(from, kept, sizeof kept);
  assert_true(into[0] == 5);
  assert_number("mean", into[1], 1.6, 1e-15, 1);
  assert_number("m2", into[2], 4 + 5 + 1.2, 1e-15, 1);
}

static void huge_offsets_stay_accurate(void **state) {
  (void)state;
  enum { DIM = 2, ROWS = 5000, SIZE = 1 + 2 * DIM, PARTS = 10 };
  struct source source = {4};
  float *obs = normal_floats(&source, ROWS * DIM, 1), *out = floats(ROWS * DIM);
  for (size_t i = 0; i < ROWS * DIM; ++i) obs[i] += i % DIM ? 1e6f : -1e6f;
  double *want = moments_directly(DIM, ROWS, obs), part[SIZE];
  struct normalizer n;
  must(normalizer_init(&n, NORMALIZER_EXACT, DIM));
  for (size_t k = 0; k < PARTS; ++k) {
    moments_of_rows(DIM, ROWS / PARTS, obs + k * (ROWS / PARTS) * DIM, part);
    normalizer_update(&n, part);
  }
  assert_moments(DIM, n.moments, want, 1e-9);
  normalizer_apply(&n, ROWS, obs, out);
  // float32 has steps of 1/16 at 1e6, so that the shift is exact to 1/32.
  for (size_t r = 0; r < ROWS; ++r)
    for (size_t i = 0; i < DIM; ++i) {
      const double deviation = sqrt(want[1 + DIM + i] / ROWS);
      const double exact = ((double)obs[r * DIM + i] - want[1 + i]) / deviation;
      assert_true(fabs((double)out[r * DIM + i] - exact) < 1 / 31.0 / deviation);
    }
  normalizer_free(&n);
  free(obs), free(out), free(want);
}

static void starts_as_the_identity(void **state) {
  (void)state;
  static const enum normalizer_kind kinds[] = {NORMALIZER_EXACT, NORMALIZER_REFERENCE, NORMALIZER_NONE};
  for (size_t k = 0; k < COUNT_OF(kinds); ++k) {
    struct normalizer n;
    const float obs[] = {1, -2, 3, 4, 5, 6};
    float out[6];
    must(normalizer_init(&n, kinds[k], 3));
    assert_int_equal(n.dim, 3);
    assert_true(n.moments[0] == 0);
    assert_ptr_equal(n.mean, n.moments + 1);
    assert_ptr_equal(n.m2, n.moments + 4);
    normalizer_apply(&n, 2, obs, out);
    assert_memory_equal(obs, out, sizeof obs);
    normalizer_refresh(&n);
    normalizer_apply(&n, 2, obs, out);
    assert_memory_equal(obs, out, sizeof obs);
    normalizer_free(&n);
  }
}

static void none_stays_the_identity(void **state) {
  (void)state;
  struct normalizer n;
  struct source source = {5};
  float *obs = observations(&source, 3, 10), *out = floats(30);
  double moments[7];
  must(normalizer_init(&n, NORMALIZER_NONE, 3));
  moments_of_rows(3, 10, obs, moments);
  normalizer_update(&n, moments);
  normalizer_apply(&n, 10, obs, out);
  assert_same_bits("untouched", 30, obs, out);
  normalizer_free(&n);
  free(obs), free(out);
}

static void exact_normalises_to_mean_0_and_deviation_1(void **state) {
  (void)state;
  enum { DIM = 6, ROWS = 4000 };
  struct source source = {6};
  float *obs = observations(&source, DIM, ROWS), *out = floats(ROWS * DIM);
  double part[1 + 2 * DIM];
  struct normalizer n;
  must(normalizer_init(&n, NORMALIZER_EXACT, DIM));
  for (size_t first = 0; first < ROWS; first += 500) {
    moments_of_rows(DIM, 500, obs + first * DIM, part);
    normalizer_update(&n, part);
  }
  normalizer_apply(&n, ROWS, obs, out);
  double *seen = moments_directly(DIM, ROWS, out);
  for (int i = 0; i < DIM; ++i) {
    assert_number("mean", seen[1 + i], 0, 1e-5, 1);
    assert_number("variance", seen[1 + DIM + i] / ROWS, 1, 1e-5, 1);
  }
  normalizer_apply(&n, ROWS, obs, obs);
  assert_same_bits("in place", ROWS * DIM, obs, out);
  normalizer_free(&n);
  free(obs), free(out), free(seen);
}

static void constant_columns_normalise_to_zero(void **state) {
  (void)state;
  enum { DIM = 3, ROWS = 700 };
  struct normalizer n;
  float obs[ROWS * DIM], out[ROWS * DIM];
  double part[1 + 2 * DIM];
  for (size_t r = 0; r < ROWS; ++r) {
    obs[r * DIM] = 0.1f;
    obs[r * DIM + 1] = 0;
    obs[r * DIM + 2] = -12345.678f;
  }
  must(normalizer_init(&n, NORMALIZER_EXACT, DIM));
  for (int round = 0; round < 3; ++round) {
    moments_of_rows(DIM, ROWS - (size_t)round * 100, obs, part);
    normalizer_update(&n, part);
  }
  normalizer_apply(&n, ROWS, obs, out);
  for (size_t i = 0; i < ROWS * DIM; ++i) assert_true(fabsf(out[i]) < 1e-3f);
  for (int i = 0; i < DIM; ++i) {
    assert_true(isfinite(n.scale[i]));
    assert_true(n.m2[i] / n.moments[0] < 1e-12);
  }
  assert_number("the least variance is 1e-12", (double)n.scale[1], 1e6, 1e-6, 1);
  normalizer_free(&n);
}

// Row by row, as the authors wrote it: the sum of squares starts from zero in each update, the count goes on.
static void reference_forgets_the_accumulated_squares(void **state) {
  (void)state;
  enum { DIM = 3, UPDATES = 4 };
  static const size_t rows[UPDATES] = {50, 60, 70, 1};
  struct source source = {7};
  struct normalizer n;
  double count = 0, mean[DIM] = {0}, exact[1 + 2 * DIM] = {0};
  must(normalizer_init(&n, NORMALIZER_REFERENCE, DIM));
  for (int u = 0; u < UPDATES; ++u) {
    float *obs = observations(&source, DIM, rows[u]);
    for (size_t k = 0; k < rows[u] * DIM; ++k) obs[k] += 0.05f * (float)u;
    double part[1 + 2 * DIM];
    moments_of_rows(DIM, rows[u], obs, part);
    normalizer_update(&n, part);
    moments_combine(DIM, exact, part);
    count += (double)rows[u];
    for (size_t i = 0; i < DIM; ++i) {
      double sum = 0, squares = 0;
      for (size_t r = 0; r < rows[u]; ++r) sum += (double)obs[r * DIM + i] - mean[i];
      const double next = mean[i] + sum / count;
      for (size_t r = 0; r < rows[u]; ++r)
        squares += ((double)obs[r * DIM + i] - mean[i]) * ((double)obs[r * DIM + i] - next);
      mean[i] = next;
      const double deviation = sqrt(fmax(squares / count, 1e-12));
      assert_number("shift", (double)n.shift[i], mean[i], 1e-6, 1);
      assert_number("scale", (double)n.scale[i], 1 / deviation, 1e-6, 1e-9);
      const double truth = sqrt(exact[1 + DIM + i] / exact[0]);
      if (u > 0) assert_true(deviation < 0.95 * truth); // the two kinds are told apart
    }
    free(obs);
  }
  assert_true(n.moments[0] == count);
  normalizer_free(&n);
}

static void refresh_makes_shift_and_scale_from_restored_moments(void **state) {
  (void)state;
  enum { DIM = 3, ROWS = 40 };
  static const enum normalizer_kind kinds[] = {NORMALIZER_EXACT, NORMALIZER_REFERENCE};
  struct source source = {8};
  float *obs = observations(&source, DIM, ROWS), out[2][ROWS * DIM];
  for (size_t k = 0; k < COUNT_OF(kinds); ++k) {
    struct normalizer n, restored;
    double part[1 + 2 * DIM];
    must(normalizer_init(&n, kinds[k], DIM));
    must(normalizer_init(&restored, kinds[k], DIM));
    moments_of_rows(DIM, ROWS / 2, obs, part);
    normalizer_update(&n, part);
    moments_of_rows(DIM, ROWS / 2, obs + ROWS / 2 * DIM, part);
    normalizer_update(&n, part);
    memcpy(restored.moments, n.moments, moments_size(DIM) * sizeof *n.moments);
    normalizer_refresh(&restored);
    normalizer_apply(&n, ROWS, obs, out[0]);
    normalizer_apply(&restored, ROWS, obs, out[1]);
    assert_same_bits("restored", ROWS * DIM, out[0], out[1]);
    normalizer_free(&n);
    normalizer_free(&restored);
  }
  free(obs);
}

static void an_empty_batch_changes_nothing(void **state) {
  (void)state;
  static const enum normalizer_kind kinds[] = {NORMALIZER_EXACT, NORMALIZER_REFERENCE};
  for (size_t k = 0; k < COUNT_OF(kinds); ++k) {
    struct normalizer n;
    struct source source = {9};
    float *obs = observations(&source, 2, 20), before[40], after[40];
    double part[5];
    must(normalizer_init(&n, kinds[k], 2));
    moments_of_rows(2, 20, obs, part);
    normalizer_update(&n, part);
    normalizer_apply(&n, 20, obs, before);
    moments_of_rows(2, 0, obs, part);
    normalizer_update(&n, part);
    normalizer_apply(&n, 20, obs, after);
    assert_same_bits("unchanged", 40, before, after);
    normalizer_free(&n);
    free(obs);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(moments_of_rows_are_count_mean_and_squares),
      cmocka_unit_test(combining_equals_one_pass),
      cmocka_unit_test(combining_is_associative_and_commutative),
      cmocka_unit_test(combining_leaves_the_second_argument),
      cmocka_unit_test(huge_offsets_stay_accurate),
      cmocka_unit_test(starts_as_the_identity),
      cmocka_unit_test(none_stays_the_identity),
      cmocka_unit_test(exact_normalises_to_mean_0_and_deviation_1),
      cmocka_unit_test(constant_columns_normalise_to_zero),
      cmocka_unit_test(reference_forgets_the_accumulated_squares),
      cmocka_unit_test(refresh_makes_shift_and_scale_from_restored_moments),
      cmocka_unit_test(an_empty_batch_changes_nothing),
  };
  return cmocka_run_group_tests_name("normalizer", tests, NULL, NULL);
}
