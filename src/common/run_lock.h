// One job on a run folder. RUN/run.lock names its holder: host, process, job. A thread of the holder touches the file
// (its heartbeat), so that other hosts can tell a long iteration from a dead node.
#ifndef FLOWRANK_RUN_LOCK_H
#define FLOWRANK_RUN_LOCK_H

#include "common/error.h"

enum { RUN_LOCK_BEAT_SECONDS = 5, RUN_LOCK_STALE_SECONDS = 120, RUN_LOCK_WATCH_SECONDS = 8 };

struct run_lock;

// Refuses a folder whose holder lives. Touches nothing but a dead holder's lock, which it removes.
struct error *run_lock_look(const char *run) MUST_USE;

// Makes this process the holder. A dead holder's lock is taken over. Dead: on this machine when its process is gone (or
// another one has its number); on others when its heartbeat is RUN_LOCK_STALE_SECONDS from now and does not beat for
// RUN_LOCK_WATCH_SECONDS, or when it is an earlier start of this very SLURM job. *lock is freed by run_lock_release, which takes null too.
struct error *run_lock_take(const char *run, struct run_lock **lock) MUST_USE;

// An error when another job has taken the lock over (this process was thought dead); a lock that is missing is put back.
struct error *run_lock_check(const struct run_lock *lock) MUST_USE;

// Removes the file, where it is still this process's.
void run_lock_release(struct run_lock *lock);

#endif
