#include "common/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/clock.h"

enum { RECENT_BYTES = 32768, PATH_BYTES = 4096, LINE_BYTES = 2048 };

// mpirun gives every rank a terminal of its own without a size, whatever its own output is.
static bool is_a_persons_terminal(void) {
  struct winsize size = {0};
  return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
}

// The iteration of a whole line; -1 for any other text.
static int64_t iteration_of(const char *line) {
  int64_t iteration;
  const bool whole = strchr(line, '\n') != NULL && sscanf(line, "{\"iteration\": %" SCNd64, &iteration) == 1;
  return whole ? iteration : -1;
}

// Copies the whole lines of iterations before `end`; false, with errno, when that fails.
static bool copy_lines_before(FILE *in, FILE *out, int64_t end) {
  char *line = NULL;
  size_t capacity = 0;
  while (getline(&line, &capacity, in) > 0) {
    const int64_t iteration = iteration_of(line);
    if (iteration > 0 && iteration < end) fputs(line, out);
  }
  free(line);
  return !ferror(in) && !ferror(out);
}

static struct error *rewrite(const char *path, const char *recent, int64_t iteration) {
  const int64_t first = iteration_of(recent);
  char temporary[PATH_BYTES + 8];
  snprintf(temporary, sizeof temporary, "%s.tmp", path);
  FILE *in = fopen(path, "r");
  bool good = in != NULL || errno == ENOENT;
  FILE *out = good ? fopen(temporary, "w") : NULL;
  good = out != NULL;
  if (good && in != NULL) good = copy_lines_before(in, out, first > 0 ? first : iteration + 1);
  if (good) good = fputs(recent, out) >= 0;
  if (out != NULL) good = fclose(out) == 0 && good;
  if (in != NULL) fclose(in);
  if (good) good = rename(temporary, path) == 0;
  if (good) return NULL;
  struct error *e = error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  remove(temporary);
  return e;
}

// Without a buffer: what could not be written must not come later, in the middle of something else.
static bool open_to_append(struct metrics *m) {
  m->file = fopen(m->path, "a");
  if (m->file != NULL) setvbuf(m->file, NULL, _IONBF, 0);
  return m->file != NULL;
}

struct error *metrics_open(struct metrics *m, const char *run, int64_t iteration, const char *recent,
                           int64_t total_iterations, int64_t total_env_steps, double log_interval) {
  char path[PATH_BYTES];
  *m = (struct metrics){.log_interval = log_interval,
                        .last_return = NAN,
                        .started = clock_seconds(),
                        .total_iterations = total_iterations,
                        .total_env_steps = total_env_steps,
                        .first_iteration = iteration,
                        .bar = is_a_persons_terminal()};
  m->last_log = m->started;
  if (snprintf(path, sizeof path, "%s/metrics.jsonl", run) >= (int)sizeof path)
    return error_new(EXIT_CODE_USAGE, "the run folder's name is too long: %.200s..", run);
  const size_t size = strlen(recent);
  if (size > 0 && recent[size - 1] != '\n') recent = ""; // not lines: `remember` takes them apart
  TRY(rewrite(path, recent, iteration));
  m->recent = calloc(1, RECENT_BYTES + LINE_BYTES);
  m->path = strdup(path);
  if (m->recent == NULL || m->path == NULL) return error_no_memory("metrics");
  m->recent_size = strlen(recent);
  if (m->recent_size <= RECENT_BYTES) memcpy(m->recent, recent, m->recent_size);
  else m->recent_size = 0;
  return open_to_append(m) ? NULL : error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
}

void metrics_close(struct metrics *m) {
  metrics_end_bar(m);
  if (m->file != NULL) fclose(m->file);
  free(m->recent);
  free(m->path);
  *m = (struct metrics){0};
}

// "name": value, with null for what JSON has no number for.
static int put(char *text, size_t at, const char *name, double value) {
  if (at >= LINE_BYTES) return 0;
  return isfinite(value) ? snprintf(text + at, LINE_BYTES - at, ", \"%s\": %.9g", name, value)
                         : snprintf(text + at, LINE_BYTES - at, ", \"%s\": null", name);
}

static size_t format_line(const struct metrics_line *l, char *text) {
  const struct {
    const char *name;
    double value;
  } field[] = {
      {"steps_per_second", l->steps_per_second},
      {"episodes", (double)l->episodes},
      {"episode_return", l->episode_return},
      {"episode_length", l->episode_length},
      {"eval_return", l->eval_return},
      {"eval_error", l->eval_error},
      {"policy_loss", l->policy_loss},
      {"value_loss", l->value_loss},
      {"ratio_mean", l->ratio_mean},
      {"ratio_std", l->ratio_std},
      {"clipped_fraction", l->clipped_fraction},
      {"cfm_loss", l->cfm_loss},
      {"entropy", l->entropy},
      {"value_mean", l->value_mean},
      {"grad_norm", l->grad_norm},
      {"act_seconds", l->act_seconds},
      {"wire_seconds", l->wire_seconds},
      {"learn_seconds", l->learn_seconds},
      {"other_seconds", l->other_seconds},
      {"checkpoint_seconds", l->checkpoint_seconds},
      {"hidden_seconds", l->hidden_seconds},
      {"broken", (double)l->broken},
      {"wire_bytes", (double)l->wire_bytes},
  };
  int at = snprintf(text, LINE_BYTES, "{\"iteration\": %" PRId64 ", \"env_steps\": %" PRId64 ", \"wall_seconds\": %.3f",
                    l->iteration, l->env_steps, l->wall_seconds);
  for (size_t i = 0; i < sizeof field / sizeof *field; ++i) at += put(text, (size_t)at, field[i].name, field[i].value);
  at += snprintf(text + at, LINE_BYTES - (size_t)at, "}\n");
  return (size_t)at;
}

static void remember(struct metrics *m, const char *text, size_t length) {
  while (m->recent_size + length > RECENT_BYTES) { // drop the oldest line
    const char *rest = strchr(m->recent, '\n') + 1;
    m->recent_size -= (size_t)(rest - m->recent);
    memmove(m->recent, rest, m->recent_size + 1);
  }
  memcpy(m->recent + m->recent_size, text, length + 1);
  m->recent_size += length;
}

// 1234567 → "1.23M"
static const char *short_count(double count, char text[16]) {
  const char *unit = "";
  if (count >= 1e9) count /= 1e9, unit = "G";
  else if (count >= 1e6) count /= 1e6, unit = "M";
  else if (count >= 1e3) count /= 1e3, unit = "k";
  snprintf(text, 16, *unit ? "%.3g%s" : "%.0f%s", count, unit);
  return text;
}

static void show(struct metrics *m, const struct metrics_line *l) {
  enum { WIDTH = 24 };
  const double now = clock_seconds();
  const double done = (double)l->iteration / (double)m->total_iterations;
  const double each = (now - m->started) / (double)(l->iteration - m->first_iteration);
  const int64_t left = (int64_t)(each * (double)(m->total_iterations - l->iteration));
  const double total = l->act_seconds + l->wire_seconds + l->learn_seconds + l->other_seconds;
  char steps[16], all[16], rate[16], mean[32], bar[WIDTH + 3];
  for (int i = 0; i < WIDTH; ++i) bar[i + 1] = i < (int)(done * WIDTH) ? '#' : '.';
  bar[0] = '[', bar[WIDTH + 1] = ']', bar[WIDTH + 2] = '\0';
  if (isfinite(m->last_return)) snprintf(mean, sizeof mean, "%.1f", m->last_return);
  else snprintf(mean, sizeof mean, "-");
  printf("%s%s%siteration %" PRId64 "/%" PRId64 "  %s/%s steps  %s steps/s  act %.0f%% wire %.0f%% learn %.0f%%  "
         "return %s  eta %02d:%02d:%02d%s",
         m->bar ? "\r\033[K" : "", m->bar ? bar : "", m->bar ? " " : "", l->iteration, m->total_iterations,
         short_count((double)l->env_steps, steps), short_count((double)m->total_env_steps, all),
         short_count(l->steps_per_second, rate), 100 * l->act_seconds / total, 100 * l->wire_seconds / total,
         100 * l->learn_seconds / total, mean, (int)(left / 3600), (int)(left / 60 % 60), (int)(left % 60),
         m->bar ? "" : "\n");
  fflush(stdout);
  m->last_log = now;
}

// `text` is the end of what is remembered.
static struct error *write_line(struct metrics *m, const char *text, size_t length, int64_t iteration) {
  if (m->file == NULL) { // a line is torn or missing
    TRY(rewrite(m->path, m->recent, iteration));
    if (open_to_append(m)) return NULL;
  } else {
    if (fwrite(text, 1, length, m->file) == length) return NULL;
    const int failure = errno;
    fclose(m->file);
    m->file = NULL;
    errno = failure;
  }
  return error_new(EXIT_CODE_FAILED, "%s: cannot write it: %s", m->path, strerror(errno));
}

struct error *metrics_append(struct metrics *m, const struct metrics_line *line) {
  char text[LINE_BYTES];
  const size_t length = format_line(line, text);
  if (isfinite(line->episode_return)) m->last_return = line->episode_return;
  remember(m, text, length);
  const bool last = line->iteration == m->total_iterations, first = line->iteration == m->first_iteration + 1;
  if (m->bar || first || last || clock_seconds() - m->last_log >= m->log_interval) show(m, line);
  return write_line(m, text, length, line->iteration);
}

void metrics_end_bar(struct metrics *m) {
  if (m->bar && m->recent != NULL) puts("");
  fflush(stdout);
}

void metrics_warn(void *context, const char *line) {
  (void)context;
  fprintf(stderr, "flowrank: warning: %s\n", line);
}
