// What can be asked of GridWorld's layouts, for reports on multimodality; and starting an episode at a chosen cell.
#ifndef FLOWRANK_GRIDWORLD_H
#define FLOWRANK_GRIDWORLD_H

#include <stdbool.h>

#include "actor/task.h"

enum { GRIDWORLD_SIZE = 25, GRIDWORLD_CENTRE = GRIDWORLD_SIZE / 2 }; // cells (x, y), 0..24 each

enum gridworld_cell { GRIDWORLD_FREE, GRIDWORLD_WALL, GRIDWORLD_GOAL, GRIDWORLD_DEATH };

struct gridworld; // a layout

// The task's layout, or null for a task that is not a GridWorld.
const struct gridworld *gridworld_of(const struct task *task);

enum gridworld_cell gridworld_cell(const struct gridworld *g, int x, int y);

// Connected goal regions are numbered from 0; -1: the cell is no goal.
int gridworld_goal_count(const struct gridworld *g);
int gridworld_goal_region(const struct gridworld *g, int x, int y);

// The step -1, 0 or 1 that the environment makes of one number of an action.
int gridworld_move(double action);

// Starts an episode at a free cell: state [state_size] and obs [O] out, as task_reset. False, and nothing done, where
// the cell is not free.
bool gridworld_start(const struct task *task, struct task_worker *w, int x, int y, double *state, float *obs);

// The cell of a saved environment.
void gridworld_position(const double *state, int *x, int *y);

#endif
