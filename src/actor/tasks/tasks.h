// The families of tasks; each lives in a file of its own and is entered in actor/task.c.
#ifndef FLOWRANK_TASKS_H
#define FLOWRANK_TASKS_H

#include "actor/task.h"

struct task_family {
  int count;
  const struct task_kind *kinds; // [count]
};

extern const struct task_family cartpole_family;

#endif
