// Every registered task against its golden file: observation, reward and end at 40 states of the reference and one
// control step from each, and the distribution of resets. Sizes come from the files.
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "actor/task.h"
#include "golden_file.h"

// The files were made with MuJoCo 3.17, which meets them to 3e-16; 4.0.1 does to 4e-13. Another version's solver may end
// elsewhere.
static double step_tolerance(void) {
  const int version = mj_version();
  return version / 1000 == 3017 || version / 1000 == 4000 ? 1e-6 : 1e-3;
}

static const char *golden_folder(void) {
  const char *folder = getenv("FLOWRANK_GOLDEN");
  return folder && *folder ? folder : FLOWRANK_GOLDEN_DEFAULT;
}

static int has_file(const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/env/%s.h5", golden_folder(), name);
  return access(path, R_OK) == 0;
}

static struct task *open_task(const char *name) {
  struct task *task;
  struct error *e = task_open(name, 0, NULL, &task);
  if (e != NULL) fail_msg("%s", e->text);
  return task;
}

static double largest_miss[2]; // of all numbers compared: at the states, after the steps
enum { AT_STATE, AFTER_STEP };

static void assert_near(int when, const char *what, const char *task, size_t state, const double *got,
                        const double *want, size_t count) {
  const double allowed = when == AT_STATE ? 1e-9 : step_tolerance();
  for (size_t i = 0; i < count; ++i) {
    const double miss = fabs(got[i] - want[i]) / fmax(1.0, fabs(want[i]));
    if (!(miss <= allowed))
      fail_msg("%s, state %zu: %s[%zu] is %.17g where the reference has %.17g", task, state, what, i, got[i], want[i]);
    largest_miss[when] = fmax(largest_miss[when], miss);
  }
}

// What a golden file holds of its states; absent pieces have count 0.
struct states {
  struct golden_array qpos, qvel, ctrl, act, mocap, obs, reward, done, action, next_qpos, next_qvel, next_obs,
      next_reward, next_done;
};
enum { STATE_ARRAYS = sizeof(struct states) / sizeof(struct golden_array) };
static const char *const STATE_NAMES[STATE_ARRAYS] = {"qpos",      "qvel",     "ctrl",        "act",      "mocap_pos",
                                                      "obs",       "reward",   "done",        "action",   "next_qpos",
                                                      "next_qvel", "next_obs", "next_reward", "next_done"};

static void read_states(const char *name, struct states *s) {
  char file[256];
  struct golden g;
  snprintf(file, sizeof file, "env/%s.h5", name);
  golden_open(&g, file);
  struct golden_array *array = (struct golden_array *)s;
  for (int i = 0; i < STATE_ARRAYS; ++i)
    array[i] = golden_has(&g, STATE_NAMES[i]) ? golden_read(&g, STATE_NAMES[i]) : (struct golden_array){0};
  golden_close(&g);
}

static void free_states(struct states *s) {
  struct golden_array *array = (struct golden_array *)s;
  for (int i = 0; i < STATE_ARRAYS; ++i)
    if (array[i].count > 0) golden_array_free(&array[i]);
}

static void put_row(const struct golden_array *a, size_t row, double *to) {
  if (a->count == 0) return;
  const size_t width = a->count / a->dim[0];
  memcpy(to, a->data + row * width, width * sizeof *to);
}

static void check_state(const struct task *task, struct task_worker *w, const struct states *s, size_t i) {
  const char *name = task->kind->name;
  const size_t obs_dim = s->obs.count / s->obs.dim[0];
  mjData *d = w->data;
  double obs[4096];
  assert_int_equal(obs_dim, task->obs_dim);
  mj_resetData(task->model, d);
  put_row(&s->qpos, i, d->qpos);
  put_row(&s->qvel, i, d->qvel);
  put_row(&s->ctrl, i, d->ctrl);
  put_row(&s->act, i, d->act);
  put_row(&s->mocap, i, d->mocap_pos);
  mj_forward(task->model, d);
  task->kind->observe(task, w, obs);
  assert_near(AT_STATE, "obs", name, i, obs, s->obs.data + i * obs_dim, obs_dim);
  const double reward = task->kind->reward(task, w, d->ctrl);
  assert_near(AT_STATE, "reward", name, i, &reward, s->reward.data + i, 1);
}

// One control step through the interface that training uses, from a saved row.
static void check_step(const struct task *task, struct task_worker *w, const struct states *s, size_t i) {
  const char *name = task->kind->name;
  const size_t nq = (size_t)task->model->nq, nv = (size_t)task->model->nv, obs_dim = (size_t)task->obs_dim;
  const size_t nu = (size_t)task->action_dim;
  double *state = malloc(task->state_size * sizeof *state), obs64[4096];
  float action[256], obs[4096], reward;
  unsigned end;
  assert_non_null(state);
  memset(w->data->qacc_warmstart, 0, nv * sizeof(double));
  task_save(task, w, state);
  mj_resetData(task->model, w->data); // what follows must come from the saved row
  for (size_t a = 0; a < nu; ++a) action[a] = (float)s->action.data[i * nu + a];
  // The reference's actions are doubles: step with them for the tight comparison.
  task_load(task, w, state);
  memcpy(w->data->ctrl, s->action.data + i * nu, nu * sizeof(double));
  for (int k = 0; k < task->substeps; ++k) mj_step(task->model, w->data);
  task->kind->observe(task, w, obs64);
  const double reward64 = task->kind->reward(task, w, s->action.data + i * nu);
  assert_near(AFTER_STEP, "next_qpos", name, i, w->data->qpos, s->next_qpos.data + i * nq, nq);
  assert_near(AFTER_STEP, "next_qvel", name, i, w->data->qvel, s->next_qvel.data + i * nv, nv);
  assert_near(AFTER_STEP, "next_obs", name, i, obs64, s->next_obs.data + i * obs_dim, obs_dim);
  assert_near(AFTER_STEP, "next_reward", name, i, &reward64, s->next_reward.data + i, 1);
  // And through the interface, whose actions, observations and rewards are float32.
  end = task_step(task, w, action, state, obs, &reward);
  for (size_t k = 0; k < obs_dim; ++k)
    if (!(fabs((double)obs[k] - obs64[k]) <= 1e-4 * fmax(1.0, fabs(obs64[k]))))
      fail_msg("%s, state %zu: task_step's obs[%zu] is %g, not %g", name, i, k, (double)obs[k], obs64[k]);
  assert_int_equal(end & TASK_TERMINATED, s->next_done.data[i] != 0);
  assert_false(end & TASK_BROKEN);
  free(state);
}

static void check_sizes(const struct task *task) {
  const struct task_kind *k = task->kind;
  const struct {
    const char *name;
    double value;
  } want[] = {{"nq", (double)task->model->nq}, {"nv", (double)task->model->nv},      {"nu", k->action_dim},
              {"obs_dim", k->obs_dim},         {"ctrl_dt", k->control_dt},           {"sim_dt", k->physics_dt},
              {"n_substeps", task->substeps},  {"episode_length", k->episode_length}};
  char file[256];
  struct golden g;
  snprintf(file, sizeof file, "env/%s.h5", k->name);
  golden_open(&g, file);
  for (size_t i = 0; i < sizeof want / sizeof *want; ++i) {
    const double got = golden_attribute(&g, "/", want[i].name);
    if (fabs(got - want[i].value) > 1e-12) fail_msg("%s: %s is %g, not %g", k->name, want[i].name, want[i].value, got);
  }
  golden_close(&g);
}

static void states_and_steps_match_the_reference(void **unused) {
  (void)unused;
  int checked = 0;
  for (int k = 0; k < task_count(); ++k) {
    const char *name = task_kind_at(k)->name;
    if (task_kind_at(k)->model == NULL || !has_file(name)) continue;
    struct task *task = open_task(name);
    struct task_worker w;
    struct states s;
    assert_null(task_worker_init(task, &w));
    check_sizes(task);
    read_states(name, &s);
    assert_true(s.qpos.dim[0] > 0);
    for (size_t i = 0; i < s.qpos.dim[0]; ++i) {
      check_state(task, &w, &s, i);
      check_step(task, &w, &s, i);
    }
    free_states(&s);
    task_worker_free(&w);
    task_close(task);
    ++checked;
  }
  print_message("%d tasks against %s with MuJoCo %s: off by %.2g at most, by %.2g after a step\n", checked,
                golden_folder(), mj_versionString(), largest_miss[AT_STATE], largest_miss[AFTER_STEP]);
  assert_true(checked > 0);
}

// Moments of one coordinate over `count` rows of `width` numbers.
struct moments {
  double low, high, mean, std, kurtosis;
};
static struct moments moments_of(const double *sample, size_t count, size_t width) {
  struct moments m = {.low = INFINITY, .high = -INFINITY};
  double second = 0, fourth = 0;
  for (size_t r = 0; r < count; ++r) {
    m.mean += sample[r * width] / (double)count;
    m.low = fmin(m.low, sample[r * width]);
    m.high = fmax(m.high, sample[r * width]);
  }
  for (size_t r = 0; r < count; ++r) {
    const double square = pow(sample[r * width] - m.mean, 2);
    second += square / (double)count;
    fourth += square * square / (double)count;
  }
  m.std = sqrt(second);
  m.kurtosis = second > 0 ? fourth / (second * second) : 1;
  return m;
}

// Mean and standard deviation within what two samples of this size differ by; the latter varies with the kurtosis (a
// cheetah that came to rest on its back is far out). Range within the reference's, widened by the share of it that so
// many draws leave untouched.
static void check_distribution(const struct golden *g, const char *task, const char *what, size_t resets,
                               const double *sample, size_t width) {
  static const char *const statistic[] = {"min", "max", "mean", "std"};
  struct golden_array want[4];
  char path[512];
  for (int i = 0; i < 4; ++i) {
    snprintf(path, sizeof path, "/%s/%s/%s", task, what, statistic[i]);
    want[i] = golden_read(g, path);
    assert_int_equal(want[i].count, width);
  }
  const double of_reference = golden_attribute(g, task, "resets");
  for (size_t c = 0; c < width; ++c) {
    const struct moments m = moments_of(sample + c, resets, width);
    const double low = want[0].data[c], high = want[1].data[c], mean = want[2].data[c], std = want[3].data[c];
    const double error = 5 * fmax(std, 1e-9) * sqrt(1 / of_reference + 1 / (double)resets);
    if (fabs(m.mean - mean) > error || fabs(m.std - std) > error * fmax(1, sqrt((m.kurtosis - 1) / 4)))
      fail_msg("%s: %s[%zu] of %zu resets is %g ± %g where the reference has %g ± %g", task, what, c, resets, m.mean,
               m.std, mean, std);
    const double margin = 0.35 * fmax(1, m.kurtosis / 3) * (high - low) + 1e-9;
    if (m.low < low - margin || m.high > high + margin)
      fail_msg("%s: %s[%zu] of our resets spans [%g, %g], the reference's [%g, %g]", task, what, c, m.low, m.high, low,
               high);
  }
  for (int i = 0; i < 4; ++i) golden_array_free(&want[i]);
}

static void resets_are_distributed_like_the_reference(void **unused) {
  (void)unused;
  enum { RESETS = 2000 };
  if (!has_file("reset_stats")) skip();
  struct golden g;
  golden_open(&g, "env/reset_stats.h5");
  for (int k = 0; k < task_count(); ++k) {
    const char *name = task_kind_at(k)->name;
    if (task_kind_at(k)->model == NULL || !golden_has(&g, name)) continue;
    struct task *task = open_task(name);
    struct task_worker w;
    assert_null(task_worker_init(task, &w));
    const size_t nq = (size_t)task->model->nq, nv = (size_t)task->model->nv, nm = 3 * (size_t)task->model->nmocap;
    double *qpos = malloc(RESETS * (nq + nv + nm) * sizeof *qpos), *qvel = qpos + RESETS * nq;
    double *mocap = qvel + RESETS * nv, *state = malloc(task->state_size * sizeof *state);
    float *obs = malloc((size_t)task->obs_dim * sizeof *obs);
    for (uint32_t r = 0; r < RESETS; ++r) {
      task_reset(task, &w, rng_stream(1, RNG_RESET, r, 0), state, obs);
      memcpy(qpos + r * nq, w.data->qpos, nq * sizeof *qpos);
      memcpy(qvel + r * nv, w.data->qvel, nv * sizeof *qvel);
      memcpy(mocap + r * nm, w.data->mocap_pos, nm * sizeof *mocap);
    }
    check_distribution(&g, name, "qpos", RESETS, qpos, nq);
    check_distribution(&g, name, "qvel", RESETS, qvel, nv);
    if (nm > 0) check_distribution(&g, name, "mocap_pos", RESETS, mocap, nm);
    free(obs);
    free(state);
    free(qpos);
    task_worker_free(&w);
    task_close(task);
  }
  golden_close(&g);
}

// A row that was saved and loaded into another simulator goes on bit by bit like the one that never stopped.
static void a_saved_environment_goes_on_bitwise(void **unused) {
  (void)unused;
  for (int k = 0; k < task_count(); ++k) {
    if (task_kind_at(k)->open != NULL) continue; // its model comes from a library: unit.humanoid_track
    struct task *task = open_task(task_kind_at(k)->name);
    struct task_worker w[2];
    const size_t size = task->state_size, dim = (size_t)task->obs_dim;
    double *state[2];
    float *obs[2], reward[2], action[256];
    for (int i = 0; i < 2; ++i) {
      assert_null(task_worker_init(task, &w[i]));
      state[i] = calloc(size, sizeof **state);
      obs[i] = calloc(dim, sizeof **obs);
    }
    task_reset(task, &w[0], rng_stream(3, RNG_RESET, 0, 0), state[0], obs[0]);
    for (uint32_t step = 0; step < 60; ++step) {
      rng_uniform(rng_stream(3, RNG_BENCH, 0, step), (size_t)task->action_dim, action);
      for (int i = 0; i < task->action_dim; ++i) action[i] = 2 * action[i] - 1;
      memcpy(state[1], state[0], size * sizeof **state);
      task_step(task, &w[0], action, state[0], obs[0], &reward[0]);
      if (step % 7 == 0) task_reset(task, &w[1], rng_stream(4, RNG_RESET, 1, step), state[1] + 0, obs[1]);
      if (step % 7 == 0) continue; // the second simulator was elsewhere meanwhile
      task_step(task, &w[1], action, state[1], obs[1], &reward[1]);
      assert_memory_equal(state[0], state[1], size * sizeof **state);
      assert_memory_equal(obs[0], obs[1], dim * sizeof **obs);
      assert_memory_equal(&reward[0], &reward[1], sizeof *reward);
    }
    for (int i = 0; i < 2; ++i) {
      task_worker_free(&w[i]);
      free(state[i]);
      free(obs[i]);
    }
    task_close(task);
  }
}

// What the stepped models leave out has no effect: with the whole model in each physics step come the same bits.
static void stepped_models_change_no_bit(void **unused) {
  (void)unused;
  for (int k = 0; k < task_count(); ++k) {
    if (task_kind_at(k)->open != NULL) continue;
    struct task *task = open_task(task_kind_at(k)->name), whole = *task;
    whole.inner_model = whole.last_model = whole.model;
    const struct task *const tasks[2] = {task, &whole};
    double *state[2];
    float *obs[2], reward[2], action[256];
    for (int i = 0; i < 2; ++i) {
      struct task_worker w;
      assert_null(task_worker_init(task, &w));
      state[i] = calloc(task->state_size, sizeof **state);
      obs[i] = calloc((size_t)task->obs_dim, sizeof **obs);
      reward[i] = 0;
      task_reset(tasks[i], &w, rng_stream(5, RNG_RESET, 0, 0), state[i], obs[i]);
      for (uint32_t step = 0; step < 100; ++step) {
        float one;
        rng_uniform(rng_stream(5, RNG_BENCH, 0, step), (size_t)task->action_dim, action);
        for (int a = 0; a < task->action_dim; ++a) action[a] = 2 * action[a] - 1;
        task_step(tasks[i], &w, action, state[i], obs[i], &one);
        reward[i] += one;
      }
      task_worker_free(&w);
    }
    assert_memory_equal(state[0], state[1], task->state_size * sizeof **state);
    assert_memory_equal(obs[0], obs[1], (size_t)task->obs_dim * sizeof **obs);
    assert_memory_equal(&reward[0], &reward[1], sizeof *reward);
    for (int i = 0; i < 2; ++i) {
      free(state[i]);
      free(obs[i]);
    }
    task_close(task);
  }
}

// At reset, kinematics has not seen the moved target yet: the first observation holds the model's own.
static void a_moved_target_is_seen_from_the_first_step_on(void **unused) {
  (void)unused;
  int targets = 0;
  for (int k = 0; k < task_count(); ++k) {
    if (task_kind_at(k)->open != NULL) continue; // its model comes from a library: unit.humanoid_track
    struct task *task = open_task(task_kind_at(k)->name);
    struct task_worker w;
    double *state = malloc((task->state_size + 1) * sizeof *state), obs64[4096];
    float *obs = malloc((size_t)task->obs_dim * sizeof *obs);
    assert_null(task_worker_init(task, &w));
    task_reset(task, &w, rng_stream(5, RNG_RESET, 0, 0), state, obs);
    if (task->model != NULL && task->model->nmocap == 1) {
      const mjModel *m = task->model;
      int seen = 0, body = 0;
      while (m->body_mocapid[body] < 0) ++body;
      mj_forward(m, w.data);
      task->kind->observe(task, &w, obs64);
      for (int i = 0; i < task->obs_dim; ++i) seen += obs[i] != (float)obs64[i];
      if (strcmp(task->kind->name, "FingerSpin") != 0) assert_true(seen > 0); // Spin has no use for its target
      memcpy(w.data->mocap_pos, m->body_pos + 3 * body, 3 * sizeof(mjtNum));
      mj_forward(m, w.data);
      task->kind->observe(task, &w, obs64);
      for (int i = 0; i < task->obs_dim; ++i) assert_true(obs[i] == (float)obs64[i]);
      ++targets;
    }
    free(obs);
    free(state);
    task_worker_free(&w);
    task_close(task);
  }
  assert_int_equal(targets, 7); // three fingers, fish, two reachers, swimmer
}

static void write_model(const char *folder, const char *name, const char *text) {
  static const char *const part[] = {"/mujoco_playground", "/_src", "/dm_control_suite", "/xmls", "/"};
  char path[4096];
  snprintf(path, sizeof path, "%s", folder);
  for (int i = 0; i < 4; ++i) {
    strcat(path, part[i]);
    if (mkdir(path, 0700) != 0) assert_int_equal(errno, EEXIST);
  }
  strcat(path, part[4]);
  strcat(path, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void assert_refused(const char *task_name, const char *folder, const char *words) {
  struct task *task;
  struct error *e = task_open(task_name, 0, folder, &task);
  assert_null(task);
  assert_non_null(e);
  if (strstr(e->text, words) == NULL || strchr(e->text, '\n') != NULL) fail_msg("'%s' lacks '%s'", e->text, words);
  error_free(e);
}

static void a_model_that_does_not_fit_is_refused_by_name(void **unused) {
  (void)unused;
  char folder[] = "/tmp/flowrank_models_XXXXXX", command[128];
  assert_non_null(mkdtemp(folder));
  assert_refused("CartpoleBalance", folder, "cartpole.xml of task CartpoleBalance is missing");
  write_model(folder, "cartpole.xml", "<mujoco><worldbody>");
  assert_refused("CartpoleBalance", folder, "cartpole.xml: ");
  write_model(folder, "cartpole.xml", "<mujoco><worldbody><body><joint/></body></worldbody></mujoco>");
  assert_refused("CartpoleBalance", folder, "cartpole.xml: Error: mass and inertia");
  write_model(folder, "cartpole.xml", "<mujoco/>");
  assert_refused("CartpoleBalance", folder, "has 0 positions where task CartpoleBalance has 2");
  write_model(folder, "cartpole.xml",
              "<mujoco><worldbody><body><joint name='j' type='slide'/><joint type='hinge'/><geom size='1'/></body>"
              "</worldbody><actuator><motor joint='j'/></actuator></mujoco>");
  assert_refused("CartpoleBalance", folder, "has no body named 'pole_1'");
  write_model(folder, "finger.xml", "<mujoco/>");
  assert_refused("FingerTurnEasy", folder, "has no site named 'target'");
  write_model(folder, "reacher.xml", "<mujoco/>");
  assert_refused("ReacherHard", folder, "has no geom named 'target'");
  write_model(folder, "swimmer.xml", "<mujoco><worldbody><body name='head'/></worldbody></mujoco>");
  assert_refused("SwimmerSwimmer6", folder, "named 'swimmer'");
  snprintf(command, sizeof command, "rm -r %s", folder);
  assert_int_equal(system(command), 0);
}

static void physics_that_is_not_a_number_ends_the_episode(void **unused) {
  (void)unused;
  struct task *task = open_task("CartpoleBalance");
  struct task_worker w;
  assert_null(task_worker_init(task, &w));
  double *state = malloc(task->state_size * sizeof *state);
  float obs[64], reward, action = 0;
  unsigned end;
  task_reset(task, &w, rng_stream(1, RNG_RESET, 0, 0), state, obs);
  w.data->qvel[0] = NAN;
  task_save(task, &w, state);
  end = task_step(task, &w, &action, state, obs, &reward);
  assert_true(end & TASK_TERMINATED);
  assert_true(end & TASK_BROKEN);
  assert_true(reward == 0.0f);
  assert_int_not_equal(access("MUJOCO_LOG.TXT", F_OK), 0);
  free(state);
  task_worker_free(&w);
  task_close(task);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(states_and_steps_match_the_reference),
      cmocka_unit_test(resets_are_distributed_like_the_reference),
      cmocka_unit_test(a_saved_environment_goes_on_bitwise),
      cmocka_unit_test(stepped_models_change_no_bit),
      cmocka_unit_test(a_moved_target_is_seen_from_the_first_step_on),
      cmocka_unit_test(a_model_that_does_not_fit_is_refused_by_name),
      cmocka_unit_test(physics_that_is_not_a_number_ends_the_episode),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
