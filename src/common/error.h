// One error value, built where the fault is seen, returned upward, printed once by main.
#ifndef FLOWRANK_ERROR_H
#define FLOWRANK_ERROR_H

#include <stddef.h>

// Exit codes of the executable; batch scripts act on them (docs/operations).
enum exit_code {
  EXIT_CODE_DONE = 0,     // the work is complete
  EXIT_CODE_FAILED = 1,   // anything that is not the user's wording
  EXIT_CODE_USAGE = 2,    // command line or configuration
  EXIT_CODE_STOPPED = 75, // EX_TEMPFAIL: stopped early with a complete checkpoint
};

// A null pointer means success. Whoever receives an error owns it.
struct error {
  int code;   // an exit_code
  char *text; // one line, no newline
};

#define MUST_USE __attribute__((warn_unused_result))
#define NEVER_NULL __attribute__((returns_nonnull))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

// Builds an error from a format. Never returns null (falls back to a static out-of-memory error).
struct error *error_new(int code, const char *format, ...) MUST_USE NEVER_NULL PRINTF_LIKE(2, 3);

// The error of an allocation of `what` that failed.
MUST_USE static inline struct error *error_no_memory(const char *what) {
  struct error *e = error_new(EXIT_CODE_FAILED, "out of memory for %s", what);
  if (e == NULL) __builtin_unreachable(); // the static analyser takes no word for it
  return e;
}

// Puts "<prefix>: " before the text; takes `e` and returns it (null stays null).
struct error *error_prefix(struct error *e, const char *format, ...) MUST_USE PRINTF_LIKE(2, 3);

void error_free(struct error *e);

// For "did you mean": the candidate nearest to `word` by edit distance, or null when none is near. The strings stay the
// caller's.
const char *nearest_word(const char *word, int count, const char *const *candidates);

// Returns the error of a call to the caller, where nothing is held that must be given back first.
#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    struct error *try_error_ = (call);                                                                                 \
    if (try_error_ != NULL) return try_error_;                                                                         \
  } while (0)

#endif
