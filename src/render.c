#include "render.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "actor/renderer.h"
#include "actor/tasks/humanoid_track.h"
#include "actor/video.h"
#include "loaded_policy.h"

enum { MOST_FRAMES_PER_SECOND = 240, MOST_SHEET_FRAMES = 100 };

// The episodes of a block as they were seen, kept until they are drawn.
struct seen {
  int64_t capacity;  // states of an episode: its start, and one a control step
  size_t state_size; // doubles
  double *states;    // [EVALUATE_BLOCK, capacity, state_size]
  float *rewards;    // [EVALUATE_BLOCK, capacity]: that led to the state
  int64_t count[EVALUATE_BLOCK];
};

struct film {
  const struct render_options *o;
  const struct task *task;
  struct seen seen;
  struct evaluate_worker worker;
  struct renderer renderer;
  struct video video;
  enum video_kind kind;
  mjData *reference; // of humanoid_track: drawn beside the body, translucent; else null
  int64_t frames;    // drawn
};

// --- What is seen ---

static struct error *seen_init(struct seen *s, const struct evaluation *v) {
  s->capacity = v->episode_length + 1;
  s->state_size = v->task->state_size;
  const size_t states = EVALUATE_BLOCK * (size_t)s->capacity;
  s->states = calloc(states, s->state_size * sizeof *s->states);
  s->rewards = calloc(states, sizeof *s->rewards);
  return s->states && s->rewards ? NULL : error_no_memory("the episodes");
}

// An evaluate_watch. A state with a NaN, which ends its episode, is not to be drawn.
static void see(void *context, int64_t episode, const double *state, float reward) {
  struct seen *s = context;
  const int row = (int)(episode % EVALUATE_BLOCK);
  const int64_t at = row * s->capacity + s->count[row];
  for (size_t i = 0; i < s->state_size; ++i)
    if (!isfinite(state[i])) return;
  memcpy(s->states + (size_t)at * s->state_size, state, s->state_size * sizeof *state);
  s->rewards[at] = reward;
  s->count[row] += 1;
}

// --- What is drawn ---

// Which of an episode's states the n-th frame shows; -1 behind the last.
static int64_t state_of_frame(const struct film *f, int64_t states, int64_t n) {
  if (f->kind == VIDEO_PNG) {
    if (n >= f->o->frames || states == 0) return -1;
    return f->o->frames > 1 ? n * (states - 1) / (f->o->frames - 1) : states - 1;
  }
  const int64_t state = llround((double)n / ((double)f->o->fps * f->task->kind->control_dt));
  return state < states ? state : -1;
}

static void add_reference(struct film *f, const double *state) {
  const float opacity = 0.4f;
  humanoid_track_reference(f->task, state, f->reference->qpos, f->reference->qvel);
  mj_kinematics(f->task->model, f->reference);
  renderer_ghost(&f->renderer, f->task->model, f->reference, opacity);
}

static struct error *draw(struct film *f, int64_t episode, int64_t step, double episode_return) {
  const struct seen *s = &f->seen;
  const size_t at = (size_t)(episode % EVALUATE_BLOCK * s->capacity + step);
  char values[128];
  task_load(f->task, &f->worker.task, s->states + at * s->state_size);
  mj_forward(f->task->model, f->worker.task.data);
  renderer_scene(&f->renderer, f->task->model, f->worker.task.data);
  if (f->reference != NULL) add_reference(f, s->states + at * s->state_size);
  snprintf(values, sizeof values, "%" PRId64 "\n%" PRId64 "\n%.3f\n%.1f", episode, step, (double)s->rewards[at],
           episode_return);
  renderer_draw(&f->renderer, f->o->bare ? NULL : "episode\nstep\nreward\nreturn", values);
  f->frames += 1;
  return video_add(&f->video, f->renderer.rgb);
}

static struct error *draw_episode(struct film *f, int64_t episode) {
  const int row = (int)(episode % EVALUATE_BLOCK);
  const float *rewards = f->seen.rewards + row * f->seen.capacity;
  double episode_return = 0;
  for (int64_t n = 0, done = 0, step; (step = state_of_frame(f, f->seen.count[row], n)) >= 0; ++n) {
    while (done < step) episode_return += (double)rewards[++done];
    TRY(draw(f, episode, step, episode_return));
  }
  return NULL;
}

static struct error *draw_all(struct film *f, const struct evaluation *v, FILE *out) {
  struct episode_result results[EVALUATE_BLOCK];
  for (int64_t block = 0; block < evaluate_blocks(v); ++block) {
    memset(f->seen.count, 0, sizeof f->seen.count);
    evaluate_block(v, &f->worker, block, results);
    for (int64_t i = 0, episode; i < EVALUATE_BLOCK && (episode = block * EVALUATE_BLOCK + i) < v->episodes; ++i) {
      TRY(draw_episode(f, episode));
      fprintf(out, "episode %" PRId64 ": return %.2f, %.0f steps\n", episode, results[i].episode_return,
              results[i].length);
      fflush(out);
    }
  }
  return NULL;
}

// --- From the options to the file ---

static struct error *check_range(const char *option, int64_t value, int least, int most) {
  if (value >= least && value <= most) return NULL;
  return error_new(EXIT_CODE_USAGE, "--%s %" PRId64 " is not between %d and %d", option, value, least, most);
}

static struct error *check_side(const char *option, int64_t value) {
  TRY(check_range(option, value, RENDERER_LEAST_SIZE, RENDERER_MOST_SIZE));
  if (value % 2 == 0) return NULL;
  return error_new(EXIT_CODE_USAGE, "--%s %" PRId64 " is odd; videos have an even number of pixels", option, value);
}

struct error *render_check_frames(int64_t width, int64_t height, int64_t fps) {
  TRY(check_side("width", width));
  TRY(check_side("height", height));
  return check_range("fps", fps, 1, MOST_FRAMES_PER_SECOND);
}

static struct error *check_options(const struct render_options *o, enum video_kind *kind) {
  if (o->output == NULL) return error_new(EXIT_CODE_USAGE, "render needs -o FILE, ending in .mp4, .gif or .png");
  TRY(video_kind_of(o->output, kind));
  TRY(render_check_frames(o->width, o->height, o->fps));
  TRY(check_range("frames", o->frames, 1, MOST_SHEET_FRAMES));
  if (*kind == VIDEO_PNG) TRY(check_range("episodes", o->eval.episodes, 1, MOST_SHEET_FRAMES));
  if (o->eval.sampler_count <= 1 && o->eval.step_count <= 1) return NULL;
  return error_new(EXIT_CODE_USAGE, "--%s takes one value here: a video shows one way of acting",
                   o->eval.sampler_count > 1 ? "sampler" : "steps");
}

static struct error *choose_acting(const struct loaded_policy *p, const struct eval_options *o, struct evaluation *v) {
  if (o->sampler_count > 0) {
    TRY(loaded_policy_needs_flow(p, "sampler"));
    v->acting.sampler = o->sampler[0];
  }
  if (o->step_count > 0) {
    TRY(loaded_policy_needs_flow(p, "steps"));
    v->acting.flow_steps = o->steps[0];
  }
  return NULL;
}

// With the video open: the rest of what a film needs, and the film itself.
static struct error *shoot(struct film *f, struct evaluation *v, const mjvCamera *camera, FILE *out) {
  TRY(seen_init(&f->seen, v));
  TRY(evaluate_worker_init(&f->worker, v));
  if (humanoid_track_library(f->task) != NULL) f->reference = mj_makeData(f->task->model);
  struct error *e = renderer_init(&f->renderer, f->task->model, camera, (int)f->o->width, (int)f->o->height);
  if (e == NULL) e = draw_all(f, v, out);
  if (e == NULL) e = video_close(&f->video);
  renderer_free(&f->renderer);
  mj_deleteData(f->reference);
  evaluate_worker_free(&f->worker);
  return e;
}

static struct error *render_policy(const struct loaded_policy *p, const struct render_options *o, enum video_kind kind,
                                   FILE *out) {
  if (p->task->model == NULL)
    return error_new(EXIT_CODE_USAGE, "%s is a run of %s, which has no physics to draw: tools/gridworld.py draws it",
                     o->eval.name, p->task->kind->name);
  mjvCamera camera;
  struct film f = {.o = o, .task = p->task, .kind = kind};
  struct evaluation v = loaded_policy_evaluation(p, o->eval.episodes, o->eval.seed, o->eval.noise);
  TRY(choose_acting(p, &o->eval, &v));
  TRY(renderer_find_camera(p->task->model, o->camera, &camera));
  if (o->length > 0 && o->length < v.episode_length) v.episode_length = o->length;
  v.watch = (struct evaluate_watch){see, &f.seen};
  const struct video_format format = {kind,        (int)o->width,  (int)o->height,
                                      (int)o->fps, (int)o->frames, (int)o->eval.episodes};
  TRY(video_open(&f.video, o->output, &format));
  openblas_set_num_threads(1);
  struct error *e = shoot(&f, &v, &camera, out);
  video_discard(&f.video);
  free(f.seen.states);
  free(f.seen.rewards);
  if (e == NULL)
    fprintf(out, "%s: %" PRId64 " frames of %" PRId64 "x%" PRId64 "\n", o->output, f.frames, o->width, o->height);
  return e;
}

struct error *render(const struct render_options *options, FILE *out) {
  struct loaded_policy p;
  enum video_kind kind;
  TRY(check_options(options, &kind));
  struct error *e = loaded_policy_init(&p, options->eval.name);
  if (e == NULL) e = render_policy(&p, options, kind, out);
  loaded_policy_free(&p);
  return e;
}
