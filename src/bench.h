// Benchmarks: what is reached against the limit of the machine, measured in the same process.
#ifndef FLOWRANK_BENCH_H
#define FLOWRANK_BENCH_H

#include <stdbool.h>
#include <stdio.h>

#include "common/comm.h"
#include "common/config.h"
#include "common/error.h"

// Each quantity is measured in every round, in turn, so that a slow spell meets all of them.
enum { BENCH_ROUNDS = 5 };
double bench_median(double values[BENCH_ROUNDS]);

// The task's sizes, where either is 0.
struct error *bench_sizes(const struct config *config, int *obs_dim, int *action_dim) MUST_USE;

// Operations per second of a large sgemm on one core: the limit for matrix products.
struct error *bench_sgemm(double *rate) MUST_USE;

// Environment steps/s of the task side alone (resets, physics, observation, reward, state) with random actions, on one
// core and on cluster.threads threads, against bare mj_step on the same threads.
struct error *bench_env(const struct config *config, bool json, FILE *out) MUST_USE;

// One core: environment steps/s with policy against bare mj_step of the same model and controls plus the inference's
// operations at the measured sgemm peak.
struct error *bench_rollout(const struct config *config, bool json, FILE *out) MUST_USE;

// One core: achieved rate of the learner's matrix-product operations against the measured sgemm peak, with shares per
// phase. Uses a synthetic batch of obs_dim × action_dim when these are positive, else the config's task's sizes.
struct error *bench_update(struct comm *comm, const struct config *config, int obs_dim, int action_dim, bool json,
                           FILE *out) MUST_USE;

// One core: the matrix products of the config's networks alone, each as large as acting and learning make it, against the
// measured sgemm peak. Sizes as for bench_update.
struct error *bench_products(const struct config *config, int obs_dim, int action_dim, bool json, FILE *out) MUST_USE;

// Bytes on the wire per environment step; between the last rank and rank 0 the bandwidth of an iteration's messages and the
// latency of a short one. Errors: what arrives is not what was sent.
struct error *bench_wire(struct comm *comm, const struct config *config, bool json, FILE *out) MUST_USE;

// What one core takes for the parts of an iteration, for `flowrank plan`.
struct bench_rates {
  double act;        // seconds of a shard through one iteration
  double learn;      // seconds of a shard's slice of one minibatch, values and policy
  double normalise;  // seconds of a shard's moments and normalisation, once an iteration
  double adam;       // seconds of a step
  double add;        // bytes/s of sums of gradients too large for the core's cache
  double checkpoint; // seconds of a checkpoint, written to TMPDIR
  double checkpoint_bytes;
  double process_bytes; // of a process that holds nothing of a run but the task's model
  double thread_bytes;  // of a thread's scratch, beside what the sizes of a run tell
};
// Takes some seconds; minutes for large networks.
struct error *bench_rates(struct comm *comm, const struct config *config, struct bench_rates *rates) MUST_USE;

#endif
