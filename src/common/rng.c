#include "common/rng.h"

#include <Random123/philox.h>
#include <math.h>
#include <stdbool.h>

#include "common/simd.h"

enum { WORDS = 4 }; // 32-bit words of a Philox block

static philox4x32_key_t key_of(struct rng_stream s) {
  return (philox4x32_key_t){{(uint32_t)s.seed, (uint32_t)(s.seed >> 32)}};
}

static philox4x32_ctr_t block_at(struct rng_stream s, uint32_t block) {
  const philox4x32_ctr_t counter = {{block, s.step, s.owner, s.purpose}};
  return philox4x32(counter, key_of(s));
}

// A vector of blocks, one a lane, in the order of the rows' numbers.
struct blocks {
  uint32_t per_row, block[SIMD_LANES], row[SIMD_LANES], words[WORDS][SIMD_LANES];
};

static void first_blocks(size_t count, struct blocks *b) {
  b->per_row = (uint32_t)((count + WORDS - 1) / WORDS);
  for (uint32_t i = 0; i < SIMD_LANES; ++i) b->block[i] = i % b->per_row, b->row[i] = i / b->per_row;
}

static void next_blocks(struct blocks *b) {
  const uint32_t rows = SIMD_LANES / b->per_row, blocks = SIMD_LANES % b->per_row;
  for (size_t i = 0; i < SIMD_LANES; ++i) {
    const uint32_t block = b->block[i] + blocks, carry = block >= b->per_row;
    b->block[i] = block - carry * b->per_row;
    b->row[i] += rows + carry;
  }
}

// The compilers make vector code of Random123's rounds here: 16 blocks in the time of three.
static void make_words(struct rng_stream s, enum rng_next next, struct blocks *b) {
  const philox4x32_key_t key = key_of(s);
  const uint32_t by_owner = next == RNG_NEXT_OWNER, by_step = next == RNG_NEXT_STEP;
  for (size_t i = 0; i < SIMD_LANES; ++i) {
    const philox4x32_ctr_t counter = {
        {b->block[i], s.step + by_step * b->row[i], s.owner + by_owner * b->row[i], s.purpose}};
    const philox4x32_ctr_t r = philox4x32(counter, key);
    for (size_t w = 0; w < WORDS; ++w) b->words[w][i] = r.v[w];
  }
}

typedef float numbers[WORDS][SIMD_LANES];

// 23 random bits, centred in their interval, so that neither 0 nor 1 can come out.
static inline float to_unit(uint32_t word) { return ((float)(int32_t)(word >> 9) + 0.5f) * 0x1p-23f; }

static void uniforms(const struct blocks *b, size_t used, numbers out) {
  for (size_t w = 0; w < used; ++w)
    for (size_t i = 0; i < SIMD_LANES; ++i) out[w][i] = to_unit(b->words[w][i]);
}

// Box-Muller on pairs of words.
static void normals(const struct blocks *b, size_t used, numbers out) {
  for (size_t w = 0; w < used; w += 2) {
    float radius_from[SIMD_LANES], angle_from[SIMD_LANES];
    for (size_t i = 0; i < SIMD_LANES; ++i) {
      radius_from[i] = to_unit(b->words[w][i]);
      angle_from[i] = 2.0f * to_unit(b->words[w + 1][i]);
    }
    const simd radius = SIMD_SQRT(-2.0f * SIMD_LOG(simd_load(radius_from)));
    simd sine, cosine;
    SIMD_SINCOSPI(simd_load(angle_from), sine, cosine);
    simd_store(out[w], radius * cosine);
    simd_store(out[w + 1], radius * sine);
  }
}

// Rows of numbers that `make` makes of the words; a row whose length is no multiple of a block takes the front of its last.
static void make_rows(struct rng_stream s, enum rng_next next, size_t rows, size_t count, size_t stride, float *out,
                      void (*make)(const struct blocks *, size_t, numbers)) {
  struct blocks b;
  numbers made;
  if (count == 0) return;
  first_blocks(count, &b);
  const size_t all = rows * b.per_row, used = count < WORDS ? count : WORDS;
  for (size_t done = 0; done < all; done += SIMD_LANES) {
    make_words(s, next, &b);
    make(&b, used, made);
    for (size_t i = 0; i < SIMD_LANES && done + i < all; ++i) {
      const size_t first = WORDS * (size_t)b.block[i], n = count - first < WORDS ? count - first : WORDS;
      float *to = out + b.row[i] * stride + first;
      for (size_t w = 0; w < n; ++w) to[w] = made[w][i];
    }
    next_blocks(&b);
  }
}

void rng_uniform(struct rng_stream s, size_t count, float *out) {
  make_rows(s, RNG_NEXT_STEP, 1, count, count, out, uniforms);
}

void rng_normal(struct rng_stream s, size_t count, float *out) {
  make_rows(s, RNG_NEXT_STEP, 1, count, count, out, normals);
}

void rng_uniform_rows(struct rng_stream first, enum rng_next next, size_t rows, size_t count, size_t stride,
                      float *out) {
  make_rows(first, next, rows, count, stride, out, uniforms);
}

void rng_normal_rows(struct rng_stream first, enum rng_next next, size_t rows, size_t count, size_t stride,
                     float *out) {
  make_rows(first, next, rows, count, stride, out, normals);
}

// Two words a number, so that 52 bits are random.
static double unit_double(uint32_t high, uint32_t low) {
  const uint64_t bits = ((uint64_t)high << 32 | low) >> 12;
  return ((double)bits + 0.5) * 0x1p-52;
}

double rng_uniform_at(struct rng_stream s, uint32_t index) {
  const philox4x32_ctr_t r = block_at(s, index);
  return unit_double(r.v[0], r.v[1]);
}

double rng_normal_at(struct rng_stream s, uint32_t index) {
  const philox4x32_ctr_t r = block_at(s, index);
  const double two_pi = 6.283185307179586476925286766559;
  return sqrt(-2.0 * log(unit_double(r.v[0], r.v[1]))) * cos(two_pi * unit_double(r.v[2], r.v[3]));
}

void rng_permutation(struct rng_stream s, uint32_t count, uint32_t *out) {
  for (uint32_t i = 0; i < count; ++i) out[i] = i;
  for (uint32_t i = count; i > 1; --i) {
    const uint32_t j = (uint32_t)(rng_uniform_at(s, i) * i); // < i, as the uniform is < 1
    const uint32_t kept = out[i - 1];
    out[i - 1] = out[j];
    out[j] = kept;
  }
}
