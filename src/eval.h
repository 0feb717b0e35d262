// `flowrank eval`: a checkpoint's policy through whole episodes, with one sampler and number of steps or a table of many;
// on a GridWorld also what it draws and where it goes.
#ifndef FLOWRANK_EVAL_H
#define FLOWRANK_EVAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/config.h"
#include "common/error.h"

enum { EVAL_MAX_LIST = 64 };

// What is not asked for (count 0, null, -1) is the config's.
struct eval_options {
  const char *name; // run folder or checkpoint
  int sampler_count, step_count;
  enum sampler_kind sampler[EVAL_MAX_LIST];
  int steps[EVAL_MAX_LIST];
  int64_t episodes, seed; // 0, -1: the config's
  int noise;              // -1: the config's
  const int *start;       // GridWorld: the cell of its walks; null: chosen
  const char *field;      // GridWorld: file for what tools/gridworld.py draws; null: none
  bool json;
};

struct error *eval(const struct eval_options *options, FILE *out) MUST_USE;

#endif
