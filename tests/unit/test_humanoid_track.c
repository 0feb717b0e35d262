// humanoid_track with the DeepMimic humanoid and its clips, imported here: that bodies follow, end and start as the task
// says, and that the physics holds.
#include "helpers.h"

#include <unistd.h>

#include "actor/motion_import.h"
#include "actor/tasks/humanoid_track.h"

static char library_path[64];
static int told, warned;

static void tell(void *unused, const struct motion_clip *clip, const char *text) {
  (void)unused, (void)text;
  told += clip != NULL;
  warned += clip == NULL;
}

static char *read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail_msg("%s is missing: run tools/setup.sh", path);
  char *text = zeroed(1 << 20, 1);
  assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
  fclose(file);
  return text;
}

static const char *in_deps(const char *name) {
  static char path[4096];
  const char *folder = getenv("FLOWRANK_HUMANOID");
  snprintf(path, sizeof path, "%s/%s", folder ? folder : FLOWRANK_DEFAULT_HUMANOID, name);
  return path;
}

static int import_clips(void **unused) {
  (void)unused;
  struct motion_library l = {0};
  struct motion_import import = {.library = &l, .tell = tell};
  snprintf(library_path, sizeof library_path, "/tmp/flowrank_motions_%d.h5", (int)getpid());
  must(task_check_mujoco());
  must(motion_library_model("deepmimic.xml", read_file(in_deps("deepmimic.xml")), &l));
  must(motion_import_path(&import, in_deps("motions")));
  motion_import_finish(&import);
  must(motion_library_write(library_path, &l));
  motion_library_free(&l);
  return 0;
}

static int remove_clips(void **unused) {
  (void)unused;
  return unlink(library_path);
}

// A task on some clips, and one worker's place in it.
struct world {
  struct config config;
  struct task *task;
  struct task_worker w;
  double *state;
  float *obs, *action;
};

static void open_world(struct world *o, const char *clips) {
  snprintf(o->config.task.clips, sizeof o->config.task.clips, "%s", clips);
  snprintf(o->config.task.motions, sizeof o->config.task.motions, "%s", library_path);
  must(task_open("humanoid_track", &o->config, NULL, &o->task));
  must(task_worker_init(o->task, &o->w));
  o->state = doubles(o->task->state_size);
  o->obs = floats((size_t)o->task->obs_dim);
  o->action = floats((size_t)o->task->action_dim);
}

static void default_world(struct world *o, const char *clips) {
  *o = (struct world){0};
  config_default(&o->config);
  open_world(o, clips);
}

static void close_world(struct world *o) {
  task_worker_free(&o->w);
  task_close(o->task);
  free(o->state);
  free(o->obs);
  free(o->action);
}

static void body_is_the_urdfs(void **unused) {
  (void)unused;
  struct world o;
  default_world(&o, "walk");
  const mjModel *m = o.task->model;
  assert_int_equal(m->nbody - 1, 15);
  assert_int_equal(m->nu, 28);
  assert_int_equal(o.task->obs_dim, 583);
  assert_true(fabs(mj_getTotalmass(m) - 45) < 0.45);
  for (int i = 0; i < m->nu; ++i)
    assert_true(m->actuator_gainprm[(ptrdiff_t)i * mjNGAIN] > 0 && m->actuator_forcelimited[i] &&
                m->actuator_ctrllimited[i]);
  assert_true(told == 20 && warned == 1); // the four-legged clip does not fit
  close_world(&o);
}

// Where the reference is, nothing is missing: all poses are the same, and so is the reward's 1.
static void a_replayed_clip_is_its_reference(void **unused) {
  (void)unused;
  struct world o;
  default_world(&o, "all");
  const struct motion_library *l = humanoid_track_library(o.task);
  const size_t bodies = (size_t)motion_bodies(l);
  double *memory = doubles(26 * bodies), *qpos = doubles((size_t)o.task->model->nq),
         *qvel = doubles((size_t)o.task->model->nv);
  struct motion_pose self = {memory, memory + 3 * bodies, memory + 7 * bodies};
  struct motion_pose reference = {memory + 13 * bodies, memory + 16 * bodies, memory + 20 * bodies};
  for (int c = 0; c < l->count; ++c)
    for (int i = 0; i < l->clip[c].frames; ++i) {
      const double seconds = i / l->clip[c].fps;
      motion_sample_state(o.task->model, &l->clip[c], seconds, qpos, qvel);
      motion_forward(o.task->model, o.w.data, qpos, qvel, 0, &self);
      motion_sample(l, &l->clip[c], seconds, &reference);
      const double similarity = humanoid_track_similarity((int)bodies, &self, &reference);
      if (!(similarity > 1 - 1e-9)) fail_msg("%s, frame %d: %.12f", l->clip[c].name, i, similarity);
    }
  free(memory);
  free(qpos);
  free(qvel);
  close_world(&o);
}

// Velocities of the library are the slopes of its positions, of every body: frames are 1/60 s apart or more, and bodies
// turn, so that a slope is not exact.
static void body_velocities_are_slopes(void **unused) {
  (void)unused;
  struct world o;
  default_world(&o, "walk+cartwheel+getup_faceup+turn_left0");
  const struct motion_library *l = humanoid_track_library(o.task);
  const size_t bodies = (size_t)motion_bodies(l);
  for (int c = 0; c < l->count; ++c) {
    const struct motion_clip *clip = &l->clip[c];
    double miss = 0, speed = 0;
    for (size_t i = 1; i + 1 < (size_t)clip->frames; ++i)
      for (size_t j = 0; j < bodies; ++j)
        for (size_t k = 0; k < 3; ++k) {
          const double slope = (clip->pose.position[3 * ((i + 1) * bodies + j) + k] -
                                clip->pose.position[3 * ((i - 1) * bodies + j) + k]) *
                               clip->fps / 2;
          miss += fabs(slope - clip->pose.velocity[6 * (i * bodies + j) + k]);
          speed += fabs(slope);
        }
    if (!(miss < 0.05 * speed)) fail_msg("%s: slopes miss the velocities by %.3f of them", clip->name, miss / speed);
  }
  close_world(&o);
}

static void the_default_pose_is_held(void **unused) {
  (void)unused;
  struct world o;
  default_world(&o, "walk");
  const mjModel *m = o.task->model;
  mjData *d = o.w.data;
  double turned = 0;
  mj_resetData(m, d); // a pose of zeros; the servos' targets are zeros too
  for (int i = 0; i < 1 / m->opt.timestep; ++i) {
    mj_step(m, d);
    for (int k = 0; k < m->nv; ++k) assert_true(fabs(d->qvel[k]) < 5);
  }
  for (int j = 1; j < m->njnt; ++j) {
    double turn[3] = {d->qpos[m->jnt_qposadr[j]], 0, 0};
    if (m->jnt_type[j] == mjJNT_BALL) mju_quat2Vel(turn, d->qpos + m->jnt_qposadr[j], 1);
    turned = fmax(turned, mju_norm3(turn));
  }
  print_message("after a second: root at %.3f m of %.3f, joints within %.3f rad\n", d->qpos[2], m->qpos0[2], turned);
  assert_true(turned < 0.2);
  assert_true(fabs(d->qpos[2] - m->qpos0[2]) < 0.05);
  close_world(&o);
}

// Each clip from its start by servos that are told the reference alone. Nothing balances the body, so it falls behind in
// time; the physics must stay finite and slow.
static void servos_alone_follow_for_a_while(void **unused) {
  (void)unused;
  struct world o = {0};
  config_default(&o.config);
  o.config.task.servo_target = SERVO_TARGET_REFERENCE;
  open_world(&o, "all");
  const struct motion_library *l = humanoid_track_library(o.task);
  int sum = 0;
  for (int c = 0; c < l->count; ++c) {
    float reward;
    unsigned end = 0;
    task_reset_evaluation(o.task, &o.w, c, rng_stream(1, RNG_RESET, 0, 0), o.state, o.obs);
    while (end == 0) end = task_step(o.task, &o.w, o.action, o.state, o.obs, &reward);
    const struct humanoid_track_progress p = humanoid_track_progress(o.task, o.state);
    assert_false(end & TASK_BROKEN);
    assert_int_equal(p.failed, (end & TASK_TERMINATED) != 0);
    for (int k = 0; k < o.task->model->nv; ++k)
      if (!(fabs(o.w.data->qvel[k]) < 60)) fail_msg("%s: speed %g of axis %d", l->clip[c].name, o.w.data->qvel[k], k);
    print_message("%-16s %3d of %3d steps, %4.0f mm\n", l->clip[c].name, p.steps,
                  (int)(motion_duration(&l->clip[c]) * 30 + 0.1), 1000 * p.error);
    sum += p.steps;
  }
  assert_true(sum > 20 * l->count);
  close_world(&o);
}

static void an_episode_starts_anywhere_and_ends_with_its_clip(void **unused) {
  (void)unused;
  struct world o = {0};
  config_default(&o.config);
  o.config.task.servo_target = SERVO_TARGET_REFERENCE;
  open_world(&o, "walk+run");
  const struct motion_library *l = humanoid_track_library(o.task);
  int of_clip[2] = {0, 0}, complete = 0, late = 0;
  for (uint32_t episode = 0; episode < 200; ++episode) {
    float reward;
    unsigned end = 0;
    task_reset(o.task, &o.w, rng_stream(1, RNG_RESET, 0, episode), o.state, o.obs);
    struct humanoid_track_progress p = humanoid_track_progress(o.task, o.state);
    const double start = p.seconds, duration = motion_duration(&l->clip[p.clip]);
    assert_true(start >= 0 && start <= duration - 1.0 / 30 + 1e-9 && p.steps == 0);
    of_clip[p.clip]++;
    late += start > duration / 2;
    while (end == 0) end = task_step(o.task, &o.w, o.action, o.state, o.obs, &reward);
    p = humanoid_track_progress(o.task, o.state);
    assert_true(p.seconds <= duration + 0.1 / 30);
    assert_true(p.steps >= 1 && p.steps == (int)lround((p.seconds - start) * 30));
    if (end == TASK_COMPLETE) assert_true(p.seconds + 0.9 / 30 > duration && !p.failed);
    complete += end == TASK_COMPLETE;
  }
  assert_true(of_clip[0] > 60 && of_clip[1] > 60 && late > 60 && late < 140 && complete > 20);
  close_world(&o);
}

// Training ends where one body is far, an evaluation where the mean is; neither in the first step.
static void what_is_far_has_failed(void **unused) {
  (void)unused;
  struct world o = {0};
  config_default(&o.config);
  o.config.task.servo_target = SERVO_TARGET_REFERENCE;
  open_world(&o, "walk");
  const double aside[] = {0.1, 0.4, 0.6};
  for (int k = 0; k < 3; ++k)
    for (int evaluating = 0; evaluating < 2; ++evaluating) {
      float reward;
      unsigned end = 0;
      if (evaluating) task_reset_evaluation(o.task, &o.w, 0, rng_stream(2, RNG_RESET, 0, 0), o.state, o.obs);
      else {
        uint32_t episode = 0;
        do task_reset(o.task, &o.w, rng_stream(2, RNG_RESET, 0, episode++), o.state, o.obs);
        while (humanoid_track_progress(o.task, o.state).seconds > 0.5);
      }
      o.w.data->qpos[1] += aside[k]; // as task_reset left it
      task_save(o.task, &o.w, o.state);
      end = task_step(o.task, &o.w, o.action, o.state, o.obs, &reward);
      assert_int_equal(end, 0);
      end = task_step(o.task, &o.w, o.action, o.state, o.obs, &reward);
      assert_int_equal(end, aside[k] > (evaluating ? 0.5 : 0.25) ? TASK_TERMINATED : 0);
    }
  close_world(&o);
}

static void conditioning_hides_the_rest(void **unused) {
  (void)unused;
  static const struct {
    enum conditioning_kind kind;
    int bodies;
  } KINDS[] = {{CONDITIONING_FULL, 15}, {CONDITIONING_ROOT_HANDS, 3}, {CONDITIONING_ROOT, 1}};
  struct world full;
  default_world(&full, "cartwheel");
  task_reset(full.task, &full.w, rng_stream(3, RNG_RESET, 0, 0), full.state, full.obs);
  for (size_t k = 0; k < COUNT_OF(KINDS); ++k) {
    struct world o = {0};
    config_default(&o.config);
    o.config.task.conditioning = KINDS[k].kind;
    open_world(&o, "cartwheel");
    task_reset(o.task, &o.w, rng_stream(3, RNG_RESET, 0, 0), o.state, o.obs);
    int shown = 0;
    for (int i = 0; i < o.task->obs_dim; ++i) {
      const bool same = o.obs[i] == full.obs[i];
      assert_true(same || o.obs[i] == 0);
      shown += i >= 15 * 15 - 2 && same && o.obs[i] != 0;
    }
    assert_int_equal(shown, KINDS[k].kind == CONDITIONING_FULL ? 24 * 15 : 6 * KINDS[k].bodies);
    close_world(&o);
  }
  close_world(&full);
}

static void a_saved_body_goes_on_in_another_worker(void **unused) {
  (void)unused;
  struct world a, b;
  default_world(&a, "all");
  default_world(&b, "all");
  task_reset(a.task, &a.w, rng_stream(1, RNG_RESET, 0, 0), a.state, a.obs);
  for (uint32_t step = 0; step < 150; ++step) {
    float reward[2];
    rng_normal(rng_stream(2, RNG_BENCH, 0, step), (size_t)a.task->action_dim, a.action);
    for (int i = 0; i < a.task->action_dim; ++i) a.action[i] = tanhf(0.1f * a.action[i]);
    memcpy(b.state, a.state, a.task->state_size * sizeof *a.state);
    const unsigned end = task_step(a.task, &a.w, a.action, a.state, a.obs, &reward[0]);
    assert_int_equal(end, task_step(b.task, &b.w, a.action, b.state, b.obs, &reward[1]));
    assert_memory_equal(a.state, b.state, a.task->state_size * sizeof *a.state);
    assert_memory_equal(a.obs, b.obs, (size_t)a.task->obs_dim * sizeof *a.obs);
    assert_true(reward[0] == reward[1]);
    if (end != 0) task_reset(a.task, &a.w, rng_stream(1, RNG_RESET, 0, step + 1), a.state, a.obs);
    if (step % 11 == 0) task_reset(b.task, &b.w, rng_stream(1, RNG_RESET, 1, step), b.state, b.obs);
  }
  close_world(&a);
  close_world(&b);
}

// What fails is drawn more often: the shares of failures that the environments remember, and the draws that follow.
static void failing_clips_are_drawn_more_often(void **unused) {
  (void)unused;
  enum { ENVS = 4, EPISODES = 2000 };
  struct world o = {0};
  config_default(&o.config);
  o.config.task.sampling = SAMPLING_FAILURE;
  o.config.task.servo_target = SERVO_TARGET_REFERENCE;
  open_world(&o, "walk+run+turn_right1");
  const size_t size = o.task->state_size, clips = 3, behind = o.task->extra_size - clips;
  double *states = doubles(ENVS * size);
  int drawn[3] = {0};
  for (int e = 0; e < ENVS; ++e) { // walk (last by name) always comes to its end, run in half of the environments
    states[(size_t)e * size + behind + 2] = 1;
    states[(size_t)e * size + behind] = e % 2;
  }
  o.task->kind->pool(o.task, &o.w, states, size, ENVS);
  for (uint32_t k = 0; k < EPISODES; ++k) {
    task_reset(o.task, &o.w, rng_stream(4, RNG_RESET, 0, k), o.state, o.obs);
    drawn[humanoid_track_progress(o.task, o.state).clip]++;
  }
  const double weight[] = {0.6, 1.1, 0.1}; // run, turn_right1, walk
  for (int c = 0; c < 3; ++c)
    if (fabs((double)drawn[c] / EPISODES - weight[c] / 1.8) > 0.03)
      fail_msg("clip %d: %d of %d", c, drawn[c], EPISODES);
  // An episode's end changes what its environment remembers of its clip, and nothing else.
  float reward;
  unsigned end = 0;
  double before[3], after;
  memcpy(before, o.state + behind, sizeof before);
  const int clip = humanoid_track_progress(o.task, o.state).clip;
  while (end == 0) end = task_step(o.task, &o.w, o.action, o.state, o.obs, &reward);
  after = before[clip] + 0.1 * ((end == TASK_COMPLETE) - before[clip]);
  for (int c = 0; c < 3; ++c) assert_true(o.state[behind + (size_t)c] == (c == clip ? after : before[c]));
  free(states);
  close_world(&o);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(body_is_the_urdfs),
      cmocka_unit_test(a_replayed_clip_is_its_reference),
      cmocka_unit_test(body_velocities_are_slopes),
      cmocka_unit_test(the_default_pose_is_held),
      cmocka_unit_test(servos_alone_follow_for_a_while),
      cmocka_unit_test(an_episode_starts_anywhere_and_ends_with_its_clip),
      cmocka_unit_test(what_is_far_has_failed),
      cmocka_unit_test(failing_clips_are_drawn_more_often),
      cmocka_unit_test(conditioning_hides_the_rest),
      cmocka_unit_test(a_saved_body_goes_on_in_another_worker),
  };
  return cmocka_run_group_tests(tests, import_clips, remove_clips);
}
