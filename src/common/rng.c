#include "common/rng.h"

#include <Random123/philox.h>
#include <math.h>

#include "common/simd.h"

enum { WORDS = 4 }; // 32-bit words of a Philox block
enum { CHUNK = 2 * SIMD_LANES, CHUNK_BLOCKS = (CHUNK + WORDS - 1) / WORDS };

static philox4x32_ctr_t block_at(struct rng_stream s, uint32_t block) {
  const philox4x32_ctr_t counter = {{block, s.step, s.owner, s.purpose}};
  const philox4x32_key_t key = {{(uint32_t)s.seed, (uint32_t)(s.seed >> 32)}};
  return philox4x32(counter, key);
}

// Words [first, first+CHUNK) of the stream; only as many blocks as `count` words need are made, the rest is zero.
static void chunk_words(struct rng_stream s, size_t first, size_t count, uint32_t words[CHUNK_BLOCKS * WORDS]) {
  const size_t blocks = (count + WORDS - 1) / WORDS;
  for (size_t b = 0; b < CHUNK_BLOCKS; ++b) {
    const philox4x32_ctr_t r = b < blocks ? block_at(s, (uint32_t)(first / WORDS + b)) : (philox4x32_ctr_t){{0}};
    memcpy(words + b * WORDS, r.v, sizeof r.v);
  }
}

// 23 random bits, centred in their interval, so that neither 0 nor 1 can come out.
static inline float to_unit(uint32_t word) { return ((float)(word >> 9) + 0.5f) * 0x1p-23f; }

void rng_uniform(struct rng_stream s, size_t count, float *out) {
  uint32_t words[CHUNK_BLOCKS * WORDS];
  for (size_t first = 0; first < count; first += CHUNK) {
    const size_t n = count - first < CHUNK ? count - first : CHUNK;
    chunk_words(s, first, n, words);
    for (size_t i = 0; i < n; ++i) out[first + i] = to_unit(words[i]);
  }
}

void rng_normal(struct rng_stream s, size_t count, float *out) {
  uint32_t words[CHUNK_BLOCKS * WORDS];
  float radius_from[SIMD_LANES], angle_from[SIMD_LANES], cosine[SIMD_LANES], sine[SIMD_LANES];
  for (size_t first = 0; first < count; first += CHUNK) {
    const size_t n = count - first < CHUNK ? count - first : CHUNK;
    chunk_words(s, first, n, words);
    for (size_t i = 0; i < SIMD_LANES; ++i) {
      radius_from[i] = to_unit(words[2 * i]);
      angle_from[i] = 2.0f * to_unit(words[2 * i + 1]);
    }
    const simd radius = SIMD_SQRT(-2.0f * SIMD_LOG(simd_load(radius_from)));
    simd s_angle, c_angle;
    SIMD_SINCOSPI(simd_load(angle_from), s_angle, c_angle);
    simd_store(cosine, radius * c_angle);
    simd_store(sine, radius * s_angle);
    for (size_t i = 0; i < n; ++i) out[first + i] = i % 2 == 0 ? cosine[i / 2] : sine[i / 2];
  }
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
