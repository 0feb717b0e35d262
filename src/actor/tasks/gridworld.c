// GridWorld, the FPO paper's multimodality domain, after the authors' gridworld code: a point walks on 25x25 cells until
// it is in a goal or a death cell. No physics: the state is the position.
#include "actor/tasks/gridworld.h"

#include "actor/tasks/tasks.h"

enum { STATE_X, STATE_Y, STATE_SIZE };
enum { MAX_RECTANGLES = 6, LAST = GRIDWORLD_SIZE - 1 };

// Cells x0..x1, y0..y1, ends included. Goal rectangles are not neighbours, so each is a region of its own.
struct rectangle {
  enum gridworld_cell cell;
  int x0, x1, y0, y1;
};

struct gridworld {
  int count;
  struct rectangle rectangle[MAX_RECTANGLES];
};

enum layout { TWO_WALLS, THREE_GOALS, TREE_IN_THE_MIDDLE, TWO_SLITS, C_SHAPE, LAYOUT_COUNT };
static const struct gridworld LAYOUTS[LAYOUT_COUNT] = {
    [TWO_WALLS] = {2, {{GRIDWORLD_GOAL, 0, LAST, 0, 1}, {GRIDWORLD_GOAL, 0, LAST, 23, LAST}}},
    [THREE_GOALS] = {4,
                     {{GRIDWORLD_GOAL, 11, 13, 17, 19},
                      {GRIDWORLD_GOAL, 6, 8, 6, 8},
                      {GRIDWORLD_GOAL, 16, 18, 6, 8},
                      {GRIDWORLD_DEATH, 11, 13, 11, 13}}},
    [TREE_IN_THE_MIDDLE] = {2, {{GRIDWORLD_GOAL, 23, LAST, 10, 14}, {GRIDWORLD_DEATH, 13, 17, 10, 14}}},
    [TWO_SLITS] = {4,
                   {{GRIDWORLD_GOAL, LAST, LAST, 0, LAST},
                    {GRIDWORLD_WALL, 15, 15, 0, 3},
                    {GRIDWORLD_WALL, 15, 15, 8, 16},
                    {GRIDWORLD_WALL, 15, 15, 21, LAST}}},
    [C_SHAPE] = {4,
                 {{GRIDWORLD_GOAL, 10, 14, 10, 14},
                  {GRIDWORLD_WALL, 7, 17, 7, 7},
                  {GRIDWORLD_WALL, 7, 17, 17, 17},
                  {GRIDWORLD_WALL, 17, 17, 8, 16}}},
};

static bool covers(const struct rectangle *r, int x, int y) {
  return x >= r->x0 && x <= r->x1 && y >= r->y0 && y <= r->y1;
}

enum gridworld_cell gridworld_cell(const struct gridworld *g, int x, int y) {
  for (int i = 0; i < g->count; ++i)
    if (covers(&g->rectangle[i], x, y)) return g->rectangle[i].cell;
  return GRIDWORLD_FREE;
}

int gridworld_goal_count(const struct gridworld *g) {
  int goals = 0;
  for (int i = 0; i < g->count; ++i) goals += g->rectangle[i].cell == GRIDWORLD_GOAL;
  return goals;
}

int gridworld_goal_region(const struct gridworld *g, int x, int y) {
  for (int i = 0, goal = 0; i < g->count; ++i) {
    if (g->rectangle[i].cell != GRIDWORLD_GOAL) continue;
    if (covers(&g->rectangle[i], x, y)) return goal;
    ++goal;
  }
  return -1;
}

// Halves go to zero, as in numpy's round; what is not a number goes up, so that it does not end as an address.
int gridworld_move(double action) { return (int)rint(fmax(-1, fmin(1, action))); }

// kind->parameter: the layout.
static const struct gridworld *layout_of(const struct task *task) { return &LAYOUTS[(int)task->kind->parameter]; }

// Uniform over the free cells: the first of uniform draws that is one.
static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  for (uint32_t draw = 0;; ++draw) {
    const int cell = (int)(rng_uniform_at(draws, draw) * GRIDWORLD_SIZE * GRIDWORLD_SIZE);
    const int x = cell % GRIDWORLD_SIZE, y = cell / GRIDWORLD_SIZE;
    if (gridworld_cell(layout_of(task), x, y) != GRIDWORLD_FREE) continue;
    w->extra[STATE_X] = x;
    w->extra[STATE_Y] = y;
    return;
  }
}

// Of any number, as a checkpoint may hold any: what is none goes to 0.
static int on_grid(double position) { return position > 0 ? (int)fmin(position, LAST) : 0; }

static enum gridworld_cell current_cell(const struct task *task, const struct task_worker *w) {
  return gridworld_cell(layout_of(task), on_grid(w->extra[STATE_X]), on_grid(w->extra[STATE_Y]));
}

static void advance(const struct task *task, struct task_worker *w, const double *action) {
  const int x = on_grid(w->extra[STATE_X] + gridworld_move(action[0]));
  const int y = on_grid(w->extra[STATE_Y] + gridworld_move(action[1]));
  if (gridworld_cell(layout_of(task), x, y) == GRIDWORLD_WALL) return;
  w->extra[STATE_X] = x;
  w->extra[STATE_Y] = y;
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  (void)task;
  for (int i = 0; i < STATE_SIZE; ++i) obs[i] = (w->extra[i] - GRIDWORLD_CENTRE) / GRIDWORLD_CENTRE;
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const enum gridworld_cell cell = current_cell(task, w);
  return cell == GRIDWORLD_GOAL ? 20 : cell == GRIDWORLD_DEATH ? -10 : 0;
}

static bool terminated(const struct task *task, const struct task_worker *w) {
  const enum gridworld_cell cell = current_cell(task, w);
  return cell == GRIDWORLD_GOAL || cell == GRIDWORLD_DEATH;
}

const struct gridworld *gridworld_of(const struct task *task) {
  return task->kind->reset == reset ? layout_of(task) : NULL;
}

bool gridworld_start(const struct task *task, struct task_worker *w, int x, int y, double *state, float *obs) {
  if (x != on_grid(x) || y != on_grid(y) || gridworld_cell(layout_of(task), x, y) != GRIDWORLD_FREE) return false;
  w->extra[STATE_X] = x;
  w->extra[STATE_Y] = y;
  task_save(task, w, state);
  observe(task, w, w->buffer);
  for (int i = 0; i < STATE_SIZE; ++i) obs[i] = (float)w->buffer[i];
  return true;
}

void gridworld_position(const double *state, int *x, int *y) {
  *x = on_grid(state[STATE_X]);
  *y = on_grid(state[STATE_Y]);
}

#define GRIDWORLD(layout)                                                                                              \
  .family = "gridworld", .source = "FPO paper (arXiv 2507.21053), the authors' gridworld code",                        \
  .observation = "position x, y from the centre, divided by 12",                                                       \
  .reward_text = "20 in a goal cell, -10 in a death cell, else 0; each number of the action is rounded to a step of "  \
                 "-1, 0 or 1; a step into a wall stays",                                                               \
  .termination = "in a goal or death cell; truncated after the episode length", .obs_dim = STATE_SIZE,                 \
  .action_dim = 2, .extra_size = STATE_SIZE, .episode_length = 100, .parameter = (layout), .reset = reset,             \
  .advance = advance, .observe = observe, .reward = reward, .terminated = terminated

static const struct task_kind KINDS[] = {
    {GRIDWORLD(TWO_WALLS), .name = "GridWorldTwoWalls",
     .summary = "goals along the lower and the upper edge; from the middle row both ways are equally good"},
    {GRIDWORLD(THREE_GOALS), .name = "GridWorldThreeGoals", .summary = "three goals around a deadly centre"},
    {GRIDWORLD(TREE_IN_THE_MIDDLE), .name = "GridWorldTreeInTheMiddle",
     .summary = "a goal at the right edge behind a deadly block, with a way on either side"},
    {GRIDWORLD(TWO_SLITS), .name = "GridWorldTwoSlits",
     .summary = "goals along the right edge behind a wall with two openings"},
    {GRIDWORLD(C_SHAPE), .name = "GridWorldCShape", .summary = "a goal inside a wall that is open to the left only"},
};

const struct task_family gridworld_family = TASK_FAMILY(KINDS);
