// GridWorld against its description in the FPO paper's code, counted here anew: layouts, moves, rewards, ends, starts.
#include "helpers.h"

#include "actor/tasks/gridworld.h"

enum { SIZE = GRIDWORLD_SIZE, CELLS = SIZE * SIZE };

// The layouts as they are described, one condition a cell.
static enum gridworld_cell two_walls(int x, int y) {
  return (void)x, y < 2 || y > 22 ? GRIDWORLD_GOAL : GRIDWORLD_FREE;
}
static int within(int value, int centre, int reach) { return abs(value - centre) <= reach; }
static enum gridworld_cell three_goals(int x, int y) {
  static const int goal[3][2] = {{12, 18}, {7, 7}, {17, 7}};
  for (int i = 0; i < 3; ++i)
    if (within(x, goal[i][0], 1) && within(y, goal[i][1], 1)) return GRIDWORLD_GOAL;
  return within(x, 12, 1) && within(y, 12, 1) ? GRIDWORLD_DEATH : GRIDWORLD_FREE;
}
static enum gridworld_cell tree(int x, int y) {
  if (y < 10 || y > 14) return GRIDWORLD_FREE;
  return x >= 23 ? GRIDWORLD_GOAL : x >= 13 && x <= 17 ? GRIDWORLD_DEATH : GRIDWORLD_FREE;
}
static enum gridworld_cell two_slits(int x, int y) {
  const int open = (y >= 4 && y <= 7) || (y >= 17 && y <= 20);
  return x == 24 ? GRIDWORLD_GOAL : x == 15 && !open ? GRIDWORLD_WALL : GRIDWORLD_FREE;
}
static enum gridworld_cell c_shape(int x, int y) {
  if (within(x, 12, 2) && within(y, 12, 2)) return GRIDWORLD_GOAL;
  const int row = (y == 7 || y == 17) && within(x, 12, 5), column = x == 17 && within(y, 12, 5);
  return row || column ? GRIDWORLD_WALL : GRIDWORLD_FREE;
}

static const struct mode {
  const char *name;
  enum gridworld_cell (*cell)(int x, int y);
  int walls, goals, deaths, regions;
} MODES[] = {
    {"GridWorldTwoWalls", two_walls, 0, 4 * 25, 0, 2},      {"GridWorldThreeGoals", three_goals, 0, 3 * 9, 9, 3},
    {"GridWorldTreeInTheMiddle", tree, 0, 2 * 5, 5 * 5, 1}, {"GridWorldTwoSlits", two_slits, 25 - 8, 25, 0, 1},
    {"GridWorldCShape", c_shape, 11 + 11 + 9, 5 * 5, 0, 1},
};

struct world {
  struct task *task;
  const struct gridworld *g;
  struct task_worker w;
  double *state;
  float obs[2];
};

static void open_world(struct world *o, const char *name) {
  must(task_open(name, 0, "/nowhere", &o->task)); // no model file is needed
  must(task_worker_init(o->task, &o->w));
  o->g = gridworld_of(o->task);
  assert_non_null(o->g);
  o->state = doubles(o->task->state_size);
}

static void close_world(struct world *o) {
  free(o->state);
  task_worker_free(&o->w);
  task_close(o->task);
}

static void layouts_are_as_described(void **unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(MODES); ++i) {
    struct world o;
    int count[4] = {0};
    open_world(&o, MODES[i].name);
    for (int c = 0; c < CELLS; ++c) {
      const enum gridworld_cell cell = gridworld_cell(o.g, c % SIZE, c / SIZE);
      assert_int_equal(cell, MODES[i].cell(c % SIZE, c / SIZE));
      ++count[cell];
    }
    assert_int_equal(count[GRIDWORLD_WALL], MODES[i].walls);
    assert_int_equal(count[GRIDWORLD_GOAL], MODES[i].goals);
    assert_int_equal(count[GRIDWORLD_DEATH], MODES[i].deaths);
    close_world(&o);
  }
}

// Gives all goal cells that hang together with (x, y) by sides or corners the mark.
static void flood(const struct mode *mode, int mark[CELLS], int x, int y, int value) {
  if (x < 0 || y < 0 || x >= SIZE || y >= SIZE || mode->cell(x, y) != GRIDWORLD_GOAL || mark[y * SIZE + x] >= 0) return;
  mark[y * SIZE + x] = value;
  for (int n = 0; n < 9; ++n) flood(mode, mark, x + n % 3 - 1, y + n / 3 - 1, value);
}

static void goal_regions_are_the_connected_ones(void **unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(MODES); ++i) {
    struct world o;
    int mark[CELLS], regions = 0;
    open_world(&o, MODES[i].name);
    for (int c = 0; c < CELLS; ++c) mark[c] = -1;
    for (int c = 0; c < CELLS; ++c) {
      const int region = gridworld_goal_region(o.g, c % SIZE, c / SIZE);
      if (MODES[i].cell(c % SIZE, c / SIZE) != GRIDWORLD_GOAL) {
        assert_int_equal(region, -1);
        continue;
      }
      if (mark[c] < 0) {
        flood(&MODES[i], mark, c % SIZE, c / SIZE, region);
        ++regions;
      }
      assert_int_equal(mark[c], region);
      assert_in_range(region, 0, gridworld_goal_count(o.g) - 1);
    }
    assert_int_equal(regions, MODES[i].regions);
    assert_int_equal(regions, gridworld_goal_count(o.g));
    close_world(&o);
  }
}

static void an_action_is_clipped_and_rounded(void **unused) {
  (void)unused;
  static const struct {
    double action;
    int move;
  } CASES[] = {{0, 0},    {0.4999, 0}, {0.5, 0},   {0.5001, 1}, {1, 1},   {7, 1},          {INFINITY, 1},
               {-0.5, 0}, {-0.51, -1}, {-0.49, 0}, {-1, -1},    {-9, -1}, {-INFINITY, -1}, {NAN, 1}};
  for (size_t i = 0; i < COUNT_OF(CASES); ++i) assert_int_equal(gridworld_move(CASES[i].action), CASES[i].move);
}

// Every step from every free cell of every layout.
static void steps_follow_the_rules(void **unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(MODES); ++i) {
    struct world o;
    open_world(&o, MODES[i].name);
    for (int n = 0; n < 9 * CELLS; ++n) {
      const int x = n / 9 % SIZE, y = n / 9 / SIZE, dx = n % 9 % 3 - 1, dy = n % 9 / 3 - 1;
      const float action[2] = {0.9f * (float)dx, 0.7f * (float)dy};
      float reward;
      unsigned end;
      int to_x = x + dx, to_y = y + dy, got_x, got_y;
      assert_int_equal(gridworld_start(o.task, &o.w, x, y, o.state, o.obs), MODES[i].cell(x, y) == GRIDWORLD_FREE);
      if (MODES[i].cell(x, y) != GRIDWORLD_FREE) continue;
      assert_true(o.obs[0] == (float)((x - 12) / 12.0) && o.obs[1] == (float)((y - 12) / 12.0));
      end = task_step(o.task, &o.w, action, o.state, o.obs, &reward);
      to_x = to_x < 0 ? 0 : to_x > 24 ? 24 : to_x;
      to_y = to_y < 0 ? 0 : to_y > 24 ? 24 : to_y;
      if (MODES[i].cell(to_x, to_y) == GRIDWORLD_WALL) to_x = x, to_y = y;
      const enum gridworld_cell cell = MODES[i].cell(to_x, to_y);
      gridworld_position(o.state, &got_x, &got_y);
      assert_int_equal(got_x, to_x);
      assert_int_equal(got_y, to_y);
      assert_true(o.obs[0] == (float)((to_x - 12) / 12.0) && o.obs[1] == (float)((to_y - 12) / 12.0));
      assert_true(reward == (cell == GRIDWORLD_GOAL ? 20.0f : cell == GRIDWORLD_DEATH ? -10.0f : 0.0f));
      assert_int_equal(end, cell == GRIDWORLD_GOAL || cell == GRIDWORLD_DEATH ? TASK_TERMINATED : 0);
    }
    assert_false(gridworld_start(o.task, &o.w, -1, 3, o.state, o.obs));
    assert_false(gridworld_start(o.task, &o.w, 3, 25, o.state, o.obs));
    close_world(&o);
  }
}

static void episodes_are_cut_after_100_steps(void **unused) {
  (void)unused;
  for (size_t i = 0; i < COUNT_OF(MODES); ++i) {
    struct world o;
    open_world(&o, MODES[i].name);
    assert_int_equal(o.task->episode_length, 100);
    close_world(&o);
  }
}

// Chi-square over the free cells; within five of its standard deviations, which is sqrt(2 · degrees of freedom).
static void starts_are_uniform_over_the_free_cells(void **unused) {
  (void)unused;
  enum { PER_CELL = 40 };
  for (size_t i = 0; i < COUNT_OF(MODES); ++i) {
    struct world o;
    int seen[CELLS] = {0}, free_cells = 0, x, y;
    open_world(&o, MODES[i].name);
    for (int c = 0; c < CELLS; ++c) free_cells += MODES[i].cell(c % SIZE, c / SIZE) == GRIDWORLD_FREE;
    for (int r = 0; r < PER_CELL * free_cells; ++r) {
      task_reset(o.task, &o.w, rng_stream(11, RNG_RESET, (uint32_t)r, 0), o.state, o.obs);
      gridworld_position(o.state, &x, &y);
      assert_int_equal(MODES[i].cell(x, y), GRIDWORLD_FREE);
      ++seen[y * SIZE + x];
    }
    double chi_square = 0;
    for (int c = 0; c < CELLS; ++c)
      if (MODES[i].cell(c % SIZE, c / SIZE) == GRIDWORLD_FREE) chi_square += pow(seen[c] - PER_CELL, 2) / PER_CELL;
    assert_true(fabs(chi_square - (free_cells - 1)) < 5 * sqrt(2.0 * (free_cells - 1)));
    close_world(&o);
  }
}

static void a_saved_walk_goes_on_in_another_worker(void **unused) {
  (void)unused;
  struct world a, b;
  open_world(&a, "GridWorldTwoSlits");
  open_world(&b, "GridWorldTwoSlits");
  task_reset(a.task, &a.w, rng_stream(1, RNG_RESET, 0, 0), a.state, a.obs);
  for (uint32_t step = 0; step < 200; ++step) {
    float action[2], reward[2];
    bool terminated[2];
    rng_normal(rng_stream(2, RNG_BENCH, 0, step), 2, action);
    memcpy(b.state, a.state, a.task->state_size * sizeof *a.state);
    terminated[0] = task_step(a.task, &a.w, action, a.state, a.obs, &reward[0]) != 0;
    terminated[1] = task_step(b.task, &b.w, action, b.state, b.obs, &reward[1]) != 0;
    assert_memory_equal(a.state, b.state, a.task->state_size * sizeof *a.state);
    assert_memory_equal(a.obs, b.obs, sizeof a.obs);
    assert_true(reward[0] == reward[1] && terminated[0] == terminated[1]);
    if (terminated[0]) task_reset(a.task, &a.w, rng_stream(1, RNG_RESET, 0, step + 1), a.state, a.obs);
  }
  close_world(&a);
  close_world(&b);
}

static void another_task_is_no_gridworld(void **unused) {
  (void)unused;
  const struct task_kind *cartpole = NULL;
  for (int i = 0; i < task_count(); ++i)
    if (strcmp(task_kind_at(i)->name, "CartpoleBalance") == 0) cartpole = task_kind_at(i);
  assert_non_null(cartpole);
  const struct task task = {.kind = cartpole};
  assert_null(gridworld_of(&task));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layouts_are_as_described),
      cmocka_unit_test(goal_regions_are_the_connected_ones),
      cmocka_unit_test(an_action_is_clipped_and_rounded),
      cmocka_unit_test(steps_follow_the_rules),
      cmocka_unit_test(episodes_are_cut_after_100_steps),
      cmocka_unit_test(starts_are_uniform_over_the_free_cells),
      cmocka_unit_test(a_saved_walk_goes_on_in_another_worker),
      cmocka_unit_test(another_task_is_no_gridworld),
  };
  return cmocka_run_group_tests_name("gridworld", tests, NULL, NULL);
}
