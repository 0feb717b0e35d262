#include "common/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

enum { PATH_BYTES = 4096, TEXT_BYTES = 1024, NAME_BYTES = 256, MACHINE_BYTES = 128 };
enum { PATIENCE_SECONDS = 2, NAP_NANOSECONDS = 50000000 }; // a killed job's processes need a moment to be gone

struct run_lock {
  char path[PATH_BYTES], run[PATH_BYTES];
  char text[TEXT_BYTES]; // what the file holds while it is ours
  pthread_t heart;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  bool held, beating, released;
};

// Who holds a lock, as its file tells.
struct holder {
  char host[NAME_BYTES], job[NAME_BYTES];
  char machine[MACHINE_BYTES]; // the boot and the space in which the process number counts
  long pid;
  unsigned long long start; // of the process, in ticks since the boot
  int restart;              // of the SLURM job
  double age;               // seconds since the newest heartbeat; less than 0 where a clock was set back
  struct timespec beat;     // when that was
  char text[TEXT_BYTES];
};

// The first word of a text, or "-".
static void word_of(const char *text, char *word, size_t size) {
  const size_t length = text ? strcspn(text, " \t\r\n") : 0;
  snprintf(word, size, "%.*s", length > 0 ? (int)length : 1, length > 0 ? text : "-");
}

// --- Processes ---

// When a process of this machine began; 0 when there is none (a zombie is none).
static unsigned long long start_of(long pid) {
  char path[64], text[1024] = "", state;
  unsigned long long start;
  snprintf(path, sizeof path, "/proc/%ld/stat", pid);
  FILE *f = fopen(path, "r");
  if (f == NULL) return 0;
  text[fread(text, 1, sizeof text - 1, f)] = '\0';
  fclose(f);
  const char *rest = strrchr(text, ')'); // behind the program's name
  if (rest == NULL || sscanf(rest + 1,
                             " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d"
                             " %llu", // NOLINT(cert-err34-c): the kernel's own number
                             &state, &start) != 2)
    return 0;
  return state == 'Z' || state == 'X' ? 0 : start;
}

static void this_machine(char *machine) {
  char boot[64] = "", space[64] = "";
  FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
  if (f != NULL) {
    if (fgets(boot, sizeof boot, f) == NULL) boot[0] = '\0';
    fclose(f);
  }
  boot[strcspn(boot, "\n")] = '\0';
  if (readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = '\0';
  snprintf(machine, MACHINE_BYTES, "%s/%s", boot, space);
}

static void describe_me(char text[TEXT_BYTES]) {
  char host[NAME_BYTES] = "", word[NAME_BYTES], job[NAME_BYTES], machine[MACHINE_BYTES];
  const char *restart = getenv("SLURM_RESTART_COUNT");
  gethostname(host, sizeof host - 1);
  word_of(host, word, sizeof word);
  word_of(getenv("SLURM_JOB_ID"), job, sizeof job);
  this_machine(machine);
  snprintf(text, TEXT_BYTES, "host %s pid %ld job %s restart %d start %llu machine %s\n", word, (long)getpid(), job,
           restart ? atoi(restart) : 0, start_of((long)getpid()), machine);
}

static bool parse_holder(struct holder *h) {
  return strchr(h->text, '\n') != NULL &&
         sscanf(h->text, "host %255s pid %ld job %255s restart %d start %llu machine %127s", h->host, &h->pid, h->job,
                &h->restart, &h->start, h->machine) == 6; // NOLINT(cert-err34-c): flowrank's own text
}

// --- The file ---

static struct error *lock_failed(const char *path, const char *doing) {
  return error_new(EXIT_CODE_FAILED, "%s: cannot %s it: %s", path, doing, strerror(errno));
}

// 1: read; 0: there is none; -1: errno.
static int read_holder(const char *path, struct holder *h) {
  struct stat status;
  struct timespec now;
  *h = (struct holder){0};
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno == ENOENT || errno == ENOTDIR ? 0 : -1;
  const ssize_t got = pread(fd, h->text, sizeof h->text - 1, 0);
  const bool good = got >= 0 && fstat(fd, &status) == 0;
  const int failure = errno;
  close(fd);
  errno = failure;
  if (!good) return -1;
  clock_gettime(CLOCK_REALTIME, &now);
  h->age = difftime(now.tv_sec, status.st_mtim.tv_sec);
  h->beat = status.st_mtim;
  if (!parse_holder(h)) h->pid = 0; // being written, or by something else
  return 1;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = NAP_NANOSECONDS}, NULL); }

// Clocks jump, and hosts differ in theirs: one that calls a holder dead is not believed before the heart has missed a beat
// under our eyes.
static bool is_beating(const char *path, const struct holder *h) {
  const double began = clock_seconds();
  struct holder now;
  if (fabs(h->age) < RUN_LOCK_STALE_SECONDS) return true;
  while (clock_seconds() - began < RUN_LOCK_WATCH_SECONDS) {
    nap();
    if (read_holder(path, &now) != 1 || strcmp(now.text, h->text) != 0) return true; // another one's by now
    if (now.beat.tv_sec != h->beat.tv_sec || now.beat.tv_nsec != h->beat.tv_nsec) return true;
  }
  return false;
}

static bool is_alive(const char *path, const struct holder *h) {
  struct holder me = {0};
  describe_me(me.text);
  if (h->pid == 0 || !parse_holder(&me)) return is_beating(path, h);
  if (strcmp(h->machine, me.machine) == 0) return start_of(h->pid) == h->start;
  if (strcmp(h->job, "-") != 0 && strcmp(h->job, me.job) == 0 && h->restart < me.restart) return false;
  return is_beating(path, h);
}

static struct error *refuse(const char *run, const struct holder *h) {
  if (h->pid == 0)
    return error_new(EXIT_CODE_FAILED,
                     "%s is in use: its run.lock names no holder; it counts as left behind %d s after its last change",
                     run, RUN_LOCK_STALE_SECONDS);
  const bool job = strcmp(h->job, "-") != 0;
  return error_new(EXIT_CODE_FAILED,
                   "%s is in use by process %ld on host %s%s%s: wait for its end, or give another --run", run, h->pid,
                   h->host, job ? ", job " : "", job ? h->job : "");
}

static bool lock_path(const char *run, char path[PATH_BYTES]) {
  return snprintf(path, PATH_BYTES, "%s/run.lock", run) < PATH_BYTES;
}

// A new file with our text: 1; 0: there is one already; -1: errno. Creating exclusively is atomic on NFS, too.
static int create(const struct run_lock *lock) {
  const int fd = open(lock->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return errno == EEXIST ? 0 : -1;
  const size_t length = strlen(lock->text);
  bool good = write(fd, lock->text, length) == (ssize_t)length;
  int failure = errno;
  if (close(fd) != 0) {
    if (good) failure = errno;
    good = false;
  }
  if (good) return 1;
  unlink(lock->path);
  errno = failure;
  return -1;
}

// Takes a dead holder's file away. Another job may do the same at this moment: what was moved must be what was read.
static struct error *remove_dead(const char *path, const struct holder *dead) {
  char aside[PATH_BYTES + 32];
  struct holder moved;
  snprintf(aside, sizeof aside, "%s.%ld.tmp", path, (long)getpid());
  if (rename(path, aside) != 0) return errno == ENOENT ? NULL : lock_failed(path, "take over");
  if (read_holder(aside, &moved) == 1 && strcmp(moved.text, dead->text) != 0) rename(aside, path);
  else unlink(aside);
  return NULL;
}

struct error *run_lock_look(const char *run) {
  char path[PATH_BYTES];
  struct holder h;
  if (!lock_path(run, path)) return NULL; // named later, as what it is
  const double until = clock_seconds() + PATIENCE_SECONDS;
  do {
    if (read_holder(path, &h) <= 0) return NULL;
    if (!is_alive(path, &h)) return remove_dead(path, &h); // now, so that nobody has to watch it again
    nap();
  } while (clock_seconds() < until);
  return refuse(run, &h);
}

static struct error *take(const struct run_lock *lock) {
  struct holder h;
  double until = clock_seconds() + PATIENCE_SECONDS;
  do {
    const int made = create(lock);
    if (made == 1) return NULL;
    if (made < 0) return lock_failed(lock->path, "create");
    const int found = read_holder(lock->path, &h);
    if (found < 0) return lock_failed(lock->path, "read");
    if (found == 1 && !is_alive(lock->path, &h)) {
      TRY(remove_dead(lock->path, &h));
      until = clock_seconds() + PATIENCE_SECONDS;
    } else nap();
  } while (clock_seconds() < until);
  return refuse(lock->run, &h);
}

// --- The heartbeat ---

static bool is_ours(const struct run_lock *lock) {
  struct holder h;
  return read_holder(lock->path, &h) == 1 && strcmp(h.text, lock->text) == 0;
}

static void *beat(void *context) {
  struct run_lock *lock = context;
  pthread_mutex_lock(&lock->mutex);
  while (!lock->released) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += RUN_LOCK_BEAT_SECONDS;
    if (pthread_cond_timedwait(&lock->wake, &lock->mutex, &until) == 0) continue;
    if (is_ours(lock)) utimensat(AT_FDCWD, lock->path, NULL, 0); // a failure shows as an old heartbeat, nowhere else
  }
  pthread_mutex_unlock(&lock->mutex);
  return NULL;
}

// Signals are the other threads' business.
static bool start_heart(struct run_lock *lock) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const bool good = pthread_create(&lock->heart, NULL, beat, lock) == 0;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return good;
}

struct error *run_lock_take(const char *run, struct run_lock **out) {
  struct run_lock *lock = *out = calloc(1, sizeof *lock);
  if (lock == NULL) return error_no_memory("the run folder's lock");
  pthread_mutex_init(&lock->mutex, NULL);
  pthread_condattr_t by_clock;
  pthread_condattr_init(&by_clock);
  pthread_condattr_setclock(&by_clock, CLOCK_MONOTONIC);
  pthread_cond_init(&lock->wake, &by_clock);
  pthread_condattr_destroy(&by_clock);
  snprintf(lock->run, sizeof lock->run, "%s", run);
  describe_me(lock->text);
  struct error *e = NULL;
  if (!lock_path(run, lock->path)) e = error_new(EXIT_CODE_USAGE, "the run folder's name is too long: %.200s..", run);
  if (e == NULL) e = take(lock);
  lock->held = e == NULL;
  if (e == NULL && !(lock->beating = start_heart(lock)))
    e = error_new(EXIT_CODE_FAILED, "cannot start a thread: %s", strerror(errno));
  if (e == NULL) return NULL;
  run_lock_release(lock);
  *out = NULL;
  return e;
}

struct error *run_lock_check(const struct run_lock *lock) {
  struct holder h;
  const int found = read_holder(lock->path, &h);
  if (found == 1 && strcmp(h.text, lock->text) != 0)
    return error_prefix(refuse(lock->run, &h), "this job was thought dead and lost its run folder");
  if (found == 0 && create(lock) == 0) return run_lock_check(lock);
  return NULL; // unreadable just now: whoever takes it over must wait longer than that
}

void run_lock_release(struct run_lock *lock) {
  if (lock == NULL) return;
  if (lock->beating) {
    pthread_mutex_lock(&lock->mutex);
    lock->released = true;
    pthread_cond_signal(&lock->wake);
    pthread_mutex_unlock(&lock->mutex);
    pthread_join(lock->heart, NULL);
  }
  if (lock->held && is_ours(lock)) unlink(lock->path);
  pthread_cond_destroy(&lock->wake);
  pthread_mutex_destroy(&lock->mutex);
  free(lock);
}
