// All of HDF5 checkpoints: write, verify, list, load, compare.
#ifndef FLOWRANK_CHECKPOINT_H
#define FLOWRANK_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum { CHECKPOINT_FORMAT_VERSION = 1, TENSOR_NAME_MAX = 48, CHECKPOINT_NAME_BYTES = 64 };

// One layer's weights or biases inside the flat parameter array.
struct tensor_name {
  char name[TENSOR_NAME_MAX]; // "policy/w0"
  size_t offset;              // floats from the start of the flat array
  int rows, cols;             // cols 0: a vector of `rows`
};

// Everything that a run is at the end of an iteration. Each pointer is an array that this struct owns after a load and
// that the caller keeps when it writes.
struct checkpoint {
  char *config_text;  // effective config, YAML
  char *metrics_text; // the most recent lines of metrics.jsonl (may be "")
  char task_name[256];
  int64_t iteration; // iterations completed
  int64_t env_steps; // environment steps completed
  int64_t episodes;  // episodes completed
  double wall_seconds;
  double best_return; // -inf before the first

  int tensor_count;
  struct tensor_name *tensors; // [tensor_count], cover the flat arrays without gap or overlap
  size_t parameter_count;
  float *parameters, *adam_m, *adam_v; // [parameter_count]
  int64_t adam_step;

  int obs_dim;
  double normalizer_count;
  double *normalizer_mean, *normalizer_m2; // [obs_dim]

  // With `ahead`, the next iteration's trajectories are collected with these, which are an iteration older; else null.
  bool ahead;
  float *acting; // [parameter_count]
  double acting_count;
  double *acting_mean, *acting_m2; // [obs_dim]

  int64_t envs, state_size;
  double *env_state; // [envs, state_size]
};

// The name of a numbered file, "000000120.h5".
void checkpoint_name(int64_t iteration, char name[CHECKPOINT_NAME_BYTES]);

void checkpoint_free(struct checkpoint *c); // frees the arrays, not `c`

// Writes `c` to DIR/<iteration, 9 digits>.h5 through a temporary file in DIR (write, fsync, rename, fsync of DIR), then
// removes the oldest so that `keep` numbered ones stay. With `best`, the file is also made DIR/best.h5.
// Errors: names the file and the system's reason; nothing but a temporary file, which is removed, may be left.
struct error *checkpoint_write(const char *dir, const struct checkpoint *c, int64_t keep, bool best) MUST_USE;

// Loads and verifies one file. Errors name the file and what is wrong with it (not HDF5, torn, checksum, version, field).
struct error *checkpoint_load(const char *path, struct checkpoint *c) MUST_USE;

// Loads the newest file of DIR that verifies, trying newest to oldest; then `skipped` (may be null) is called with one line
// per file passed over. *found is false, without error, when DIR holds no numbered checkpoint at all.
// Errors: all of them are broken (says what is wrong with the newest).
struct error *checkpoint_load_latest(const char *dir, struct checkpoint *c, bool *found, char **path,
                                     void (*skipped)(void *context, const char *line), void *context) MUST_USE;

// Resolves what a user names, a run folder, its checkpoints folder or a file, to a verified checkpoint.
// *path (owned by the caller) is the file that was loaded.
struct error *checkpoint_open(const char *run_or_file, struct checkpoint *c, char **path,
                              void (*skipped)(void *context, const char *line), void *context) MUST_USE;

// Bitwise comparison of what is learned and simulated (parameters, optimizer, normaliser, environment states,
// counters; not wall time, config or metrics). Null when equal, else one line that names the first difference (owned by
// the caller).
char *checkpoint_difference(const struct checkpoint *a, const struct checkpoint *b);

// A summary for people, or as one JSON object.
void checkpoint_describe(const struct checkpoint *c, const char *path, bool json, FILE *out);

// Removes temporary files that a killed writer left in DIR. Errors are of no matter to anyone.
void checkpoint_sweep(const char *dir);

// Version of the HDF5 library, "1.10.8".
void checkpoint_library_version(char *text, size_t size);

#endif
