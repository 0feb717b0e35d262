// What a policy does in a GridWorld, found by drawing from it: whether it keeps several ways open, where its walks end.
// The figures of the paper's multimodality domain (arXiv 2507.21053, GridWorld).
#ifndef FLOWRANK_MULTIMODALITY_H
#define FLOWRANK_MULTIMODALITY_H

#include <stdio.h>

#include "actor/evaluate.h"
#include "common/error.h"

enum {
  MULTIMODALITY_DRAWS = 1000, // actions of each cell of the middle row; walks from the start cell
  MULTIMODALITY_WALKS = 24,   // from every free cell
  MULTIMODALITY_MAX_GOALS = 8
};

enum walk_end { WALK_LOST = -2, WALK_DIED = -1 }; // from 0 on: the goal region that it ended in

// One episode from a cell.
struct walk {
  int x, y;        // where it began
  float action[2]; // its first, as the environment received it
  int end, steps;
};

struct multimodality {
  double up, down, level; // shares of moves by y, averaged over the free cells of the middle row; NaN without any
  int start_x, start_y;   // where the next three begin
  int goals;
  double goal_share[MULTIMODALITY_MAX_GOALS]; // of walks
  double entropy;                             // bits, of the goals that were reached; 0 when none was
  double success, mean_steps; // of walks from all free cells: the share that reaches a goal, and how fast these are
  int walk_count;
  struct walk *walk; // [walk_count], MULTIMODALITY_WALKS from every free cell; owned
};

// Draws with sampling on, whatever v->acting.noise is: a mean cannot be multimodal. start: a free cell, or null for the
// one nearest to the centre that is as far from every goal as can be.
// Errors: `start` is not free (usage); no memory.
struct error *multimodality_measure(const struct evaluation *v, const int start[2], struct multimodality *out) MUST_USE;
// The error of a start that is no free cell, for a caller who wants to know before.
struct error *multimodality_check_start(const struct task *task, const int start[2]) MUST_USE;
void multimodality_free(struct multimodality *m);

// A few lines for people, or the members of a JSON object.
void multimodality_print(const struct multimodality *m, bool json, FILE *out);

// Everything that tools/gridworld.py draws, as one JSON object: the cells, every walk's first action and end, and, for a
// flow, how samples at the start cell move over flow time (raw actions).
struct error *multimodality_write_field(const struct evaluation *v, const struct multimodality *m, FILE *out) MUST_USE;

#endif
