// Checkpoints for people: what is in one, and where two differ. No HDF5, no files.
#include "common/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/text.h"

static size_t tensor_size(const struct tensor_name *t) { return (size_t)t->rows * (size_t)(t->cols ? t->cols : 1); }

// --- The first difference ---

// One line, owned by the caller. Without memory for it the process has none for anything: errno tells it from "equal".
static char *difference(const char *format, ...) PRINTF_LIKE(1, 2);
static char *difference(const char *format, ...) {
  va_list arguments;
  char *line = NULL;
  va_start(arguments, format);
  const int length = vasprintf(&line, format, arguments);
  va_end(arguments);
  if (length >= 0) return line;
  errno = ENOMEM;
  return NULL;
}

enum { NUMBER_BYTES = 40 };

// Exact: what prints alike is the same. Not-a-number is shown by its bits.
static void print_float(float value, char text[NUMBER_BYTES]) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isnan(value)) snprintf(text, NUMBER_BYTES, "nan(0x%08" PRIx32 ")", bits);
  else snprintf(text, NUMBER_BYTES, "%a", (double)value);
}

static void print_double(double value, char text[NUMBER_BYTES]) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isnan(value)) snprintf(text, NUMBER_BYTES, "nan(0x%016" PRIx64 ")", bits);
  else snprintf(text, NUMBER_BYTES, "%a", value);
}

static char *counter_difference(const char *name, int64_t a, int64_t b) {
  return a == b ? NULL : difference("%s: %" PRId64 " and %" PRId64, name, a, b);
}

static char *number_difference(const char *name, const double *a, const double *b) {
  char x[NUMBER_BYTES], y[NUMBER_BYTES];
  if (memcmp(a, b, sizeof *a) == 0) return NULL;
  print_double(*a, x);
  print_double(*b, y);
  return difference("%s: %s and %s", name, x, y);
}

// Index of the first element, of `size` bytes, whose bits differ; count when there is none.
static size_t first_difference(const void *a, const void *b, size_t count, size_t size) {
  if (count == 0 || memcmp(a, b, count * size) == 0) return count;
  const char *x = a, *y = b;
  size_t i = 0;
  while (memcmp(x + i * size, y + i * size, size) == 0) ++i;
  return i;
}

static char *counters_difference(const struct checkpoint *a, const struct checkpoint *b) {
  char *d = counter_difference("iteration", a->iteration, b->iteration);
  if (d == NULL) d = counter_difference("env_steps", a->env_steps, b->env_steps);
  if (d == NULL) d = counter_difference("episodes", a->episodes, b->episodes);
  if (d == NULL) d = counter_difference("adam_step", a->adam_step, b->adam_step);
  return d != NULL ? d : number_difference("best_return", &a->best_return, &b->best_return);
}

static char *layout_difference(const struct checkpoint *a, const struct checkpoint *b) {
  char *d = counter_difference("number of tensors", a->tensor_count, b->tensor_count);
  for (int i = 0; d == NULL && i < a->tensor_count; ++i) {
    const struct tensor_name *x = &a->tensors[i], *y = &b->tensors[i];
    if (strcmp(x->name, y->name) != 0 || x->rows != y->rows || x->cols != y->cols || x->offset != y->offset)
      d = difference("tensor %d: %s [%d, %d] at %zu and %s [%d, %d] at %zu", i, x->name, x->rows, x->cols, x->offset,
                     y->name, y->rows, y->cols, y->offset);
  }
  return d;
}

// Both have the same tensors.
static char *floats_difference(const char *what, const struct checkpoint *c, const float *a, const float *b) {
  for (int i = 0; i < c->tensor_count; ++i) {
    const struct tensor_name *t = &c->tensors[i];
    const size_t size = tensor_size(t), at = first_difference(a + t->offset, b + t->offset, size, sizeof *a);
    if (at == size) continue;
    char x[NUMBER_BYTES], y[NUMBER_BYTES];
    print_float(a[t->offset + at], x);
    print_float(b[t->offset + at], y);
    if (t->cols == 0) return difference("%s/%s[%zu]: %s and %s", what, t->name, at, x, y);
    const size_t cols = (size_t)t->cols;
    return difference("%s/%s[%zu, %zu]: %s and %s", what, t->name, at / cols, at % cols, x, y);
  }
  return NULL;
}

static char *doubles_difference(const char *what, size_t count, const double *a, const double *b) {
  const size_t at = first_difference(a, b, count, sizeof *a);
  if (at == count) return NULL;
  char name[NUMBER_BYTES];
  snprintf(name, sizeof name, "%s[%zu]", what, at);
  return number_difference(name, &a[at], &b[at]);
}

static char *normalizer_difference(const struct checkpoint *a, const struct checkpoint *b) {
  const size_t dim = (size_t)a->obs_dim;
  char *d = counter_difference("obs_dim", a->obs_dim, b->obs_dim);
  if (d == NULL) d = number_difference("normalizer/count", &a->normalizer_count, &b->normalizer_count);
  if (d == NULL) d = doubles_difference("normalizer/mean", dim, a->normalizer_mean, b->normalizer_mean);
  return d != NULL ? d : doubles_difference("normalizer/m2", dim, a->normalizer_m2, b->normalizer_m2);
}

// What the next iteration is collected with. The rest has the same shapes.
static char *acting_difference(const struct checkpoint *a, const struct checkpoint *b) {
  const size_t dim = (size_t)a->obs_dim;
  char *d = counter_difference("acting weights", a->ahead, b->ahead);
  if (d != NULL || !a->ahead) return d;
  d = floats_difference("acting/parameters", a, a->acting, b->acting);
  if (d == NULL) d = number_difference("acting/normalizer/count", &a->acting_count, &b->acting_count);
  if (d == NULL) d = doubles_difference("acting/normalizer/mean", dim, a->acting_mean, b->acting_mean);
  return d != NULL ? d : doubles_difference("acting/normalizer/m2", dim, a->acting_m2, b->acting_m2);
}

static char *states_difference(const struct checkpoint *a, const struct checkpoint *b) {
  char *d = counter_difference("envs", a->envs, b->envs);
  if (d == NULL) d = counter_difference("state_size", a->state_size, b->state_size);
  if (d != NULL) return d;
  const size_t size = (size_t)a->state_size, count = (size_t)a->envs * size;
  const size_t at = first_difference(a->env_state, b->env_state, count, sizeof(double));
  if (at == count) return NULL;
  char name[2 * NUMBER_BYTES];
  snprintf(name, sizeof name, "env_state[environment %zu, column %zu]", at / size, at % size);
  return number_difference(name, &a->env_state[at], &b->env_state[at]);
}

char *checkpoint_difference(const struct checkpoint *a, const struct checkpoint *b) {
  if (strcmp(a->task_name, b->task_name) != 0) return difference("task: %s and %s", a->task_name, b->task_name);
  char *d = counters_difference(a, b);
  if (d == NULL) d = layout_difference(a, b);
  if (d == NULL) d = floats_difference("parameters", a, a->parameters, b->parameters);
  if (d == NULL) d = floats_difference("adam/m", a, a->adam_m, b->adam_m);
  if (d == NULL) d = floats_difference("adam/v", a, a->adam_v, b->adam_v);
  if (d == NULL) d = normalizer_difference(a, b);
  if (d == NULL) d = acting_difference(a, b);
  return d != NULL ? d : states_difference(a, b);
}

// --- Descriptions. The texts come from a file: nothing in them may reach a terminal's controls or break JSON ---

// Lines begin with `margin`; the last one ends here also where the text does not.
static void print_lines(const char *text, const char *margin, FILE *out) {
  bool begins = true;
  for (const unsigned char *s = (const unsigned char *)(text ? text : ""); *s != '\0';) {
    const size_t length = text_character(s);
    if (begins) fputs(margin, out);
    begins = *s == '\n';
    if (begins || *s == '\t') fputc(*s, out);
    else if (length == 0 || text_is_control(s)) fputc('?', out);
    else fwrite(s, 1, length, out);
    s += length ? length : 1;
  }
  if (!begins) fputc('\n', out);
}

static void print_json_number(const char *name, double value, FILE *out) {
  if (isfinite(value)) fprintf(out, ", \"%s\": %.17g", name, value);
  else fprintf(out, ", \"%s\": null", name);
}

static double norm(const float *values, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += (double)values[i] * (double)values[i];
  return sqrt(sum);
}

// Bytes of the file, 0 when there is none.
static int64_t file_size(const char *path) {
  struct stat status;
  return path != NULL && stat(path, &status) == 0 ? (int64_t)status.st_size : 0;
}

static void describe_json(const struct checkpoint *c, const char *path, FILE *out) {
  fputs("{\"path\": ", out);
  text_print_json(path, out);
  fprintf(out, ", \"bytes\": %" PRId64 ", \"format\": %d, \"task\": ", file_size(path), CHECKPOINT_FORMAT_VERSION);
  text_print_json(c->task_name, out);
  fprintf(out, ", \"iteration\": %" PRId64 ", \"env_steps\": %" PRId64 ", \"episodes\": %" PRId64, c->iteration,
          c->env_steps, c->episodes);
  print_json_number("wall_seconds", c->wall_seconds, out);
  print_json_number("best_return", c->best_return, out);
  fprintf(out, ", \"adam_step\": %" PRId64 ", \"parameter_count\": %zu, \"tensors\": [", c->adam_step,
          c->parameter_count);
  for (int i = 0; i < c->tensor_count; ++i) {
    const struct tensor_name *t = &c->tensors[i];
    const size_t size = tensor_size(t);
    fputs(i ? ", {\"name\": " : "{\"name\": ", out);
    text_print_json(t->name, out);
    if (t->cols) fprintf(out, ", \"shape\": [%d, %d]", t->rows, t->cols);
    else fprintf(out, ", \"shape\": [%d]", t->rows);
    print_json_number("norm", norm(c->parameters + t->offset, size), out);
    print_json_number("adam_m_norm", norm(c->adam_m + t->offset, size), out);
    print_json_number("adam_v_norm", norm(c->adam_v + t->offset, size), out);
    fputc('}', out);
  }
  fprintf(out, "], \"obs_dim\": %d", c->obs_dim);
  print_json_number("normalizer_count", c->normalizer_count, out);
  fprintf(out, ", \"envs\": %" PRId64 ", \"state_size\": %" PRId64 ", \"config\": ", c->envs, c->state_size);
  text_print_json(c->config_text, out);
  fputs("}\n", out);
}

static void print_row(const char *title, const char *text, FILE *out) {
  fprintf(out, "%-14s", title);
  print_lines(text != NULL && *text != '\0' ? text : "-", "", out);
}

static void describe_counters(const struct checkpoint *c, FILE *out) {
  const int64_t seconds = c->wall_seconds >= 0 && c->wall_seconds < 1e15 ? (int64_t)c->wall_seconds : 0;
  fprintf(out, "iteration     %" PRId64 "\nenv steps     %" PRId64 "\nepisodes      %" PRId64 "\n", c->iteration,
          c->env_steps, c->episodes);
  fprintf(out, "wall time     %" PRId64 ":%02d:%02d\n", seconds / 3600, (int)(seconds / 60 % 60), (int)(seconds % 60));
  if (isfinite(c->best_return)) fprintf(out, "best return   %g\n", c->best_return);
  else fputs("best return   none yet\n", out);
  fprintf(out, "adam step     %" PRId64 "\n", c->adam_step);
  fprintf(out, "environments  %" PRId64 ", %" PRId64 " numbers each\n", c->envs, c->state_size);
  fprintf(out, "normalizer    %d observations, count %.15g\n", c->obs_dim, c->normalizer_count);
}

static void describe_tensors(const struct checkpoint *c, FILE *out) {
  int widest = (int)strlen("tensor");
  for (int i = 0; i < c->tensor_count; ++i)
    if ((int)strlen(c->tensors[i].name) > widest) widest = (int)strlen(c->tensors[i].name);
  fprintf(out, "parameters    %zu in %d tensors\n\n", c->parameter_count, c->tensor_count);
  fprintf(out, "  %-*s  %-14s %12s %12s %12s\n", widest, "tensor", "shape", "norm", "adam m norm", "adam v norm");
  for (int i = 0; i < c->tensor_count; ++i) {
    const struct tensor_name *t = &c->tensors[i];
    const size_t size = tensor_size(t);
    char shape[NUMBER_BYTES];
    if (t->cols) snprintf(shape, sizeof shape, "[%d, %d]", t->rows, t->cols);
    else snprintf(shape, sizeof shape, "[%d]", t->rows);
    fprintf(out, "  %-*s  %-14s %12.5g %12.5g %12.5g\n", widest, t->name, shape, norm(c->parameters + t->offset, size),
            norm(c->adam_m + t->offset, size), norm(c->adam_v + t->offset, size));
  }
}

void checkpoint_describe(const struct checkpoint *c, const char *path, bool json, FILE *out) {
  if (json) {
    describe_json(c, path, out);
    return;
  }
  print_row("checkpoint", path, out);
  fprintf(out, "size          %" PRId64 " bytes, format %d\n", file_size(path), CHECKPOINT_FORMAT_VERSION);
  print_row("task", c->task_name, out);
  describe_counters(c, out);
  describe_tensors(c, out);
  fputs("\nconfig\n", out);
  print_lines(c->config_text, "  ", out);
}
