// The training loop: collect → learn → publish → checkpoint.
#ifndef FLOWRANK_TRAIN_H
#define FLOWRANK_TRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/comm.h"
#include "common/config.h"
#include "common/error.h"

struct train_options {
  const char *config; // YAML file, or null to go on with the config stored in the run folder
  const char *run;    // run folder
  int set_count;
  const char *const *sets;
  double max_wall_seconds; // 0: no limit
  int64_t max_iterations;  // of this launch; 0: no limit
  double grace;            // seconds from a signal to the end; an iteration that takes longer is dropped
  bool fresh;              // refuse a run folder that is in use
  const char *command_line;
};

enum train_end {
  TRAIN_COMPLETE,
  TRAIN_STOPPED, // early, with a complete checkpoint
  TRAIN_FAILED,  // every rank returns the same error
  TRAIN_TORN,    // this rank failed alone: the others must be ended
};

// Trains on all ranks of `comm` until the training is complete or stopped.
struct error *train(struct comm *comm, const struct train_options *options, enum train_end *end) MUST_USE;

// Threads of a rank: the setting, or the cores that this rank may use shared with the other ranks of its node.
int train_threads(const struct config *config, int ranks_on_node);

#endif
