#include "run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/balance.h"
#include "common/clock.h"

// What is measured of an iteration varies, most of all on a machine that others use. A rate is the median of the newest
// WINDOW iterations; shards move when by such rates it would have paid for a while; and the WINDOW iterations after it have
// to be faster than those before, or the shards go back. The first iteration under a placement warms up and counts for
// nothing.
enum { WINDOW = 3, FORGET = 50, TEXT_BYTES = 512 };
static const double worth = 0.15; // the part of an iteration that moving has to save
static const double least = 0.02; // the same for auto
static const double persistent = 5,
                    most_patient = 3600; // seconds for which that has to be so; longer after each failure

enum phase { MEASURE, VERIFY, SETTLED }; // MEASURE: auto has not chosen yet

struct cost {
  double act, learn; // seconds of a shard on one thread; NaN: this rank had none
  int threads;
};

// Rank 0 needs all of it, the others know of wire, ranks and previous.
struct balance {
  enum phase phase;
  int ranks, since;            // since: iterations under this placement
  double wire, sum;            // see struct rates
  struct cost *cost;           // [ranks], as gathered
  struct cost *window;         // [WINDOW, ranks]
  double iteration[WINDOW];    // seconds
  struct rank_rates *measured; // [ranks]: the window's medians
  int *idle;                   // [ranks]: iterations for which the rank has had no shard
  int wanted;                  // iterations for which it would have paid to move,
  double wanted_since;         // and when the first of them ended
  double patience;
  double seconds, before;    // the window's median under this placement, and under the one before it
  struct placement previous; // the one before it
  int previous_mode;
};

struct error *run_balance_init(struct run *r) {
  const bool automatic = r->config.cluster.learners == LEARNERS_AUTO;
  const size_t ranks = (size_t)comm_size(r->comm);
  if (ranks == 1 || (!automatic && r->config.cluster.rebalance == REBALANCE_OFF)) return NULL;
  struct balance *b = r->balance = calloc(1, sizeof *b);
  if (b == NULL) return error_no_memory("the ranks' rates");
  *b = (struct balance){.phase = automatic ? MEASURE : SETTLED, .patience = persistent};
  b->cost = calloc(ranks, sizeof *b->cost);
  b->window = calloc(WINDOW * ranks, sizeof *b->window);
  b->measured = calloc(ranks, sizeof *b->measured);
  b->idle = calloc(ranks, sizeof *b->idle);
  if (!b->cost || !b->window || !b->measured || !b->idle) return error_no_memory("the ranks' rates");
  run_balance_restart(r);
  return NULL;
}

void run_balance_restart(struct run *r) {
  struct balance *b = r->balance;
  const int ranks = comm_size(r->comm);
  if (r->mode >= ranks) r->mode = LEARNERS_ALL; // the actors are gone
  if (b == NULL) return;
  b->since = b->wanted = 0;
  b->before = b->seconds;
  if (b->ranks == ranks) return;
  b->ranks = ranks; // others than before, or others' numbers
  if (b->phase == VERIFY) b->phase = SETTLED;
  for (int i = 0; i < ranks; ++i) b->measured[i] = (struct rank_rates){NAN, NAN, 1}, b->idle[i] = 0;
}

void run_balance_free(struct run *r) {
  struct balance *b = r->balance;
  if (b == NULL) return;
  free(b->cost);
  free(b->window);
  free(b->measured);
  free(b->idle);
  placement_free(&b->previous);
  free(b);
}

// Seconds of a message of `bytes` from the last rank to rank 0, the least of some. memory: room for it.
static struct error *message_seconds(struct run *r, void *memory, size_t bytes, double *seconds) {
  enum { ROUNDS = 5 };
  const int me = comm_rank(r->comm), last = comm_size(r->comm) - 1;
  *seconds = INFINITY;
  for (int i = 0; i < ROUNDS; ++i) {
    int ready = 1;
    TRY(comm_max(r->comm, &ready));
    const double started = clock_seconds();
    if (me == last) TRY(comm_send(r->comm, 0, MESSAGE_TRAJECTORY, 0, memory, bytes));
    if (me == 0) TRY(comm_receive(r->comm, last, MESSAGE_TRAJECTORY, 0, memory, bytes));
    TRY(comm_wait(r->comm, MESSAGE_TRAJECTORY));
    *seconds = fmin(*seconds, clock_seconds() - started);
  }
  return NULL;
}

// Collective. A level of the sums is, for each step of the optimizer, moments and a gradient towards rank 0 and back.
static struct error *measure_wire(struct run *r) {
  struct balance *b = r->balance;
  const struct config *c = &r->config;
  const size_t gradient = (r->learned.count + 1) * sizeof(float), shard = r->layout.learner_bytes;
  void *memory = calloc(1, gradient > shard ? gradient : shard);
  double small = 0, large = 0;
  struct error *e = comm_agree(r->comm, memory ? NULL : error_no_memory("a message"));
  if (e == NULL) e = message_seconds(r, memory, shard, &b->wire);
  if (e == NULL) e = message_seconds(r, memory, sizeof(double), &small);
  if (e == NULL) e = message_seconds(r, memory, gradient, &large);
  b->sum = 2 * (double)(c->optimizer.epochs * c->optimizer.minibatches) * (small + large);
  free(memory);
  return e;
}

static double shard_seconds(double seconds, int shards, int threads) {
  return shards > 0 ? seconds / ceil((double)shards / threads) : NAN;
}

static struct cost own_cost(const struct run *r) {
  const struct placement *p = &r->placement;
  const int me = comm_rank(r->comm);
  return (struct cost){.act = shard_seconds(r->act_seconds, placement_count(p, p->actor_of, me), r->threads),
                       .learn = shard_seconds(r->learn_seconds, placement_count(p, p->learner_of, me), r->threads),
                       .threads = r->threads};
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// NaN where any of them is.
static double median(const double values[WINDOW]) {
  double sorted[WINDOW];
  for (int i = 0; i < WINDOW; ++i) {
    if (isnan(values[i])) return NAN;
    sorted[i] = values[i];
  }
  qsort(sorted, WINDOW, sizeof *sorted, ascending);
  return sorted[WINDOW / 2];
}

static void take_rates(struct balance *b, int rank) {
  struct rank_rates *m = &b->measured[rank];
  double act[WINDOW], learn[WINDOW];
  for (int w = 0; w < WINDOW; ++w) {
    act[w] = b->window[w * b->ranks + rank].act;
    learn[w] = b->window[w * b->ranks + rank].learn;
  }
  const struct rank_rates now = {median(act), median(learn), b->cost[rank].threads};
  m->threads = now.threads;
  if (!isnan(now.act)) m->act = now.act; // else it had no shard: what is known of it counts for a while
  if (!isnan(now.learn)) m->learn = now.learn;
  b->idle[rank] = isnan(now.act) && isnan(now.learn) ? b->idle[rank] + 1 : 0;
  if (b->idle[rank] > FORGET) *m = (struct rank_rates){NAN, NAN, now.threads};
}

// Takes what was gathered. True when the window is full.
static bool take_costs(struct run *r, double seconds) {
  struct balance *b = r->balance;
  if (++b->since == 1) return false;
  const int slot = b->since % WINDOW;
  b->iteration[slot] = seconds;
  memcpy(b->window + (size_t)slot * (size_t)b->ranks, b->cost, (size_t)b->ranks * sizeof *b->cost);
  if (b->since <= WINDOW) return false;
  b->seconds = median(b->iteration);
  for (int i = 0; i < b->ranks; ++i) take_rates(b, i);
  return true;
}

static struct rates rates_of(const struct run *r) {
  const struct balance *b = r->balance;
  return (struct rates){
      .ranks = comm_size(r->comm), .rank = b->measured, .wire = b->wire, .sum = b->sum, .overlap = run_overlaps(r)};
}

static const char *name_mode(int mode, char text[32]) {
  if (mode == LEARNERS_ALL) snprintf(text, 32, "all ranks learn and act");
  else snprintf(text, 32, "%d learner%s", mode, mode == 1 ? "" : "s");
  return text;
}

// Means over the ranks that have one.
static void mean_costs(const struct run *r, double *act, double *learn) {
  double acting = 0, learning = 0;
  *act = *learn = 0;
  for (int i = 0; i < comm_size(r->comm); ++i) {
    const struct rank_rates *m = &r->balance->measured[i];
    if (!isnan(m->act)) *act += m->act, acting += 1;
    if (!isnan(m->learn)) *learn += m->learn, learning += 1;
  }
  *act /= fmax(acting, 1);
  *learn /= fmax(learning, 1);
}

// auto, when the first rates are there.
static struct error *choose(struct run *r, int *mode, char text[TEXT_BYTES]) {
  const struct balance *b = r->balance;
  struct learners_choice c;
  const struct rates rates = rates_of(r);
  char name[32], other[32] = "", versus[96] = "nothing else has work for all";
  double act, learn;
  TRY(balance_learners(r->sizes.shards, &rates, &c));
  const double now = placement_seconds(&r->placement, &rates);
  if (c.learners != r->mode && c.predicted > (1 - least) * now)
    c.other = c.learners, c.learners = r->mode, c.runner_up = c.predicted, c.predicted = now;
  if (c.other != 0)
    snprintf(versus, sizeof versus, "the next best, %s, %.3g s", name_mode(c.other, other), c.runner_up);
  mean_costs(r, &act, &learn);
  snprintf(
      text, TEXT_BYTES,
      "cluster.learners: auto: %s, which should take %.3g s an iteration; %s (measured, on one thread: acting on a "
      "shard %.3g s, learning from it %.3g s; its message %.2g s, a level of the sums %.2g s an iteration)",
      name_mode(c.learners, name), c.predicted, versus, act, learn, b->wire, b->sum);
  *mode = c.learners;
  return NULL;
}

// When the placement that was moved to has been measured as well. True: back, as it is none the faster.
static bool verify(struct run *r, char text[TEXT_BYTES]) {
  struct balance *b = r->balance;
  b->phase = SETTLED;
  const bool worse = b->seconds > b->before;
  b->patience = worse ? fmin(4 * b->patience, most_patient) : persistent;
  if (worse)
    snprintf(text, TEXT_BYTES, "%s: shards move back, as an iteration takes %.3g s and took %.3g s",
             r->mode != b->previous_mode ? "cluster.learners: auto" : "cluster.rebalance", b->seconds, b->before);
  return worse;
}

// The rank that loses most shards, and why, in words.
static void tell_move(const struct run *r, const struct placement *p, double now, double then, char text[TEXT_BYTES]) {
  const struct rank_rates *m = r->balance->measured;
  const struct placement *old = &r->placement;
  int rank = 0, from = 0, to = 0;
  for (int i = 0; i < p->ranks; ++i) {
    const int act[2] = {placement_count(old, old->actor_of, i), placement_count(p, p->actor_of, i)};
    const int learn[2] = {placement_count(old, old->learner_of, i), placement_count(p, p->learner_of, i)};
    const int *const count = act[0] - act[1] >= learn[0] - learn[1] ? act : learn;
    if (count[0] - count[1] > from - to) rank = i, from = count[0], to = count[1];
  }
  double act, learn;
  mean_costs(r, &act, &learn);
  const double own = (isnan(m[rank].act) ? 0 : m[rank].act) + (isnan(m[rank].learn) ? 0 : m[rank].learn);
  const double mean = (isnan(m[rank].act) ? 0 : act) + (isnan(m[rank].learn) ? 0 : learn);
  snprintf(
      text, TEXT_BYTES,
      "cluster.rebalance: shards move: rank %d on %s has %d of them instead of %d (one takes it %.2f times the ranks' "
      "mean); an iteration should take %.3g s instead of %.3g s",
      rank, comm_host(r->comm, rank), to, from, mean > 0 ? own / mean : 1, then, now);
}

// Rank 0's word to all.
struct word {
  bool move;
  int mode, learners; // of the placement to move to
};

// Whether shards should move, and where to.
static struct error *rebalance(struct run *r, struct placement *p, bool *move, char text[TEXT_BYTES]) {
  struct balance *b = r->balance;
  const struct rates rates = rates_of(r);
  TRY(placement_by_rates(p, r->sizes.shards, r->mode, &rates));
  const double now = placement_seconds(&r->placement, &rates), then = placement_seconds(p, &rates);
  if (then > (1 - worth) * now) b->wanted = 0;
  else if (b->wanted++ == 0) b->wanted_since = clock_seconds();
  *move = b->wanted >= WINDOW && clock_seconds() - b->wanted_since >= b->patience;
  if (*move) tell_move(r, p, now, then, text);
  return NULL;
}

// Rank 0. p: the placement to go on with, where word->move.
static struct error *decide(struct run *r, struct placement *p, struct word *word, char text[TEXT_BYTES]) {
  struct balance *b = r->balance;
  if (b->phase == VERIFY) {
    word->move = verify(r, text);
    if (!word->move) return NULL;
    word->mode = b->previous_mode;
    *p = b->previous;
    b->previous = (struct placement){0};
    return NULL;
  }
  if (b->phase == MEASURE) {
    TRY(choose(r, &word->mode, text));
    word->move = word->mode != r->mode;
    if (word->move) TRY(placement_even(p, r->sizes.shards, word->mode, b->ranks));
  } else if (r->config.cluster.rebalance == REBALANCE_ON) TRY(rebalance(r, p, &word->move, text));
  b->phase = word->move ? VERIFY : SETTLED;
  return NULL;
}

static struct error *move_to(struct run *r, struct placement *p, const struct word *word) {
  struct balance *b = r->balance;
  if (comm_rank(r->comm) != 0) TRY(placement_alloc(p, r->sizes.shards, b->ranks));
  TRY(comm_broadcast(r->comm, p->actor_of, 2 * (size_t)p->shards * sizeof *p->actor_of));
  p->learners = word->learners;
  placement_free(&b->previous);
  b->previous = r->placement;
  b->previous_mode = r->mode;
  r->placement = (struct placement){0};
  r->mode = word->mode;
  return run_place(r, p);
}

struct error *run_balance(struct run *r, double seconds) {
  struct balance *b = r->balance;
  if (b == NULL) return NULL;
  const struct cost mine = own_cost(r);
  struct placement p = {0};
  struct word word = {.mode = r->mode};
  char text[TEXT_BYTES] = "";
  if (b->ranks == 1) return NULL;
  if (b->wire == 0) TRY(measure_wire(r));
  TRY(comm_gather(r->comm, &mine, sizeof mine, b->cost));
  struct error *e = NULL;
  if (comm_rank(r->comm) == 0 && take_costs(r, seconds)) e = decide(r, &p, &word, text);
  word.learners = p.learners;
  e = comm_agree(r->comm, e);
  if (e == NULL) e = comm_broadcast(r->comm, &word, sizeof word);
  if (e == NULL && word.move) e = move_to(r, &p, &word);
  if (e == NULL && text[0] != '\0') run_tell_placement(r, text);
  placement_free(&p);
  return e;
}
