// Forced into every source that clang-tidy reads: tells its analyser what error.h promises (no null from error_new, nor
// from error_prefix unless it is given one), which it cannot see in error.c and would take for missed errors.
#include "common/error.h"

static inline struct error *not_null_if(const void *given, struct error *e) {
  if (given && !e) __builtin_unreachable();
  return e;
}
#define error_new(...) not_null_if("", (error_new)(__VA_ARGS__))
#define error_no_memory(what) not_null_if("", (error_no_memory)(what))
#define error_prefix(e, ...)                                                                                           \
  __extension__({                                                                                                      \
    struct error *const given_ = (e);                                                                                  \
    not_null_if(given_, (error_prefix)(given_, __VA_ARGS__));                                                          \
  })
