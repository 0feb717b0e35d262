#include "actor/tracking.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/text.h"

static void see(void *context, int64_t episode, const double *state, float reward) {
  (void)reward;
  struct tracking *t = context;
  t->last[episode] = humanoid_track_progress(t->task, state);
}

struct error *tracking_init(struct tracking *t, struct evaluation *v) {
  *t = (struct tracking){.task = v->task, .library = humanoid_track_library(v->task)};
  const int64_t clips = t->library->count;
  v->episodes = t->episodes = (v->episodes + clips - 1) / clips * clips;
  t->last = calloc((size_t)t->episodes, sizeof *t->last);
  if (t->last == NULL) return error_no_memory("an evaluation");
  v->watch = (struct evaluate_watch){see, t};
  return NULL;
}

void tracking_free(struct tracking *t) {
  free(t->last);
  *t = (struct tracking){0};
}

struct tracking_figures tracking_figures(const struct tracking *t, int clip) {
  struct tracking_figures f = {0};
  for (int64_t e = 0; e < t->episodes; ++e) {
    const struct humanoid_track_progress *p = &t->last[e];
    if (clip >= 0 && p->clip != clip) continue;
    f.episodes += 1;
    f.success += p->complete;
    f.alive += p->steps;
    f.mpjpe += 1000 * p->error;
  }
  f.success /= (double)f.episodes;
  f.alive /= (double)f.episodes;
  f.mpjpe /= (double)f.episodes;
  return f;
}

static void print_figures_json(const struct tracking_figures *f, FILE *out) {
  fprintf(out, "\"episodes\": %" PRId64 ", \"success\": %.9g, \"alive_steps\": %.9g, \"mpjpe_mm\": %.9g", f->episodes,
          f->success, f->alive, f->mpjpe);
}

static void print_line(const char *name, const struct tracking_figures *f, double steps, FILE *out) {
  fprintf(out, "%-28s %8" PRId64 " %9.1f %9.2f", name, f->episodes, 100 * f->success, f->alive);
  if (steps > 0) fprintf(out, " of %4.0f", steps);
  else fprintf(out, "%8s", "");
  fprintf(out, " %9.2f\n", f->mpjpe);
}

void tracking_print(const struct tracking *t, bool json, FILE *out) {
  const struct tracking_figures all = tracking_figures(t, -1);
  if (json) {
    print_figures_json(&all, out);
    fputs(", \"clips\": [", out);
  } else fprintf(out, "%-28s %8s %9s %17s %9s\n", "clip", "episodes", "success %", "alive steps", "MPJPE mm");
  for (int c = 0; c < t->library->count; ++c) {
    const struct tracking_figures f = tracking_figures(t, c);
    const struct motion_clip *clip = &t->library->clip[c];
    if (json) {
      fprintf(out, "%s{\"name\": ", c > 0 ? ", " : "");
      text_print_json(clip->name, out);
      fputs(", ", out);
      print_figures_json(&f, out);
      fputc('}', out);
    } else print_line(clip->name, &f, humanoid_track_steps(clip), out);
  }
  if (json) fputc(']', out);
  else print_line("all", &all, 0, out);
}
