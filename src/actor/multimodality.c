#include "actor/multimodality.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "actor/tasks/gridworld.h"

enum { BLOCK = 256, DIMS = 2, SIZE = GRIDWORLD_SIZE, CELLS = SIZE * SIZE, FAR = CELLS };

// Walkers of one policy, up to BLOCK at once.
struct crowd {
  const struct evaluation *v;
  const struct gridworld *grid;
  struct policy_acting acting;
  struct task_worker task;
  struct policy_workspace policy;
  float *obs, *obs_norm, *action; // [BLOCK, 2]
  double *state;                  // [BLOCK, state_size]
  bool ended[BLOCK];
};

static void crowd_free(struct crowd *c) {
  task_worker_free(&c->task);
  policy_workspace_free(&c->policy);
  free(c->obs);
  free(c->state);
}

static struct error *crowd_init(struct crowd *c, const struct evaluation *v) {
  *c = (struct crowd){.v = v, .grid = gridworld_of(v->task), .acting = v->acting};
  c->acting.noise = true;
  const size_t block = (size_t)BLOCK * DIMS;
  c->obs = malloc(3 * block * sizeof *c->obs);
  c->state = malloc(BLOCK * v->task->state_size * sizeof *c->state);
  struct error *e = c->obs && c->state ? NULL : error_no_memory("the walkers of a GridWorld");
  if (e == NULL) e = task_worker_init(v->task, &c->task);
  if (e == NULL) e = policy_workspace_init(&c->policy, v->policy, POLICY_EVALUATE, BLOCK);
  if (e != NULL) {
    crowd_free(c);
    return e;
  }
  c->obs_norm = c->obs + block;
  c->action = c->obs_norm + block;
  return NULL;
}

// Puts walker `row` on a free cell.
static void place(struct crowd *c, int row, int x, int y) {
  double *state = c->state + (size_t)row * c->v->task->state_size;
  c->ended[row] = !gridworld_start(c->v->task, &c->task, x, y, state, c->obs + (size_t)row * DIMS);
}

// Actions of the first `count` walkers, as the environment receives them. owner, step: of the random streams.
static void act(struct crowd *c, int count, uint32_t owner, uint32_t step) {
  const struct evaluation *v = c->v;
  normalizer_apply(v->normalizer, (size_t)count, c->obs, c->obs_norm);
  v->policy->method->act(v->policy, v->parameters, &c->acting, owner, step, count, c->obs_norm, &c->policy, c->action);
  policy_squash((size_t)count * DIMS, c->action, c->action);
}

// Where walker `row`, who has ended, is.
static int end_of(const struct crowd *c, int row) {
  int x, y;
  gridworld_position(c->state + (size_t)row * c->v->task->state_size, &x, &y);
  const int goal = gridworld_goal_region(c->grid, x, y);
  return goal >= 0 ? goal : WALK_DIED;
}

// Whole episodes from walk[].x, .y; fills in the rest. owner: stream of the first.
static void walk_block(struct crowd *c, int count, uint32_t owner, struct walk *walk) {
  for (int i = 0; i < count; ++i) {
    place(c, i, walk[i].x, walk[i].y);
    walk[i].end = WALK_LOST;
    walk[i].steps = 0;
  }
  for (int64_t step = 0, running = count; step < c->v->episode_length && running > 0; ++step) {
    act(c, count, owner, (uint32_t)step);
    for (int i = 0; i < count; ++i) {
      const size_t at = (size_t)i * DIMS;
      float reward;
      if (step == 0) memcpy(walk[i].action, c->action + at, sizeof walk[i].action);
      if (c->ended[i]) continue;
      c->ended[i] = task_step(c->v->task, &c->task, c->action + at, c->state + (size_t)i * c->v->task->state_size,
                              c->obs + at, &reward) != 0;
      walk[i].steps++;
      if (!c->ended[i]) continue;
      walk[i].end = end_of(c, i);
      --running;
    }
  }
}

static void walk_all(struct crowd *c, int count, struct walk *walk) {
  for (int first = 0; first < count; first += BLOCK)
    walk_block(c, count - first < BLOCK ? count - first : BLOCK, (uint32_t)first, walk + first);
}

// --- The three figures ---

// What is drawn on each free cell of the middle row.
static void measure_moves(struct crowd *c, struct multimodality *m) {
  int up = 0, down = 0, all = 0;
  for (int x = 0; x < SIZE; ++x) {
    if (gridworld_cell(c->grid, x, GRIDWORLD_CENTRE) != GRIDWORLD_FREE) continue;
    for (int drawn = 0; drawn < MULTIMODALITY_DRAWS; drawn += BLOCK) {
      const int count = MULTIMODALITY_DRAWS - drawn < BLOCK ? MULTIMODALITY_DRAWS - drawn : BLOCK;
      for (int i = 0; i < count; ++i) place(c, i, x, GRIDWORLD_CENTRE);
      act(c, count, (uint32_t)drawn, (uint32_t)x);
      for (int i = 0; i < count; ++i) {
        const int move = gridworld_move((double)c->action[i * DIMS + 1]);
        up += move > 0;
        down += move < 0;
        ++all;
      }
    }
  }
  m->up = (double)up / all; // NaN without a cell
  m->down = (double)down / all;
  m->level = (double)(all - up - down) / all;
}

static struct error *measure_goals(struct crowd *c, struct multimodality *m) {
  struct walk *walk = calloc(MULTIMODALITY_DRAWS, sizeof *walk);
  int reached[MULTIMODALITY_MAX_GOALS] = {0}, all = 0;
  if (walk == NULL) return error_no_memory("walks");
  for (int i = 0; i < MULTIMODALITY_DRAWS; ++i) walk[i].x = m->start_x, walk[i].y = m->start_y;
  walk_all(c, MULTIMODALITY_DRAWS, walk);
  for (int i = 0; i < MULTIMODALITY_DRAWS; ++i)
    if (walk[i].end >= 0) ++reached[walk[i].end], ++all;
  free(walk);
  for (int g = 0; g < m->goals; ++g) {
    const double share = all > 0 ? (double)reached[g] / all : 0;
    m->goal_share[g] = (double)reached[g] / MULTIMODALITY_DRAWS;
    if (share > 0) m->entropy -= share * log2(share);
  }
  return NULL;
}

static struct error *measure_success(struct crowd *c, struct multimodality *m) {
  int successes = 0;
  int64_t steps = 0;
  m->walk = malloc((size_t)CELLS * MULTIMODALITY_WALKS * sizeof *m->walk);
  if (m->walk == NULL) return error_no_memory("walks");
  for (int cell = 0; cell < CELLS; ++cell) {
    if (gridworld_cell(c->grid, cell % SIZE, cell / SIZE) != GRIDWORLD_FREE) continue;
    for (int i = 0; i < MULTIMODALITY_WALKS; ++i)
      m->walk[m->walk_count++] = (struct walk){.x = cell % SIZE, .y = cell / SIZE};
  }
  walk_all(c, m->walk_count, m->walk);
  for (int i = 0; i < m->walk_count; ++i)
    if (m->walk[i].end >= 0) ++successes, steps += m->walk[i].steps;
  m->success = (double)successes / m->walk_count;
  m->mean_steps = (double)steps / successes; // NaN without a success
  return NULL;
}

// --- The start cell ---

// Moves from every cell to goal region `goal`, by breadth first; FAR where there is no way.
static void distances(const struct gridworld *g, int goal, int distance[CELLS]) {
  int queue[CELLS], head = 0, tail = 0;
  for (int cell = 0; cell < CELLS; ++cell) {
    const bool here = gridworld_goal_region(g, cell % SIZE, cell / SIZE) == goal;
    distance[cell] = here ? 0 : FAR;
    if (here) queue[tail++] = cell;
  }
  while (head < tail) {
    const int from = queue[head++], x = from % SIZE, y = from / SIZE;
    for (int i = 0; i < 9; ++i) {
      const int to_x = x + i % 3 - 1, to_y = y + i / 3 - 1, to = to_y * SIZE + to_x;
      if (to_x < 0 || to_x >= SIZE || to_y < 0 || to_y >= SIZE || distance[to] < FAR) continue;
      if (gridworld_cell(g, to_x, to_y) != GRIDWORLD_FREE) continue;
      distance[to] = distance[from] + 1;
      queue[tail++] = to;
    }
  }
}

// The free cell with the least difference between its nearest and its farthest goal; of several the one nearest to the
// centre.
static void choose_start(const struct gridworld *g, struct multimodality *m) {
  int distance[CELLS], nearest[CELLS], farthest[CELLS], best = -1, best_score = 0;
  for (int cell = 0; cell < CELLS; ++cell) nearest[cell] = FAR, farthest[cell] = 0;
  for (int goal = 0; goal < m->goals; ++goal) {
    distances(g, goal, distance);
    for (int cell = 0; cell < CELLS; ++cell) {
      if (distance[cell] < nearest[cell]) nearest[cell] = distance[cell];
      if (distance[cell] > farthest[cell]) farthest[cell] = distance[cell];
    }
  }
  for (int cell = 0; cell < CELLS; ++cell) {
    const int x = cell % SIZE - GRIDWORLD_CENTRE, y = cell / SIZE - GRIDWORLD_CENTRE;
    if (gridworld_cell(g, cell % SIZE, cell / SIZE) != GRIDWORLD_FREE || farthest[cell] == FAR) continue;
    const int score = (farthest[cell] - nearest[cell]) * CELLS + x * x + y * y;
    if (best >= 0 && score >= best_score) continue;
    best = cell;
    best_score = score;
  }
  m->start_x = best % SIZE;
  m->start_y = best / SIZE;
}

struct error *multimodality_check_start(const struct task *task, const int start[2]) {
  const bool inside = start[0] >= 0 && start[0] < SIZE && start[1] >= 0 && start[1] < SIZE;
  if (inside && gridworld_cell(gridworld_of(task), start[0], start[1]) == GRIDWORLD_FREE) return NULL;
  return error_new(EXIT_CODE_USAGE, "no walk can start at cell %d,%d: it is not a free cell of 0..%d,0..%d", start[0],
                   start[1], SIZE - 1, SIZE - 1);
}

static struct error *take_start(const struct task *task, const int start[2], struct multimodality *m) {
  if (start == NULL) {
    choose_start(gridworld_of(task), m);
    return NULL;
  }
  TRY(multimodality_check_start(task, start));
  m->start_x = start[0];
  m->start_y = start[1];
  return NULL;
}

struct error *multimodality_measure(const struct evaluation *v, const int start[2], struct multimodality *out) {
  struct crowd crowd;
  *out = (struct multimodality){.goals = gridworld_goal_count(gridworld_of(v->task))};
  TRY(take_start(v->task, start, out));
  TRY(crowd_init(&crowd, v));
  measure_moves(&crowd, out);
  struct error *e = measure_goals(&crowd, out);
  if (e == NULL) e = measure_success(&crowd, out);
  crowd_free(&crowd);
  return e;
}

void multimodality_free(struct multimodality *m) {
  free(m->walk);
  m->walk = NULL;
}

// --- Telling it ---

static void print_number(double value, FILE *out) {
  if (isfinite(value)) fprintf(out, "%.6g", value);
  else fputs("null", out);
}

static void print_json(const struct multimodality *m, FILE *out) {
  const struct {
    const char *name;
    double value;
  } figure[] = {{"up", m->up},           {"down", m->down},       {"level", m->level},
                {"entropy", m->entropy}, {"success", m->success}, {"mean_steps", m->mean_steps}};
  fprintf(out, "\"start\": [%d, %d], \"goal_shares\": [", m->start_x, m->start_y);
  for (int g = 0; g < m->goals; ++g) fprintf(out, "%s%.6g", g > 0 ? ", " : "", m->goal_share[g]);
  fputc(']', out);
  for (size_t i = 0; i < sizeof figure / sizeof *figure; ++i) {
    fprintf(out, ", \"%s\": ", figure[i].name);
    print_number(figure[i].value, out);
  }
}

void multimodality_print(const struct multimodality *m, bool json, FILE *out) {
  if (json) {
    print_json(m, out);
    return;
  }
  fprintf(out, "middle row: %.3f up, %.3f down, %.3f level (%d actions a cell)\n", m->up, m->down, m->level,
          MULTIMODALITY_DRAWS);
  fprintf(out, "from cell (%d,%d), %d walks:", m->start_x, m->start_y, MULTIMODALITY_DRAWS);
  for (int g = 0; g < m->goals; ++g) fprintf(out, " %.3f to goal %d,", m->goal_share[g], g);
  fprintf(out, " entropy %.3f of at most %.3f bits\n", m->entropy, log2(m->goals));
  fprintf(out, "from all free cells: success %.3f, %.1f steps to the goal\n", m->success, m->mean_steps);
}

static void write_cells(const struct gridworld *g, FILE *out) {
  static const char letter[] = {
      [GRIDWORLD_FREE] = '.', [GRIDWORLD_WALL] = '#', [GRIDWORLD_GOAL] = 'G', [GRIDWORLD_DEATH] = 'X'};
  fprintf(out, "\"rows\": ["); // of y = 0, 1, ..
  for (int cell = 0; cell < CELLS; ++cell) {
    if (cell % SIZE == 0) fputs(cell > 0 ? "\", \"" : "\"", out);
    fputc(letter[gridworld_cell(g, cell % SIZE, cell / SIZE)], out);
  }
  fputs("\"]", out);
}

// x of BLOCK samples at the start cell, at t = 1 and after each flow step: [BLOCK, steps + 1, 2].
static struct error *write_denoising(struct crowd *c, const struct multimodality *m, FILE *out) {
  const struct evaluation *v = c->v;
  const size_t steps = (size_t)c->acting.flow_steps;
  float *chain = malloc(BLOCK * steps * DIMS * sizeof *chain), start[BLOCK * DIMS];
  if (chain == NULL) return error_no_memory("the denoising of samples");
  for (int i = 0; i < BLOCK; ++i) place(c, i, m->start_x, m->start_y);
  normalizer_apply(v->normalizer, BLOCK, c->obs, c->obs_norm);
  rng_normal(rng_stream(c->acting.seed, RNG_EVAL + RNG_BENCH, 0, 0), sizeof start / sizeof *start, start);
  memcpy(c->action, start, sizeof start);
  const struct flow_sampling sampling = {
      .sampler = c->acting.sampler, .steps = c->acting.flow_steps, .kept = c->acting.flow_steps, .chain = chain};
  flow_policy_sample(&v->policy->flow, v->parameters, &sampling, BLOCK, c->obs_norm, &c->policy.flow, c->action);
  fputs(",\n\"denoising\": [", out);
  for (size_t i = 0; i < BLOCK; ++i) {
    fprintf(out, "%s[[%.4g, %.4g]", i > 0 ? ",\n" : "", (double)start[i * DIMS], (double)start[i * DIMS + 1]);
    for (const float *x = chain + i * steps * DIMS; x < chain + (i + 1) * steps * DIMS; x += DIMS)
      fprintf(out, ", [%.4g, %.4g]", (double)x[0], (double)x[1]);
    fputc(']', out);
  }
  fputs("]", out);
  free(chain);
  return NULL;
}

struct error *multimodality_write_field(const struct evaluation *v, const struct multimodality *m, FILE *out) {
  fprintf(out, "{\"task\": \"%s\", ", v->task->kind->name);
  print_json(m, out);
  fputs(",\n", out);
  write_cells(gridworld_of(v->task), out);
  fputs(",\n\"walks\": [", out); // start x, y; first action x, y; end; steps
  for (int i = 0; i < m->walk_count; ++i) {
    const struct walk *w = &m->walk[i];
    fprintf(out, "%s[%d, %d, %.4g, %.4g, %d, %d]", i > 0 ? ",\n" : "", w->x, w->y, (double)w->action[0],
            (double)w->action[1], w->end, w->steps);
  }
  fputs("]", out);
  struct error *e = NULL;
  if (v->policy->config->objective.kind != OBJECTIVE_PPO) {
    struct crowd crowd;
    TRY(crowd_init(&crowd, v));
    e = write_denoising(&crowd, m, out);
    crowd_free(&crowd);
  }
  fputs("}\n", out);
  return e;
}
