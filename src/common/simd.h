// The widest float vector that this build targets, with SLEEF's log, tanh and sine/cosine on it. Plain arithmetic uses the
// compilers' vector extension, so that gcc and clang give the same operations in the same order. The exponential is our
// own: in a small network it costs as much as the products, and a call into a library doubles that.
#ifndef FLOWRANK_SIMD_H
#define FLOWRANK_SIMD_H

#include <sleef.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
enum { SIMD_LANES = 16 };
typedef float simd __attribute__((vector_size(64)));
typedef uint32_t simd_bits __attribute__((vector_size(64)));
#define SIMD_LOG(x) ((simd)Sleef_logf16_u10avx512f((__m512)(x)))
#define SIMD_TANH(x) ((simd)Sleef_tanhf16_u10avx512f((__m512)(x)))
#define SIMD_SINCOS(x, s, c) SIMD_PAIR(Sleef___m512_2, Sleef_sincosf16_u10avx512f((__m512)(x)), s, c)
#define SIMD_SINCOSPI(x, s, c) SIMD_PAIR(Sleef___m512_2, Sleef_sincospif16_u05avx512f((__m512)(x)), s, c)
#define SIMD_SQRT(x) ((simd)_mm512_sqrt_ps((__m512)(x)))
#define SIMD_RECIPROCAL_ESTIMATE(x) ((simd)_mm512_rcp14_ps((__m512)(x)))
#define SIMD_MIN(a, b) ((simd)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define SIMD_MAX(a, b) ((simd)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define SIMD_FMA(a, b, c) ((simd)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#elif defined(__AVX2__) && defined(__FMA__)
enum { SIMD_LANES = 8 };
typedef float simd __attribute__((vector_size(32)));
typedef uint32_t simd_bits __attribute__((vector_size(32)));
#define SIMD_LOG(x) ((simd)Sleef_logf8_u10avx2((__m256)(x)))
#define SIMD_TANH(x) ((simd)Sleef_tanhf8_u10avx2((__m256)(x)))
#define SIMD_SINCOS(x, s, c) SIMD_PAIR(Sleef___m256_2, Sleef_sincosf8_u10avx2((__m256)(x)), s, c)
#define SIMD_SINCOSPI(x, s, c) SIMD_PAIR(Sleef___m256_2, Sleef_sincospif8_u05avx2((__m256)(x)), s, c)
#define SIMD_SQRT(x) ((simd)_mm256_sqrt_ps((__m256)(x)))
#define SIMD_RECIPROCAL_ESTIMATE(x) ((simd)_mm256_rcp_ps((__m256)(x)))
#define SIMD_MIN(a, b) ((simd)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define SIMD_MAX(a, b) ((simd)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define SIMD_FMA(a, b, c) ((simd)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#elif defined(__SSE2__)
enum { SIMD_LANES = 4 };
typedef float simd __attribute__((vector_size(16)));
typedef uint32_t simd_bits __attribute__((vector_size(16)));
#define SIMD_LOG(x) ((simd)Sleef_logf4_u10sse2((__m128)(x)))
#define SIMD_TANH(x) ((simd)Sleef_tanhf4_u10sse2((__m128)(x)))
#define SIMD_SINCOS(x, s, c) SIMD_PAIR(Sleef___m128_2, Sleef_sincosf4_u10sse2((__m128)(x)), s, c)
#define SIMD_SINCOSPI(x, s, c) SIMD_PAIR(Sleef___m128_2, Sleef_sincospif4_u05sse2((__m128)(x)), s, c)
#define SIMD_SQRT(x) ((simd)_mm_sqrt_ps((__m128)(x)))
#define SIMD_RECIPROCAL_ESTIMATE(x) ((simd)_mm_rcp_ps((__m128)(x)))
#define SIMD_MIN(a, b) ((simd)_mm_min_ps((__m128)(a), (__m128)(b)))
#define SIMD_MAX(a, b) ((simd)_mm_max_ps((__m128)(a), (__m128)(b)))
#define SIMD_FMA(a, b, c) ((a) * (b) + (c))
#elif defined(__aarch64__)
enum { SIMD_LANES = 4 };
typedef float simd __attribute__((vector_size(16)));
typedef uint32_t simd_bits __attribute__((vector_size(16)));
#define SIMD_LOG(x) ((simd)Sleef_logf4_u10advsimd((float32x4_t)(x)))
#define SIMD_TANH(x) ((simd)Sleef_tanhf4_u10advsimd((float32x4_t)(x)))
#define SIMD_SINCOS(x, s, c) SIMD_PAIR(Sleef_float32x4_t_2, Sleef_sincosf4_u10advsimd((float32x4_t)(x)), s, c)
#define SIMD_SINCOSPI(x, s, c) SIMD_PAIR(Sleef_float32x4_t_2, Sleef_sincospif4_u05advsimd((float32x4_t)(x)), s, c)
#define SIMD_SQRT(x) ((simd)vsqrtq_f32((float32x4_t)(x)))
#define SIMD_RECIPROCAL_ESTIMATE(x) ((simd)vrecpeq_f32((float32x4_t)(x)))
#define SIMD_MIN(a, b) ((simd)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define SIMD_MAX(a, b) ((simd)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define SIMD_FMA(a, b, c) ((simd)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#error "flowrank needs SSE2, AVX2, AVX-512 or AArch64 vectors"
#endif

#define SIMD_PAIR(type, call, s, c)                                                                                    \
  do {                                                                                                                 \
    const type pair_ = (call);                                                                                         \
    (s) = (simd)pair_.x;                                                                                               \
    (c) = (simd)pair_.y;                                                                                               \
  } while (0)

// Floats rounded up to whole cache lines, so that arrays in one allocation start on one.
static inline size_t simd_padded(size_t floats) { return (floats + 15) / 16 * 16; }

static inline simd simd_load(const float *p) {
  simd v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void simd_store(float *p, simd v) { memcpy(p, &v, sizeof v); }

// Tails: a vector of which only the first `count` lanes are memory's, the rest 0.
static inline simd simd_load_part(const float *p, size_t count) {
  simd v = {0};
  memcpy(&v, p, count * sizeof(float));
  return v;
}
static inline void simd_store_part(float *p, simd v, size_t count) { memcpy(p, &v, count * sizeof(float)); }

// 1/x for x in [1, 1e37]: an estimate and Newton steps, several times the throughput of a division. On AArch64 the
// estimate has 8 bits, elsewhere at least 12.
static inline simd simd_reciprocal(simd x) {
  simd r = SIMD_RECIPROCAL_ESTIMATE(x);
#if defined(__aarch64__)
  r = r * (2.0f - x * r);
#endif
  return r * (2.0f - x * r);
}

static inline simd simd_all(float x) { return (simd){0} + x; }

// 2^f for f in [-1/2, 1/2], to 3e-7 of the value: minimax for the relative error.
static inline simd simd_exp2_fraction(simd f) {
  simd p = simd_all(0.00132647261f);
  p = SIMD_FMA(p, f, simd_all(0.00967151299f));
  p = SIMD_FMA(p, f, simd_all(0.0555073358f));
  p = SIMD_FMA(p, f, simd_all(0.240222424f));
  p = SIMD_FMA(p, f, simd_all(0.693147004f));
  return SIMD_FMA(p, f, simd_all(1.0f));
}

// 2^x for x of at most 115; below -115 some number up to 2^-115. A NaN stays one. x = n + f with an integer n.
static inline simd simd_exp2(simd x) {
#if defined(__AVX512DQ__)
  const simd f = (simd)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
  return (simd)_mm512_scalef_ps((__m512)simd_exp2_fraction(f), (__m512)(x - f));
#else
  const simd round = simd_all(0x1.8p23f); // what is added to it loses its fraction and leaves n in the lowest bits
  const simd bounded = SIMD_MAX(simd_all(-115.0f), x), shifted = bounded + round;
  const simd p = simd_exp2_fraction(bounded - (shifted - round));
  return (simd)((simd_bits)p + ((simd_bits)shifted << 23)); // n goes to the exponent's bits
#endif
}

// 1/(1 + exp(-x)); beyond |x| = 80, where it is 1e-35 from its limit, it stays constant.
static inline simd simd_sigmoid(simd x) {
  const simd exponent = x * -0x1.715476p0f; // -x·log2(e)
  return simd_reciprocal(1.0f + simd_exp2(SIMD_MIN(simd_all(115.0f), exponent)));
}

#endif
