// What all benchmarks have in common: each quantity is measured in every round, in turn, so that a slow spell meets all of
// them, and the median counts.
#ifndef FLOWRANK_BENCH_ROUNDS_H
#define FLOWRANK_BENCH_ROUNDS_H

#include <stdlib.h>

enum { ROUNDS = 5 };

static inline int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Sorts the values.
static inline double median(double *values, size_t count) {
  qsort(values, count, sizeof *values, ascending);
  return values[count / 2];
}

#endif
