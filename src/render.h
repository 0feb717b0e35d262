// `flowrank render`: episodes of a checkpoint's policy as a video, an animated picture or a sheet of frames. They are the
// first episodes of `flowrank eval` with the same seed, sampler and steps.
#ifndef FLOWRANK_RENDER_H
#define FLOWRANK_RENDER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"
#include "eval.h"

struct render_options {
  struct eval_options eval; // of it: name, at most one sampler and number of steps, episodes (0: one), seed, noise
  const char *output;       // .mp4, .gif or .png
  const char *camera;       // as renderer_find_camera takes it; null: its choice
  int64_t length;           // control steps of an episode to show; 0: all
  int64_t width, height;    // pixels
  int64_t fps;              // frames of a second of simulated time
  int64_t frames;           // of an episode on a sheet
  bool bare;                // no caption
};

// Prints each episode's return, and what was written.
// What --width, --height and --fps allow. Errors: usage.
struct error *render_check_frames(int64_t width, int64_t height, int64_t fps) MUST_USE;

struct error *render(const struct render_options *options, FILE *out) MUST_USE;

#endif
