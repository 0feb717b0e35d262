#include "common/error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/text.h"

// What error_new returns when there is no memory to say anything better. Never written to, never freed.
static struct error out_of_memory = {.code = EXIT_CODE_FAILED, .text = (char[]){"out of memory"}};

// Bytes of the character at `s`, or 0 where a terminal or a log should not see the byte as it is: control characters, the
// Unicode line separators, and anything that is not UTF-8.
static size_t printable_length(const unsigned char *s) {
  const size_t length = text_character(s);
  const bool separator = length == 3 && s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9);
  return separator || text_is_control(s) ? 0 : length;
}

// A copy of `text` on one line: what a message quotes from a file or a command line cannot break it. Null: no memory.
static char *one_line(const char *text) {
  char *copy = malloc(4 * strlen(text) + 1);
  if (copy == NULL) return NULL;
  char *out = copy;
  for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
    size_t length = printable_length(s);
    if (length == 0) {
      static const char digits[] = "0123456789abcdef";
      *out++ = '\\', *out++ = 'x', *out++ = digits[*s >> 4], *out++ = digits[*s & 15];
      s++;
    } else {
      memcpy(out, s, length);
      out += length, s += length;
    }
  }
  *out = '\0';
  return copy;
}

struct error *error_new(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char *raw = NULL;
  if (vasprintf(&raw, format, arguments) < 0) raw = NULL;
  va_end(arguments);
  if (raw == NULL) return &out_of_memory;

  char *text = one_line(raw);
  free(raw);
  struct error *e = malloc(sizeof *e);
  if (text == NULL || e == NULL) {
    free(text);
    free(e);
    return &out_of_memory;
  }
  *e = (struct error){.code = code, .text = text};
  return e;
}

struct error *error_prefix(struct error *e, const char *format, ...) {
  if (e == NULL) return NULL;
  va_list arguments;
  va_start(arguments, format);
  char *prefix = NULL;
  if (vasprintf(&prefix, format, arguments) < 0) prefix = NULL;
  va_end(arguments);
  if (prefix == NULL) return e; // the error as it is says more than "out of memory"

  struct error *longer = error_new(e->code, "%s: %s", prefix, e->text);
  free(prefix);
  if (longer == &out_of_memory) return e;
  error_free(e);
  return longer;
}

void error_free(struct error *e) {
  if (e == NULL || e == &out_of_memory) return;
  free(e->text);
  free(e);
}

// Edits (insert, delete, replace, swap of neighbours; case is free) from a to b; a large number for very long words.
static size_t edit_distance(const char *a, const char *b) {
  enum { LONGEST = 64 };
  size_t rows[3][LONGEST + 1], *before = rows[0], *above = rows[1], *here = rows[2];
  size_t a_length = strlen(a), b_length = strlen(b);
  if (a_length > LONGEST || b_length > LONGEST) return SIZE_MAX;
  for (size_t j = 0; j <= b_length; j++) above[j] = before[j] = j;
  for (size_t i = 1; i <= a_length; i++) {
    here[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      int x = tolower((unsigned char)a[i - 1]), y = tolower((unsigned char)b[j - 1]);
      size_t best = above[j - 1] + (x != y);
      if (above[j] + 1 < best) best = above[j] + 1;
      if (here[j - 1] + 1 < best) best = here[j - 1] + 1;
      bool swapped = i > 1 && j > 1 && x == tolower((unsigned char)b[j - 2]) && y == tolower((unsigned char)a[i - 2]);
      if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
      here[j] = best;
    }
    size_t *oldest = before;
    before = above, above = here, here = oldest;
  }
  return above[b_length];
}

const char *nearest_word(const char *word, int count, const char *const *candidates) {
  size_t length = strlen(word);
  size_t limit = length <= 4 ? 1 : length <= 8 ? 2 : 3; // beyond this a suggestion looks silly
  const char *nearest = NULL;
  for (int i = 0; i < count; i++) {
    size_t distance = edit_distance(word, candidates[i]);
    if (distance > limit || distance >= length || (nearest != NULL && distance == limit)) continue;
    nearest = candidates[i];
    limit = distance;
  }
  return nearest;
}
