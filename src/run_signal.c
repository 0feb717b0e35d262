#include "run.h"

#include <math.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"

// The only global state: what signal has come.
static volatile sig_atomic_t signal_received;

static void on_signal(int number) { signal_received = number; }

void run_watch_signals(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  action.sa_flags = SA_RESTART | (int)SA_RESETHAND; // the second SIGINT ends the process at once
  sigaction(SIGINT, &action, NULL);
}

int run_signal(void) { return signal_received; }

// Any rank tells rank 0 of its signal, by a note. Rank 0 knows how long an iteration takes: when the running one does not
// fit into the grace, it gives it up and tells all ranks, by a note. These leave out the work that is left, but none of
// the messages, so that the iteration ends as any other; at its end all ranks agree on whether it was complete.

static const double grace_for_work = 0.75; // the rest is for the checkpoint

static void give_up(struct run *r) {
  atomic_store(&r->dropped, r->running);
  for (int to = 1; to < comm_size(r->comm); ++to) error_free(comm_note_send(r->comm, to, r->running));
}

static void look_on_rank_0(struct run *r, double now) {
  int64_t note;
  while (comm_note_receive(r->comm, &note)) r->signalled = true;
  if (r->running < 0) return;
  if ((!signal_received && !r->signalled) || atomic_load(&r->dropped) == r->running) return;
  if (r->signal_time == 0) r->signal_time = now;
  const double left = fmax(0, r->running_since + r->last_iteration_seconds - now); // 0 in the first: it may yet end
  if (now + left > r->signal_time + grace_for_work * r->options->grace) give_up(r);
}

static void look(struct run *r, double now) {
  int64_t note;
  comm_live(r->comm);
  if (comm_rank(r->comm) == 0) {
    look_on_rank_0(r, now);
    return;
  }
  if (signal_received && !r->told) error_free(comm_note_send(r->comm, 0, signal_received));
  r->told = signal_received != 0;
  while (comm_note_receive(r->comm, &note)) atomic_store(&r->dropped, note);
}

bool run_is_dropped(void *run) {
  struct run *r = run;
  const double now = clock_seconds(), pause = 0.002;
  if (now >= atomic_load(&r->next_look)) {
    atomic_store(&r->next_look, now + pause);
#pragma omp critical(look)
    look(r, now);
  }
  return (r->running >= 0 && atomic_load(&r->dropped) == r->running) || comm_torn(r->comm);
}

void run_keep_learned(struct run *r) {
  const struct learned *l = &r->learned;
  memcpy(r->kept, l->parameters, 3 * l->count * sizeof(float)); // with Adam's moments
  memcpy(r->kept_moments, l->normalizer.moments, moments_size(r->task->obs_dim) * sizeof(double));
  r->kept_adam_step = l->adam_step;
}

void run_return_to_kept(struct run *r) {
  struct learned *l = &r->learned;
  memcpy(l->parameters, r->kept, 3 * l->count * sizeof(float));
  memcpy(l->normalizer.moments, r->kept_moments, moments_size(r->task->obs_dim) * sizeof(double));
  l->adam_step = r->kept_adam_step;
}

void run_kept_is_previous(struct run *r) {
  memcpy(r->previous, r->kept, r->learned.count * sizeof(float));
  memcpy(r->previous_moments, r->kept_moments, moments_size(r->task->obs_dim) * sizeof(double));
}

void run_return_to_previous(struct run *r) {
  memcpy(r->learned.parameters, r->previous, r->learned.count * sizeof(float));
  memcpy(r->learned.normalizer.moments, r->previous_moments, moments_size(r->task->obs_dim) * sizeof(double));
}
