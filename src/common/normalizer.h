// Streaming mean and variance of observations, combinable over shards (Chan et al. 1979).
#ifndef FLOWRANK_NORMALIZER_H
#define FLOWRANK_NORMALIZER_H

#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"

struct normalizer {
  enum normalizer_kind kind;
  int dim;
  double *moments;      // [1 + 2·dim]: the running count, means and m2s, as below
  double *mean, *m2;    // views into moments; m2: sums of squared deviations from the mean
  float *shift, *scale; // [dim]: normalised = (obs − shift)·scale; made by normalizer_refresh
};

// Starts at mean 0, standard deviation 1, count 0.
struct error *normalizer_init(struct normalizer *n, enum normalizer_kind kind, int dim) MUST_USE;
void normalizer_free(struct normalizer *n);

// Moments of a batch as one array of doubles [1 + 2·dim]: count, means, m2s. This is what travels up the tree.
size_t moments_size(int dim);
// The array from its parts, as checkpoints have them: mean [dim], m2 [dim].
void moments_join(int dim, double count, const double *mean, const double *m2, double *moments);
// Moments of obs [rows, dim].
void moments_of_rows(int dim, size_t rows, const float *obs, double *moments);
// into ← into ∪ from.
void moments_combine(int dim, double *into, const double *from);

// Takes the moments of the newest batch into the running statistics and refreshes shift and scale.
// exact: Chan's combination. reference: the authors' update, which forgets the accumulated squares (docs/algorithm.md).
void normalizer_update(struct normalizer *n, const double *moments);
// shift = mean, scale = 1/sqrt(max(variance, 1e-12)); identity while count is 0 or kind is none.
void normalizer_refresh(struct normalizer *n);

// out [rows, dim] = normalised obs [rows, dim]; may be in place.
void normalizer_apply(const struct normalizer *n, size_t rows, const float *obs, float *out);

#endif
