// How well a policy follows reference motion, over an evaluation on humanoid_track.
//   tracking_init, evaluate_all, tracking_total and tracking_print, tracking_free.
#ifndef FLOWRANK_TRACKING_H
#define FLOWRANK_TRACKING_H

#include <stdbool.h>
#include <stdio.h>

#include "actor/evaluate.h"
#include "actor/tasks/humanoid_track.h"

struct tracking {
  const struct motion_library *library;
  const struct task *task;
  int64_t episodes;
  struct humanoid_track_progress *last; // [episodes] of each, as far as it has come
};

// Means over episodes.
struct tracking_figures {
  int64_t episodes;
  double success; // share of episodes that came to their clip's end
  double alive;   // control steps
  double mpjpe;   // mm: mean per-joint position error, in the world's frame, over the steps that were alive
};

// Makes `v` watched, and its episodes a whole number for every clip, at least one.
struct error *tracking_init(struct tracking *t, struct evaluation *v) MUST_USE;
void tracking_free(struct tracking *t);

// Of the episodes of clip `clip`, or of all (-1).
struct tracking_figures tracking_figures(const struct tracking *t, int clip);

// A line a clip and one for all; json: members of an object that is open.
void tracking_print(const struct tracking *t, bool json, FILE *out);

#endif
