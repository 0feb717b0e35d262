// `flowrank motion`: libraries of reference motion.
#ifndef FLOWRANK_MOTION_H
#define FLOWRANK_MOTION_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

struct motion_import_options {
  const char *out;   // the library
  const char *model; // MJCF file of the body; null: the one that the first source is of
  double fps;        // 0: each clip's own
  int source_count;  // 0: the clips that tools/setup.sh unpacked
  char **sources;    // files and folders
};

// Imports, writes the library, and says of each clip on `out` what came of it; refused ones are on stderr.
// Errors: no clip can be used; a missing source, body or place to write to.
struct error *motion_import(const struct motion_import_options *o, FILE *out) MUST_USE;

// A line a clip, or as JSON.
struct error *motion_list(const char *library, bool json, FILE *out) MUST_USE;

// One clip (null: the only one) in detail: its poses' extent, speeds, and each joint's range against what it moves
// through.
struct error *motion_show(const char *library, const char *clip, bool json, FILE *out) MUST_USE;

struct motion_play_options {
  const char *library, *clip; // clip null: the only one
  const char *output, *camera;
  int64_t width, height, fps;
};

// Draws a clip as it is, without physics. Errors: those of render.
struct error *motion_play(const struct motion_play_options *o, FILE *out) MUST_USE;

#endif
