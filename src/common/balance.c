#include "common/balance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/config.h"

enum work { ACT = 1, LEARN = 2 };

static double known_mean(const struct rates *r, enum work work) {
  double sum = 0, count = 0;
  for (int i = 0; i < r->ranks; ++i) {
    const double seconds = work == ACT ? r->rank[i].act : r->rank[i].learn;
    if (isnan(seconds)) continue;
    sum += seconds;
    count += 1;
  }
  return count > 0 ? sum / count : 0;
}

// Seconds of a shard's `work`, one of ACT and LEARN or both.
static double shard_seconds(const struct rates *r, int rank, int work, double act_mean, double learn_mean) {
  const struct rank_rates *own = &r->rank[rank];
  double seconds = 0;
  if (work & ACT) seconds += isnan(own->act) ? act_mean : own->act;
  if (work & LEARN) seconds += isnan(own->learn) ? learn_mean : own->learn;
  return seconds;
}

// Threads take whole shards.
static double rounds(int shards, int threads) { return ceil((double)shards / threads); }

// count [ranks]: shards of each of the ranks first..last-1.
static void share_out(int shards, int first, int last, int work, const struct rates *r, int *count) {
  const double act = known_mean(r, ACT), learn = known_mean(r, LEARN);
  memset(count, 0, (size_t)r->ranks * sizeof *count);
  if (work & LEARN) count[0] = 1;
  for (int s = work & LEARN ? 1 : 0; s < shards; ++s) {
    int best = first;
    double best_done = INFINITY;
    for (int i = first; i < last; ++i) {
      const double done = rounds(count[i] + 1, r->rank[i].threads) * shard_seconds(r, i, work, act, learn);
      if (done > best_done || (done == best_done && count[i] >= count[best])) continue;
      best = i;
      best_done = done;
    }
    count[best]++;
  }
}

// Neighbouring shards lie together.
static void lay_out(const int *count, int ranks, int *rank_of) {
  for (int i = 0, s = 0; i < ranks; ++i)
    for (int n = 0; n < count[i]; ++n) rank_of[s++] = i;
}

struct error *placement_by_rates(struct placement *p, int shards, int learners, const struct rates *r) {
  const bool together = learners == LEARNERS_ALL;
  int *count = malloc((size_t)r->ranks * sizeof *count);
  struct error *e = placement_alloc(p, shards, r->ranks);
  if (e == NULL && count == NULL) e = error_no_memory("the placement of shards");
  if (e == NULL) {
    share_out(shards, 0, together ? r->ranks : learners, together ? ACT | LEARN : LEARN, r, count);
    lay_out(count, r->ranks, p->learner_of);
    for (int i = 0; i < r->ranks; ++i) p->learners += count[i] > 0;
    if (!together) share_out(shards, learners, r->ranks, ACT, r, count);
    lay_out(count, r->ranks, p->actor_of);
  } else placement_free(p);
  free(count);
  return e;
}

double placement_seconds(const struct placement *p, const struct rates *r) {
  const double act_mean = known_mean(r, ACT), learn_mean = known_mean(r, LEARN);
  double act = 0, learn = 0;
  int crossing = 0; // most trajectories that come to one rank
  bool apart = r->overlap;
  for (int i = 0; i < r->ranks; ++i) {
    const int threads = r->rank[i].threads;
    const double acting = shard_seconds(r, i, ACT, act_mean, learn_mean);
    const double learning = shard_seconds(r, i, LEARN, act_mean, learn_mean);
    int come = 0;
    apart = apart && (placement_count(p, p->actor_of, i) == 0 || placement_count(p, p->learner_of, i) == 0);
    for (int s = 0; s < p->shards; ++s) come += p->learner_of[s] == i && p->actor_of[s] != i;
    act = fmax(act, rounds(placement_count(p, p->actor_of, i), threads) * acting);
    learn = fmax(learn, rounds(placement_count(p, p->learner_of, i), threads) * learning);
    if (come > crossing) crossing = come;
  }
  // shards travel while others are acted on; the last one does not
  const double wire = crossing > 0 ? fmax(r->wire, crossing * r->wire - act) : 0;
  const double collecting = act + wire, learning = learn + ceil(log2(p->learners)) * r->sum;
  return apart ? fmax(collecting, learning) : collecting + learning;
}

static struct error *consider(int shards, int learners, const struct rates *r, struct learners_choice *choice) {
  struct placement p;
  TRY(placement_even(&p, shards, learners, r->ranks));
  const double seconds = placement_seconds(&p, r);
  placement_free(&p);
  if (seconds < choice->predicted) {
    choice->runner_up = choice->predicted, choice->other = choice->learners;
    choice->predicted = seconds, choice->learners = learners;
  } else if (seconds < choice->runner_up) choice->runner_up = seconds, choice->other = learners;
  return NULL;
}

struct error *balance_learners(int shards, const struct rates *r, struct learners_choice *choice) {
  *choice = (struct learners_choice){.predicted = INFINITY, .runner_up = INFINITY};
  if (r->ranks <= shards) TRY(consider(shards, LEARNERS_ALL, r, choice));
  for (int k = 1; k < r->ranks && k <= shards; k *= 2)
    if (r->ranks - k <= shards) TRY(consider(shards, k, r, choice));
  if (choice->learners == 0) TRY(consider(shards, r->ranks - shards, r, choice)); // the only one with work for all
  return NULL;
}
