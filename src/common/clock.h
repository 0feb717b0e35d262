// Wall time for the phases' timers. Monotonic: a clock that is set while a job runs does not disturb it.
#ifndef FLOWRANK_CLOCK_H
#define FLOWRANK_CLOCK_H

#include <time.h>

static inline double clock_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
