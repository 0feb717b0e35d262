// What a person sees of a run: metrics.jsonl, one object a line, and on the terminal a progress bar or plain log lines.
#ifndef FLOWRANK_METRICS_H
#define FLOWRANK_METRICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

// One line of metrics.jsonl. NaN is written as null.
struct metrics_line {
  int64_t iteration, env_steps; // completed
  double wall_seconds;          // of all launches of the run together
  double steps_per_second;
  int64_t episodes; // finished in this iteration
  double episode_return, episode_length;
  double eval_return, eval_error;
  double policy_loss, value_loss, ratio_mean, ratio_std, clipped_fraction, cfm_loss, entropy, value_mean, grad_norm;
  double act_seconds, wire_seconds, learn_seconds, other_seconds; // of this iteration; together its time
  double hidden_seconds;     // of acting and wire that went on while rank 0 learned, and are not in the above
  double checkpoint_seconds; // of the checkpoint after the iteration before, which comes on top of these
  int64_t broken;            // environments reset because their physics diverged
  int64_t wire_bytes;        // trajectories and tails that crossed ranks in this iteration
};

struct metrics {
  char *path;
  FILE *file;   // null while the disk takes nothing
  char *recent; // the newest lines, for the checkpoint
  size_t recent_size;
  double log_interval, last_log; // seconds
  int64_t total_iterations, total_env_steps, first_iteration;
  double last_return, started;
  bool bar;
};

// Opens RUN/metrics.jsonl to append. recent: the newest lines up to `iteration`, as the checkpoint has them ("" before the
// first). They take the place of all lines from their first iteration on: what the file has beyond the checkpoint is
// done again, and what it lost at its end is back.
struct error *metrics_open(struct metrics *m, const char *run, int64_t iteration, const char *recent,
                           int64_t total_iterations, int64_t total_env_steps, double log_interval) MUST_USE;
void metrics_close(struct metrics *m);

// Appends and flushes one line, and shows it: on a terminal the bar is redrawn, elsewhere one plain line an interval.
// Errors: the file cannot be written. The run may go on: the next call tries to mend the file with the newest lines.
struct error *metrics_append(struct metrics *m, const struct metrics_line *line) MUST_USE;

// Ends the bar's line, so that other text can follow.
void metrics_end_bar(struct metrics *m);

// One line of warning on stderr; fits where checkpoint.h asks what to do with a file that it passed over.
void metrics_warn(void *context, const char *line);

#endif
