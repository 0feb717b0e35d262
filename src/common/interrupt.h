// A question that long work asks between its steps: is the rest still wanted?
#ifndef FLOWRANK_INTERRUPT_H
#define FLOWRANK_INTERRUPT_H

#include <stdbool.h>
#include <stddef.h>

// asked: null, or to be called from any thread, between steps that take milliseconds.
struct interrupt {
  bool (*asked)(void *context);
  void *context;
};

static inline bool interrupted(const struct interrupt *i) { return i->asked != NULL && i->asked(i->context); }

#endif
