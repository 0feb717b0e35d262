// `flowrank plan`: what an iteration takes on how many nodes, predicted from what one core takes for its parts.
#ifndef FLOWRANK_PLAN_H
#define FLOWRANK_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "bench.h"
#include "common/comm.h"
#include "common/config.h"
#include "common/error.h"
#include "common/shard.h"

enum { PLAN_MAX_SIZES = 64, PLAN_MAX_NODES = 65536 };

// Nodes that are alike; ranks lie on them in blocks, each with its share of the cores as threads.
struct plan_cluster {
  int nodes, cores, ranks; // cores, ranks: of a node
  double bandwidth;        // bytes/s between two nodes, each way
  double latency;          // seconds of a short message between two nodes
};

// What one iteration is made of: bytes of its messages, and seconds of one core.
struct plan_work {
  struct shard_sizes sizes;
  struct bench_rates rates;
  int64_t updates;                      // steps of the optimizer
  double learner_bytes, tail_bytes;     // of a shard's message: for its learner, and for rank 0
  double weight_bytes;                  // of all parameters
  double observation_bytes, sum_bytes;  // of a shard's moments of observations, and sums of losses
  double environment_bytes;             // of all environments' states
  double checkpoints;                   // in an iteration
  bool overlaps;                        // pipeline: overlap
  double evaluation_blocks, evaluation; // in an iteration; seconds of one
};

// An iteration on some ranks, K of which learn. The parts are seconds and add up to `iteration`, but where iterations
// overlap: there it is the longer of act + wire and of the others.
struct plan_point {
  int ranks, learners, threads;
  bool together; // all act and learn
  double act, wire, learn, reduce, publish, other, iteration;
  double efficiency; // core seconds of acting and learning by all core seconds
  double rank_bytes; // memory of the rank that needs most
  double wire_bytes; // between nodes
  const char *bottleneck;
};

// Predicts an iteration under `placement` (of at most cluster->nodes × cluster->ranks ranks).
// Errors: out of memory.
struct error *plan_predict(const struct plan_work *work, const struct plan_cluster *cluster,
                           const struct placement *placement, struct plan_point *point) MUST_USE;

struct plan_options {
  int sizes, nodes[PLAN_MAX_SIZES]; // numbers of nodes
  struct plan_cluster cluster;      // its nodes are set to each of these
  bool json;                        // every number of learners, else the best of each size
};
// Measures this core, and prints a row for each size. Errors: a size that cannot work; what the benchmarks say.
struct error *plan(struct comm *comm, const struct config *config, const struct plan_options *options,
                   FILE *out) MUST_USE;

#endif
