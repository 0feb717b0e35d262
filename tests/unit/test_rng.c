// Random streams: the generator is the published one, a draw depends on its five coordinates and on nothing else, and
// the numbers have the distributions that are promised. Seeds are fixed, so that every statistic is a constant here.
#include "helpers.h"

#include "common/rng.h"

enum { DRAWS = 200000 };

// Random123's kat_vectors, philox4x32 with 10 rounds: counter, key, output.
static const struct {
  uint32_t counter[4], key[2], output[4];
} KNOWN[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static double unit_of_words(uint32_t high, uint32_t low) {
  return ((double)(((uint64_t)high << 32 | low) >> 12) + 0.5) * 0x1p-52;
}

// The counter is (index, step, owner, purpose) and the key is the seed: stored runs rest on this layout.
static void generator_is_philox4x32_10_of_random123(void **state) {
  (void)state;
  for (size_t i = 0; i < COUNT_OF(KNOWN); ++i) {
    const uint32_t *c = KNOWN[i].counter, *o = KNOWN[i].output;
    const uint64_t seed = (uint64_t)KNOWN[i].key[1] << 32 | KNOWN[i].key[0];
    const struct rng_stream s = rng_stream(seed, c[3], c[2], c[1]);
    assert_true(rng_uniform_at(s, c[0]) == unit_of_words(o[0], o[1]));
    const double radius = sqrt(-2 * log(unit_of_words(o[0], o[1])));
    const double want = radius * cos(6.283185307179586 * unit_of_words(o[2], o[3]));
    assert_number("normal at", rng_normal_at(s, c[0]), want, 1e-12, 1);
    if (c[0] != 0) continue;
    float block[4];
    rng_uniform(s, 4, block);
    for (int w = 0; w < 4; ++w) assert_true(block[w] == ((float)(o[w] >> 9) + 0.5f) * 0x1p-23f);
  }
}

static void a_draw_is_a_function_of_its_stream(void **state) {
  (void)state;
  const struct rng_stream s = rng_stream(7, RNG_BENCH, 3, 5);
  float *a = floats(1000), *b = floats(1000), *other = floats(1000);
  uint32_t p[100], q[100];
  rng_normal(s, 1000, a);
  rng_uniform(rng_stream(8, RNG_BENCH, 3, 5), 1000, other);
  rng_permutation(s, 100, p);
  const double at = rng_uniform_at(s, 17), normal_at = rng_normal_at(s, 17);
  rng_normal(s, 1000, b);
  rng_permutation(s, 100, q);
  assert_same_bits("two draws of one stream", 1000, a, b);
  assert_memory_equal(p, q, sizeof p);
  assert_true(at == rng_uniform_at(s, 17) && normal_at == rng_normal_at(s, 17));
  free(a), free(b), free(other);
}

static void the_first_numbers_do_not_depend_on_how_many_are_drawn(void **state) {
  (void)state;
  const struct rng_stream s = rng_stream(UINT64_C(0x123456789abcdef), RNG_CFM_NOISE, 11, 4096);
  enum { ALL = 150 };
  float uniform[ALL], normal[ALL], part[ALL + 1];
  rng_uniform(s, ALL, uniform);
  rng_normal(s, ALL, normal);
  for (size_t n = 0; n < ALL; ++n) {
    part[n] = 42;
    rng_uniform(s, n, part);
    assert_same_bits("uniform", n, part, uniform);
    assert_true(part[n] == 42);
    rng_normal(s, n, part);
    assert_same_bits("normal", n, part, normal);
    assert_true(part[n] == 42);
  }
}

// Rows of any length and distance are the streams of consecutive owners or steps; nothing between them is touched.
static void rows_are_streams_side_by_side(void **state) {
  (void)state;
  enum { ROWS = 37, MOST = 70 };
  const struct rng_stream s = rng_stream(91, RNG_BENCH, UINT32_MAX - 5, 17);
  float uniform[ROWS * MOST], normal[ROWS * MOST], want[MOST];
  for (size_t count = 0; count < MOST; count += count < 20 ? 1 : 13)
    for (enum rng_next next = RNG_NEXT_OWNER; next <= RNG_NEXT_STEP; ++next) {
      const size_t stride = count + count % 3;
      for (size_t i = 0; i < ROWS * MOST; ++i) uniform[i] = normal[i] = 42;
      rng_uniform_rows(s, next, ROWS, count, stride, uniform);
      rng_normal_rows(s, next, ROWS, count, stride, normal);
      for (uint32_t r = 0; r < ROWS; ++r) {
        struct rng_stream one = s;
        *(next == RNG_NEXT_OWNER ? &one.owner : &one.step) += r;
        rng_uniform(one, count, want);
        assert_same_bits("uniform", count, uniform + r * stride, want);
        rng_normal(one, count, want);
        assert_same_bits("normal", count, normal + r * stride, want);
        for (size_t i = count; i < stride; ++i)
          assert_true(uniform[r * stride + i] == 42 && normal[r * stride + i] == 42);
      }
    }
}

// Same numbers at the same place in fewer than a handful of 1000 23-bit draws means different streams.
static void assert_streams_differ(struct rng_stream a, struct rng_stream b) {
  float x[1000], y[1000];
  uint32_t p[50], q[50];
  int same = 0;
  double product = 0;
  rng_uniform(a, 1000, x);
  rng_uniform(b, 1000, y);
  for (int i = 0; i < 1000; ++i) same += x[i] == y[i];
  for (int i = 0; i < 1000; ++i) product += ((double)x[i] - 0.5) * ((double)y[i] - 0.5) * 12 / 1000;
  assert_true(same < 3);
  assert_true(fabs(product) < 0.15); // correlation; its deviation is 0.03
  rng_normal(a, 1000, x);
  rng_normal(b, 1000, y);
  same = 0;
  for (int i = 0; i < 1000; ++i) same += x[i] == y[i];
  assert_true(same < 3);
  assert_true(rng_uniform_at(a, 9) != rng_uniform_at(b, 9));
  assert_true(rng_normal_at(a, 9) != rng_normal_at(b, 9));
  rng_permutation(a, 50, p);
  rng_permutation(b, 50, q);
  assert_memory_not_equal(p, q, sizeof p);
}

static void seed_purpose_owner_and_step_each_make_another_stream(void **state) {
  (void)state;
  const struct rng_stream s = rng_stream(1, 2, 3, 4);
  assert_streams_differ(s, rng_stream(2, 2, 3, 4));
  assert_streams_differ(s, rng_stream(1 | UINT64_C(1) << 32, 2, 3, 4));
  assert_streams_differ(s, rng_stream(1, 3, 3, 4));
  assert_streams_differ(s, rng_stream(1, 2 + RNG_EVAL, 3, 4));
  assert_streams_differ(s, rng_stream(1, 2, 4, 4));
  assert_streams_differ(s, rng_stream(1, 2, 3, 5));
  assert_streams_differ(s, rng_stream(1, 2, 4, 3));
  assert_streams_differ(s, rng_stream(1, 3, 2, 4));
}

static int ascending(const void *a, const void *b) {
  const float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

// sup|F_n − F|·sqrt(n): below 1.95 in 99.9% of all seeds (Kolmogorov).
static double kolmogorov(size_t count, float *numbers, double (*cdf)(double)) {
  double worst = 0;
  qsort(numbers, count, sizeof *numbers, ascending);
  for (size_t i = 0; i < count; ++i) {
    const double f = cdf((double)numbers[i]);
    worst = fmax(worst, fmax(fabs(f - (double)i / (double)count), fabs((double)(i + 1) / (double)count - f)));
  }
  return worst * sqrt((double)count);
}
static double uniform_cdf(double x) { return x; }
static double normal_cdf(double x) { return 0.5 * erfc(-x / sqrt(2)); }

// Mean, variance, and correlation of neighbours `lag` apart, each within 5 of its standard deviations.
static void assert_moments(size_t count, const float *x, double mean, double variance, double fourth) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < count; ++i) sum += (double)x[i];
  for (size_t i = 0; i < count; ++i) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
  const double n = (double)count;
  assert_true(fabs(sum / n - mean) < 5 * sqrt(variance / n));
  assert_true(fabs(squares / n - variance) < 5 * sqrt((fourth - variance * variance) / n));
  for (size_t lag = 1; lag <= 17; ++lag) {
    double product = 0;
    for (size_t i = 0; i + lag < count; ++i) product += ((double)x[i] - mean) * ((double)x[i + lag] - mean);
    assert_true(fabs(product / n / variance) < 5 / sqrt(n));
  }
}

static void uniform_is_uniform_inside_zero_and_one(void **state) {
  (void)state;
  float *x = floats(DRAWS);
  rng_uniform(rng_stream(123, RNG_BENCH, 0, 0), DRAWS, x);
  for (size_t i = 0; i < DRAWS; ++i) assert_true(x[i] > 0 && x[i] < 1);
  assert_moments(DRAWS, x, 0.5, 1 / 12.0, 1 / 80.0);
  assert_true(kolmogorov(DRAWS, x, uniform_cdf) < 1.95);
  free(x);
}

static void normal_is_standard_normal(void **state) {
  (void)state;
  float *x = floats(DRAWS);
  rng_normal(rng_stream(124, RNG_BENCH, 0, 0), DRAWS, x);
  assert_moments(DRAWS, x, 0, 1, 3);
  double cubes = 0, fourths = 0;
  for (size_t i = 0; i < DRAWS; ++i) {
    const double y = (double)x[i];
    cubes += y * y * y / DRAWS;
    fourths += y * y * y * y / DRAWS;
  }
  assert_true(fabs(cubes) < 5 * sqrt(15.0 / DRAWS));
  assert_true(fabs(fourths - 3) < 5 * sqrt(96.0 / DRAWS));
  // Box-Muller makes pairs: their squares must be independent as well.
  double pairs = 0;
  for (size_t i = 0; i < DRAWS; i += 2)
    pairs += ((double)x[i] * (double)x[i] - 1) * ((double)x[i + 1] * (double)x[i + 1] - 1);
  assert_true(fabs(pairs / (DRAWS / 2.0)) < 5 * 2 / sqrt(DRAWS / 2.0));
  assert_true(kolmogorov(DRAWS, x, normal_cdf) < 1.95);
  free(x);
}

// Numbers 2i and 2i+1 are the cosine and the sine branch of uniform numbers 2i (radius) and 2i+1 (angle).
static void normal_is_box_muller_of_the_uniform_numbers(void **state) {
  (void)state;
  enum { COUNT = 10000 };
  const struct rng_stream s = rng_stream(127, RNG_CFM_NOISE, 5, 6);
  float *uniform = floats(COUNT), *normal = floats(COUNT);
  double *want = doubles(COUNT);
  rng_uniform(s, COUNT, uniform);
  rng_normal(s, COUNT, normal);
  for (size_t i = 0; i < COUNT; i += 2) {
    const double radius = sqrt(-2 * log((double)uniform[i])), angle = 6.283185307179586 * (double)uniform[i + 1];
    want[i] = radius * cos(angle);
    want[i + 1] = radius * sin(angle);
  }
  assert_near("normal", COUNT, normal, want, 3e-7);
  free(uniform), free(normal), free(want);
}

static void normal_has_both_tails(void **state) {
  (void)state;
  enum { MANY = 4000000 };
  float *x = floats(MANY);
  rng_normal(rng_stream(125, RNG_BENCH, 1, 0), MANY, x);
  for (double limit = 2; limit < 4.6; limit += 0.5) {
    double above = 0, below = 0;
    for (size_t i = 0; i < MANY; ++i) above += (double)x[i] > limit;
    for (size_t i = 0; i < MANY; ++i) below += (double)x[i] < -limit;
    const double want = MANY * normal_cdf(-limit);
    assert_true(fabs(above - want) < 5 * sqrt(want) + 1);
    assert_true(fabs(below - want) < 5 * sqrt(want) + 1);
  }
  for (size_t i = 0; i < MANY; ++i) assert_true(fabsf(x[i]) < 7);
  free(x);
}

static void single_numbers_in_double_have_the_distributions_too(void **state) {
  (void)state;
  enum { COUNT = 50000 };
  const struct rng_stream s = rng_stream(126, RNG_RESET, 2, 3);
  float *uniform = floats(COUNT), *normal = floats(COUNT);
  int fine = 0;
  for (uint32_t i = 0; i < COUNT; ++i) {
    const double u = rng_uniform_at(s, i);
    assert_true(u > 0 && u < 1);
    fine += u * 0x1p23 - floor(u * 0x1p23) != 0.5; // more than 23 bits are random
    uniform[i] = (float)u;
    normal[i] = (float)rng_normal_at(s, i);
  }
  assert_true(fine > COUNT - 10);
  assert_moments(COUNT, uniform, 0.5, 1 / 12.0, 1 / 80.0);
  assert_moments(COUNT, normal, 0, 1, 3);
  assert_true(kolmogorov(COUNT, uniform, uniform_cdf) < 1.95);
  assert_true(kolmogorov(COUNT, normal, normal_cdf) < 1.95);
  free(uniform), free(normal);
}

static void permutation_holds_every_number_once(void **state) {
  (void)state;
  static const uint32_t counts[] = {0, 1, 2, 3, 17, 1000, 32768};
  for (size_t i = 0; i < COUNT_OF(counts); ++i) {
    const uint32_t n = counts[i];
    uint32_t *p = zeroed(n + 1, sizeof *p);
    char *seen = zeroed(n, 1);
    p[n] = 99;
    rng_permutation(rng_stream(5, RNG_SHUFFLE, 1, n), n, p);
    for (uint32_t k = 0; k < n; ++k) {
      assert_true(p[k] < n && !seen[p[k]]);
      seen[p[k]] = 1;
    }
    assert_int_equal(p[n], 99);
    free(p), free(seen);
  }
}

// All 24 orders of 4, chi-square with 23 degrees of freedom: below 55 in 99.98% of all seeds.
static void permutation_is_uniform(void **state) {
  (void)state;
  enum { ROUNDS = 48000, ORDERS = 24 };
  int seen[256] = {0};
  for (uint32_t round = 0; round < ROUNDS; ++round) {
    uint32_t p[4];
    rng_permutation(rng_stream(6, RNG_SHUFFLE, 0, round), 4, p);
    ++seen[p[0] << 6 | p[1] << 4 | p[2] << 2 | p[3]];
  }
  double chi_square = 0;
  int orders = 0;
  for (int i = 0; i < 256; ++i) {
    if (seen[i] == 0) continue;
    const double miss = seen[i] - (double)ROUNDS / ORDERS;
    chi_square += miss * miss / ((double)ROUNDS / ORDERS);
    ++orders;
  }
  assert_int_equal(orders, ORDERS);
  assert_true(chi_square < 55);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(generator_is_philox4x32_10_of_random123),
      cmocka_unit_test(a_draw_is_a_function_of_its_stream),
      cmocka_unit_test(the_first_numbers_do_not_depend_on_how_many_are_drawn),
      cmocka_unit_test(rows_are_streams_side_by_side),
      cmocka_unit_test(seed_purpose_owner_and_step_each_make_another_stream),
      cmocka_unit_test(uniform_is_uniform_inside_zero_and_one),
      cmocka_unit_test(normal_is_standard_normal),
      cmocka_unit_test(normal_is_box_muller_of_the_uniform_numbers),
      cmocka_unit_test(normal_has_both_tails),
      cmocka_unit_test(single_numbers_in_double_have_the_distributions_too),
      cmocka_unit_test(permutation_holds_every_number_once),
      cmocka_unit_test(permutation_is_uniform),
  };
  return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
