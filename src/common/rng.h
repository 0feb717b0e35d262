// Counter-based random streams (Philox4x32-10 of Random123). A draw is a function of (seed, purpose, owner, step, index):
// no generator state is stored anywhere, none is shipped, and any rank can draw any number again.
#ifndef FLOWRANK_RNG_H
#define FLOWRANK_RNG_H

#include <stddef.h>
#include <stdint.h>

// What a stream is for. Stored runs depend on these numbers: append, never renumber.
enum rng_purpose {
  RNG_PARAMETERS = 1,   // owner: tensor, step: 0
  RNG_RESET = 2,        // owner: environment, step: its episode
  RNG_ACTION_NOISE = 3, // owner: environment, step: its control step since the run's start
  RNG_SDE_NOISE = 4,    // as ACTION_NOISE
  RNG_FEATHER = 5,      // as ACTION_NOISE
  RNG_CFM_NOISE = 6,    // as ACTION_NOISE
  RNG_CFM_TIME = 7,     // as ACTION_NOISE
  RNG_SHUFFLE = 8,      // owner: shard, step: epoch since the run's start
  RNG_BENCH = 9,        // free use by benchmarks and tests
  RNG_TASK = 10,        // randomness of a task's own inside an episode; owner: environment, step: control step
  RNG_STAGGER = 11,     // owner: environment, step: 0
  RNG_ENTROPY = 12,     // as ACTION_NOISE
  RNG_EVAL = 64,        // added to a purpose during evaluation, so that it never repeats a training draw
};

struct rng_stream {
  uint64_t seed;
  uint32_t purpose, owner, step;
};

static inline struct rng_stream rng_stream(uint64_t seed, uint32_t purpose, uint32_t owner, uint32_t step) {
  return (struct rng_stream){.seed = seed, .purpose = purpose, .owner = owner, .step = step};
}

// The stream's numbers 0..count-1, uniform in (0,1), float32 (23 random bits, never 0 or 1).
void rng_uniform(struct rng_stream s, size_t count, float *out);

// The stream's numbers 0..count-1, standard normal (Box-Muller on pairs), float32.
void rng_normal(struct rng_stream s, size_t count, float *out);

// As rng_uniform and rng_normal, for `rows` streams that differ in the owner or in the step alone, each one more than the
// one before: row r [count] is at out + r·stride. Made side by side in vectors: few numbers a row cost no more than many.
enum rng_next { RNG_NEXT_OWNER, RNG_NEXT_STEP };
void rng_uniform_rows(struct rng_stream first, enum rng_next next, size_t rows, size_t count, size_t stride,
                      float *out);
void rng_normal_rows(struct rng_stream first, enum rng_next next, size_t rows, size_t count, size_t stride, float *out);

// Number `index` of the stream, uniform in (0,1), with 52 random bits: for resets.
double rng_uniform_at(struct rng_stream s, uint32_t index);

// Number `index` of the stream, standard normal in double precision: for resets.
double rng_normal_at(struct rng_stream s, uint32_t index);

// A uniformly random permutation of 0..count-1 (Fisher-Yates).
void rng_permutation(struct rng_stream s, uint32_t count, uint32_t *out);

#endif
