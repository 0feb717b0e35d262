// A checkpoint's policy with all that it needs to act: for the commands that look at what was learned.
#ifndef FLOWRANK_LOADED_POLICY_H
#define FLOWRANK_LOADED_POLICY_H

#include <stdint.h>

#include "actor/evaluate.h"
#include "common/checkpoint.h"
#include "common/config.h"
#include "common/error.h"
#include "learner/objective.h"

struct loaded_policy {
  struct checkpoint checkpoint;
  char *path; // the file that was loaded
  struct config config;
  struct task *task;
  struct objective objective;
  struct normalizer normalizer;
};

// name: a run folder or a checkpoint. To be freed after an error as well.
// Errors: those of the checkpoint, its config and its task; parameters that do not fit.
struct error *loaded_policy_init(struct loaded_policy *p, const char *name) MUST_USE;
void loaded_policy_free(struct loaded_policy *p);

// Its evaluation as the config has it, but for what is asked for: episodes (0: the config's), seed and noise (-1: the
// config's). Points into `p`.
struct evaluation loaded_policy_evaluation(const struct loaded_policy *p, int64_t episodes, int64_t seed, int noise);

// The error of --OPTION, which only a flow has, if this is a Gaussian; null for a flow.
struct error *loaded_policy_needs_flow(const struct loaded_policy *p, const char *option) MUST_USE;

#endif
