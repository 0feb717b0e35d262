#include "common/normalizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct error *normalizer_init(struct normalizer *n, enum normalizer_kind kind, int dim) {
  const size_t d = (size_t)dim;
  *n = (struct normalizer){.kind = kind, .dim = dim};
  n->moments = calloc(moments_size(dim), sizeof *n->moments);
  n->shift = calloc(2 * d, sizeof *n->shift);
  if (n->moments == NULL || n->shift == NULL) {
    normalizer_free(n);
    return error_no_memory("the observation normaliser");
  }
  n->mean = n->moments + 1;
  n->m2 = n->mean + d;
  n->scale = n->shift + d;
  normalizer_refresh(n);
  return NULL;
}

void normalizer_free(struct normalizer *n) {
  free(n->moments);
  free(n->shift);
  *n = (struct normalizer){0};
}

size_t moments_size(int dim) { return 1 + 2 * (size_t)dim; }

void moments_join(int dim, double count, const double *mean, const double *m2, double *moments) {
  const size_t bytes = (size_t)dim * sizeof(double);
  moments[0] = count;
  memcpy(moments + 1, mean, bytes);
  memcpy(moments + 1 + dim, m2, bytes);
}

void moments_of_rows(int dim, size_t rows, const float *obs, double *moments) {
  const size_t d = (size_t)dim;
  double *mean = moments + 1, *m2 = mean + d;
  memset(moments, 0, moments_size(dim) * sizeof *moments);
  if (rows == 0) return;
  moments[0] = (double)rows;
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < d; ++i) mean[i] += obs[r * d + i];
  for (size_t i = 0; i < d; ++i) mean[i] /= (double)rows;
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < d; ++i) {
      const double deviation = obs[r * d + i] - mean[i];
      m2[i] += deviation * deviation;
    }
}

void moments_combine(int dim, double *into, const double *from) {
  if (from[0] == 0) return;
  const size_t d = (size_t)dim;
  const double count = into[0] + from[0];
  double *mean = into + 1, *m2 = mean + d;
  const double *from_mean = from + 1, *from_m2 = from_mean + d;
  for (size_t i = 0; i < d; ++i) {
    const double delta = from_mean[i] - mean[i];
    mean[i] += delta * (from[0] / count);
    m2[i] += from_m2[i] + delta * delta * (into[0] * from[0] / count);
  }
  into[0] = count;
}

// The authors' update: the mean moves as it should, but the sum of squares is that of the newest batch alone (about the
// old and the new mean), while the count that divides it keeps growing.
static void reference_update(struct normalizer *n, const double *moments) {
  const size_t d = (size_t)n->dim;
  const double *batch_mean = moments + 1, *batch_m2 = batch_mean + d;
  n->moments[0] += moments[0];
  for (size_t i = 0; i < d; ++i) {
    const double old_mean = n->mean[i];
    n->mean[i] += moments[0] * (batch_mean[i] - old_mean) / n->moments[0];
    n->m2[i] = batch_m2[i] + moments[0] * (batch_mean[i] - old_mean) * (batch_mean[i] - n->mean[i]);
  }
}

void normalizer_update(struct normalizer *n, const double *moments) {
  if (n->kind == NORMALIZER_NONE || moments[0] == 0) return;
  if (n->kind == NORMALIZER_REFERENCE) {
    reference_update(n, moments);
  } else {
    moments_combine(n->dim, n->moments, moments);
  }
  normalizer_refresh(n);
}

void normalizer_refresh(struct normalizer *n) {
  const int known = n->kind != NORMALIZER_NONE && n->moments[0] > 0;
  for (int i = 0; i < n->dim; ++i) {
    const double variance = known ? n->m2[i] / n->moments[0] : 1.0;
    n->shift[i] = known ? (float)n->mean[i] : 0.0f;
    n->scale[i] = (float)(1.0 / sqrt(variance > 1e-12 ? variance : 1e-12));
  }
}

void normalizer_apply(const struct normalizer *n, size_t rows, const float *obs, float *out) {
  const size_t d = (size_t)n->dim;
  for (size_t r = 0; r < rows; ++r)
    for (size_t i = 0; i < d; ++i) out[r * d + i] = (obs[r * d + i] - n->shift[i]) * n->scale[i];
}
