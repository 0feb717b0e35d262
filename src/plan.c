// The model. Bytes are exact; seconds are those of one core, measured, and of the wire, as --net and --latency say:
//
//   a rank    holds whole shards, and each of its T threads takes whole shards: n shards take ceil(n/T) rounds
//   act       ceil(n/T) · seconds of a shard, on the rank with most
//   wire      until the last trajectory is where it learns: shards leave as they are done, and wait for their nodes' wires
//   learn     ceil(n/T) · (epochs · minibatches · seconds of a slice + seconds of the normaliser)
//   reduce    epochs · minibatches · (tree of the advantages' moments + tree of the gradient): messages and additions level
//             by level, then the sum to all learners (comm.c)
//   publish   the weights to all ranks
//   other     Adam on every learner, the copy of what is learned, agreement, checkpoints and evaluations by how often
//   overlap   act and wire beside all the others, on ranks that do not learn; the longer of both counts
//
// A message holds its sender's and its receiver's wire for bytes/bandwidth, one message at a time, and arrives `latency`
// later; within a node it is a copy. Broadcasts go down a binomial tree, as comm.c sends them.
//
// What it leaves out: that a node's cores share memory bandwidth and heat; other traffic; slow nodes; time that a rank
// waits for a processor that something else has.
#include "plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "actor/evaluate.h"
#include "actor/rollout.h"
#include "common/clock.h"
#include "learner/update.h"

static const double local_latency = 1e-6; // seconds of a message within a node

// The wires while messages travel; times count from the phase's start.
struct traffic {
  const struct plan_cluster *cluster;
  double copy; // bytes/s within a node
  int nodes, ranks;
  double *leave, *enter; // [nodes]: when a node's wire can take the next message out, and in
  double *clock;         // [ranks]: when a rank is done
  double *next, *load;   // [ranks]: scratch
  double wire_bytes;     // between nodes
};

static int node_of(const struct plan_cluster *c, int rank) { return rank / c->ranks; }

static struct error *traffic_init(struct traffic *t, const struct plan_cluster *cluster, int ranks, double copy) {
  const int nodes = node_of(cluster, ranks - 1) + 1;
  *t = (struct traffic){.cluster = cluster, .copy = copy, .nodes = nodes, .ranks = ranks};
  t->leave = malloc((2 * (size_t)nodes + 3 * (size_t)ranks) * sizeof *t->leave);
  if (t->leave == NULL) return error_no_memory("a plan");
  t->enter = t->leave + nodes;
  t->clock = t->enter + nodes;
  t->next = t->clock + ranks;
  t->load = t->next + ranks;
  return NULL;
}

static void clear(struct traffic *t) {
  for (int n = 0; n < t->nodes; ++n) t->leave[n] = t->enter[n] = 0;
  for (int r = 0; r < t->ranks; ++r) t->clock[r] = 0;
}

static double latest(const struct traffic *t) {
  double last = 0;
  for (int r = 0; r < t->ranks; ++r) last = fmax(last, t->clock[r]);
  return last;
}

// When a message that is ready at `ready` has arrived.
static double deliver(struct traffic *t, int from, int to, double ready, double bytes) {
  const int out = node_of(t->cluster, from), in = node_of(t->cluster, to);
  if (from == to) return ready;
  if (out == in) return ready + local_latency + bytes / t->copy;
  const double through = fmax(ready, fmax(t->leave[out], t->enter[in])) + bytes / t->cluster->bandwidth;
  t->leave[out] = t->enter[in] = through;
  t->wire_bytes += bytes;
  return through + t->cluster->latency;
}

// Seconds until rank 0's bytes are on the first `ranks` ranks, over comm.c's binomial tree, the farthest first.
static double broadcast(struct traffic *t, int ranks, double bytes) {
  int bit = 1;
  while (bit < ranks) bit *= 2;
  clear(t);
  for (bit /= 2; bit > 0; bit /= 2)
    for (int from = 0; from + bit < ranks; from += 2 * bit)
      t->clock[from + bit] = deliver(t, from, from + bit, t->clock[from], bytes);
  return latest(t);
}

// Seconds of one tree_reduce of `bytes`, with what comm.c sends and adds at each level.
static double reduce(struct traffic *t, const struct placement *p, int threads, double add, double bytes) {
  enum { GRAIN = 65536 };
  clear(t);
  for (int stride = 1; stride < p->shards; stride *= 2) {
    for (int r = 0; r < p->learners; ++r) t->next[r] = t->clock[r], t->load[r] = 0;
    for (int i = 0; i + stride < p->shards; i += 2 * stride) {
      const int to = p->learner_of[i], from = p->learner_of[i + stride];
      const double arrived = deliver(t, from, to, t->clock[from], bytes);
      t->next[to] = fmax(t->next[to], arrived);
      t->next[from] = fmax(t->next[from], arrived); // the sender waits as well
      t->load[to] += bytes;
    }
    for (int r = 0; r < p->learners; ++r)
      t->clock[r] = t->next[r] + t->load[r] / (add * fmin(threads, ceil(t->load[r] / GRAIN) + 1));
  }
  const double sum = t->clock[0] + bytes / t->copy;
  return sum + broadcast(t, p->learners, bytes);
}

static int rounds(int shards, int threads) { return (shards + threads - 1) / threads; }

// Shards of the rank that has most.
static int most_shards(const int *rank_of, int shards) {
  int most = 0;
  for (int first = 0, s = 0; s < shards; ++s) {
    if (rank_of[s] != rank_of[first]) first = s; // a rank's shards lie together
    if (s - first + 1 > most) most = s - first + 1;
  }
  return most;
}

// Seconds until the last trajectory is where it learns, and the last tail on rank 0.
static double collect(struct traffic *t, const struct plan_work *w, const struct placement *p, int threads) {
  const int most = most_shards(p->actor_of, p->shards);
  clear(t);
  for (int round = 0; round < rounds(most, threads); ++round) {
    const double ready = (round + 1) * w->rates.act;
    for (int first = 0, s = 0; s < p->shards; ++s) {
      const int actor = p->actor_of[s], learner = p->learner_of[s];
      if (actor != p->actor_of[first]) first = s;
      if ((s - first) / threads != round) continue;
      const double bytes = w->learner_bytes + (learner == 0 ? w->tail_bytes : 0);
      t->clock[learner] = fmax(t->clock[learner], deliver(t, actor, learner, ready, bytes));
      if (learner != 0) t->clock[0] = fmax(t->clock[0], deliver(t, actor, 0, ready, w->tail_bytes));
    }
  }
  return latest(t);
}

// Memory of a rank.
static double rank_bytes(const struct plan_work *w, const struct placement *p, int rank, int threads) {
  double held = 0, learned = 0;
  for (int s = 0; s < p->shards; ++s) {
    held += p->actor_of[s] == rank || p->learner_of[s] == rank;
    learned += p->learner_of[s] == rank;
  }
  const int generations = w->overlaps ? 2 : 1;
  double bytes = w->rates.process_bytes + threads * w->rates.thread_bytes + 3 * w->weight_bytes + // with Adam's moments
                 generations * held * (w->learner_bytes + w->tail_bytes);
  if (learned > 0)
    bytes += (learned + 1 + (p->learners > 1)) * w->weight_bytes; // gradients, their sum, one that arrives
  if (rank == 0) // a copy of what is learned, and a checkpoint before it is written
    bytes +=
        3 * w->weight_bytes + w->environment_bytes + (p->shards - held) * w->tail_bytes + w->rates.checkpoint_bytes;
  return bytes;
}

static void name_bottleneck(struct plan_point *point) {
  const double part[] = {point->act, point->wire, point->learn, point->reduce, point->publish, point->other};
  static const char *const names[] = {"act", "wire", "learn", "reduce", "publish", "other"};
  int largest = 0;
  for (int i = 1; i < 6; ++i)
    if (part[i] > part[largest]) largest = i;
  point->bottleneck = names[largest];
}

static double other(struct traffic *t, const struct plan_work *w, const struct placement *p, int threads) {
  enum { AGREEMENTS = 4 }; // of a word each, there and back
  const struct bench_rates *r = &w->rates;
  const double blocks = ceil(w->evaluation_blocks / ((double)p->ranks * threads));
  double seconds = (double)w->updates * r->adam / threads + 3 * w->weight_bytes / t->copy +
                   w->checkpoints * r->checkpoint + blocks * w->evaluation;
  for (int i = 0; i < 2 * AGREEMENTS; ++i) seconds += broadcast(t, p->ranks, sizeof(int));
  return seconds;
}

struct error *plan_predict(const struct plan_work *w, const struct plan_cluster *cluster, const struct placement *p,
                           struct plan_point *point) {
  const struct bench_rates *r = &w->rates;
  const int threads = cluster->cores / cluster->ranks;
  const double updates = (double)w->updates;
  struct traffic t;
  TRY(traffic_init(&t, cluster, p->ranks, r->add));
  *point = (struct plan_point){.ranks = p->ranks, .learners = p->learners, .threads = threads};
  point->act = rounds(most_shards(p->actor_of, p->shards), threads) * r->act;
  point->wire = collect(&t, w, p, threads) - point->act;
  point->learn = rounds(most_shards(p->learner_of, p->shards), threads) * (updates * r->learn + r->normalise);
  const double before = t.wire_bytes;
  point->reduce = updates * (reduce(&t, p, threads, r->add, 3 * sizeof(double)) +
                             reduce(&t, p, threads, r->add, w->weight_bytes + sizeof(float)));
  t.wire_bytes = before + updates * (t.wire_bytes - before);
  point->reduce += reduce(&t, p, threads, r->add, w->observation_bytes) + reduce(&t, p, threads, r->add, w->sum_bytes);
  point->publish = broadcast(&t, p->ranks, w->weight_bytes) + broadcast(&t, p->ranks, w->observation_bytes);
  point->other = other(&t, w, p, threads);
  const double collecting = point->act + point->wire;
  const double learning = point->learn + point->reduce + point->publish + point->other;
  const bool beside = w->overlaps && p->actor_of[0] != 0; // rank 0 always learns
  point->iteration = beside ? fmax(collecting, learning) : collecting + learning;
  point->efficiency = p->shards * (r->act + updates * r->learn + r->normalise) /
                      ((double)cluster->nodes * cluster->cores * point->iteration);
  point->rank_bytes = fmax(rank_bytes(w, p, 0, threads), rank_bytes(w, p, p->ranks - 1, threads));
  point->wire_bytes = t.wire_bytes;
  name_bottleneck(point);
  free(t.leave);
  return NULL;
}

// --- A config's work ---

struct planned {
  struct config config;
  struct plan_work work;
  struct objective objective;
  char task[CONFIG_MAX_NAME];
  double payload;  // bytes of an environment step that have to travel
  double measured; // seconds that measuring took
};

static struct error *planned_init(struct planned *d, struct comm *comm, const struct config *config) {
  struct task *task;
  struct plan_work *w = &d->work;
  d->config = *config;
  TRY(task_open(config->task.name, config, NULL, &task));
  snprintf(d->task, sizeof d->task, "%s", task->kind->name);
  objective_layout(&d->objective, &d->config, task->obs_dim, task->action_dim);
  w->sizes = shard_sizes(config);
  struct trajectory_layout l;
  trajectory_layout_init(&l, &d->objective.policy, &w->sizes, task->least_length, task->state_size);
  const double length = (double)evaluate_length(task, config->eval.episode_length);
  task_close(task);
  w->learner_bytes = (double)l.learner_bytes, w->tail_bytes = (double)(l.bytes - l.learner_bytes);
  d->payload = 4.0 * (l.obs_dim + l.action_columns + l.old_columns + 1) + 1; // with reward and flags
  w->weight_bytes = (double)d->objective.parameter_count * sizeof(float);
  w->observation_bytes = (double)moments_size(l.obs_dim) * sizeof(double);
  w->sum_bytes = OBJECTIVE_SUMS * sizeof(double);
  w->environment_bytes = (double)config->rollout.envs * (double)l.state_size * sizeof(double);
  w->updates = config->optimizer.epochs * config->optimizer.minibatches;
  w->checkpoints = 1.0 / (double)config->checkpoint.every;
  w->overlaps = config->cluster.pipeline != PIPELINE_SYNC;
  const double started = clock_seconds();
  TRY(bench_rates(comm, config, &w->rates));
  d->measured = clock_seconds() - started;
  if (config->eval.every == 0) return NULL;
  const double blocks = ceil((double)config->eval.episodes / EVALUATE_BLOCK);
  w->evaluation_blocks = blocks;
  w->evaluation =
      w->rates.act / ((double)w->sizes.envs * w->sizes.steps) * length * EVALUATE_BLOCK / (double)config->eval.every;
  return NULL;
}

static double hours(const struct planned *d, const struct plan_point *p) {
  return (double)d->work.sizes.iterations * p->iteration / 3600;
}

static void print_work(const struct planned *d, const struct plan_cluster *c, FILE *out) {
  const struct plan_work *w = &d->work;
  const struct bench_rates *r = &w->rates;
  const struct shard_sizes *s = &w->sizes;
  const double steps = (double)s->envs * s->steps;
  fprintf(
      out,
      "%s, %zu parameters, %d shards of %d environments, %" PRId64 " environment steps and %" PRId64
      " updates an iteration, %" PRId64 " iterations\n"
      "measured on one core of this machine, in %.0f s\n"
      "  acting             %10.4g s a shard and iteration (%.4g environment steps/s)\n"
      "  learning           %10.4g s a shard and update; normaliser %.3g s a shard and iteration\n"
      "  sums of gradients  %10.3g bytes/s; Adam %.3g s an update\n"
      "  checkpoint         %10.3g s, %.0f bytes\n"
      "messages\n"
      "  trajectory         %10.0f bytes a shard and iteration (%.0f for the learner, %.0f tail), %.2f an environment "
      "step of which %.0f must travel\n"
      "  gradient, weights  %10.0f bytes\n"
      "predicted for nodes of %d cores, %d rank%s of %d thread%s each, %.4g Gbit/s and %.3g us between nodes\n",
      d->task, d->objective.parameter_count, s->shards, s->envs, s->iteration_env_steps, w->updates, s->iterations,
      d->measured, r->act, steps / r->act, r->learn, r->normalise, r->add, r->adam, r->checkpoint, r->checkpoint_bytes,
      w->learner_bytes + w->tail_bytes, w->learner_bytes, w->tail_bytes, (w->learner_bytes + w->tail_bytes) / steps,
      d->payload, w->weight_bytes, c->cores, c->ranks, c->ranks == 1 ? "" : "s", c->cores / c->ranks,
      c->cores / c->ranks == 1 ? "" : "s", 8e-9 * c->bandwidth, 1e6 * c->latency);
  fprintf(out, "%5s %6s %8s %11s %10s %-10s %5s %5s %6s %7s %8s %6s %8s %8s %8s\n", "nodes", "ranks", "learners",
          "iteration s", "efficiency", "bottleneck", "act%", "wire%", "learn%", "reduce%", "publish%", "other%",
          "rank GB", "wire MB", "hours");
}

static void print_point(const struct planned *d, int nodes, const struct plan_point *p, FILE *out) {
  char learners[16];
  snprintf(learners, sizeof learners, p->together ? "all" : "%d", p->learners);
  const double share = 100 / p->iteration;
  fprintf(out, "%5d %6d %8s %11.4g %10.3f %-10s %5.1f %5.1f %6.1f %7.1f %8.1f %6.1f %8.3g %8.4g %8.4g\n", nodes,
          p->ranks, learners, p->iteration, p->efficiency, p->bottleneck, share * p->act, share * p->wire,
          share * p->learn, share * p->reduce, share * p->publish, share * p->other, 1e-9 * p->rank_bytes,
          1e-6 * p->wire_bytes, hours(d, p));
}

static void print_json_work(const struct planned *d, FILE *out) {
  const struct plan_work *w = &d->work;
  const struct bench_rates *r = &w->rates;
  fprintf(out,
          "{\"task\": \"%s\", \"parameters\": %zu, \"shards\": %d, \"iteration_env_steps\": %" PRId64
          ", \"updates\": %" PRId64 ", \"iterations\": %" PRId64
          ", \"act_seconds\": %.6g, \"learn_seconds\": %.6g, \"normalise_seconds\": %.6g, \"adam_seconds\": %.6g, "
          "\"add_bytes_per_second\": %.6g, \"checkpoint_seconds\": %.6g, \"checkpoint_bytes\": %.0f, "
          "\"message_bytes\": %.0f, \"tail_bytes\": %.0f, \"weight_bytes\": %.0f, \"bytes_per_step\": %.3f, "
          "\"payload_bytes_per_step\": %.0f, \"points\": [",
          d->task, d->objective.parameter_count, w->sizes.shards, w->sizes.iteration_env_steps, w->updates,
          w->sizes.iterations, r->act, r->learn, r->normalise, r->adam, r->add, r->checkpoint, r->checkpoint_bytes,
          w->learner_bytes + w->tail_bytes, w->tail_bytes, w->weight_bytes,
          (w->learner_bytes + w->tail_bytes) / ((double)w->sizes.envs * w->sizes.steps), d->payload);
}

static void print_json_point(const struct planned *d, int nodes, const struct plan_point *p, bool best, bool first,
                             FILE *out) {
  fprintf(out,
          "%s{\"nodes\": %d, \"ranks\": %d, \"threads\": %d, \"learners\": %d, \"together\": %s, \"best\": %s, "
          "\"iteration_seconds\": %.6g, \"act_seconds\": %.6g, \"wire_seconds\": %.6g, \"learn_seconds\": %.6g, "
          "\"reduce_seconds\": %.6g, \"publish_seconds\": %.6g, \"other_seconds\": %.6g, \"efficiency\": %.6g, "
          "\"bottleneck\": \"%s\", \"rank_bytes\": %.0f, \"wire_bytes\": %.0f, \"hours\": %.6g}",
          first ? "" : ", ", nodes, p->ranks, p->threads, p->learners, p->together ? "true" : "false",
          best ? "true" : "false", p->iteration, p->act, p->wire, p->learn, p->reduce, p->publish, p->other,
          p->efficiency, p->bottleneck, p->rank_bytes, p->wire_bytes, hours(d, p));
}

// --- Numbers of learners: 1, 2, 4, .. of the ranks, and all ---

enum { MAX_POINTS = 32 };

static struct error *predict_learners(const struct planned *d, const struct plan_cluster *c, int64_t learners,
                                      struct plan_point *point) {
  const int64_t ranks = (int64_t)c->nodes * c->ranks, shards = d->work.sizes.shards;
  const int64_t most = learners == LEARNERS_ALL ? shards : shards + learners; // more have nothing to do
  struct config config = d->config;
  struct placement placement;
  config.cluster.learners = learners;
  TRY(placement_init(&placement, &config, (int)(ranks < most ? ranks : most)));
  struct error *e = plan_predict(&d->work, c, &placement, point);
  point->together = learners == LEARNERS_ALL;
  placement_free(&placement);
  return e;
}

static struct error *predict_size(const struct planned *d, const struct plan_cluster *c,
                                  struct plan_point points[MAX_POINTS], int *count, int *best) {
  const int64_t ranks = (int64_t)c->nodes * c->ranks;
  *count = *best = 0;
  TRY(predict_learners(d, c, LEARNERS_ALL, &points[(*count)++]));
  for (int64_t k = 1; k < ranks && k <= d->work.sizes.shards; k *= 2)
    TRY(predict_learners(d, c, k, &points[(*count)++]));
  for (int i = 1; i < *count; ++i)
    if (points[i].iteration < points[*best].iteration) *best = i;
  return NULL;
}

struct error *plan(struct comm *comm, const struct config *config, const struct plan_options *o, FILE *out) {
  struct planned d = {0};
  struct plan_point points[MAX_POINTS];
  int count, best, idle_from = 0;
  bool first = true;
  if (o->cluster.ranks > o->cluster.cores)
    return error_new(EXIT_CODE_USAGE, "--ranks %d is more than the %d cores of a node (--cores)", o->cluster.ranks,
                     o->cluster.cores);
  TRY(planned_init(&d, comm, config));
  if (o->json) print_json_work(&d, out);
  else print_work(&d, &o->cluster, out);
  for (int i = 0; i < o->sizes; ++i) {
    struct plan_cluster c = o->cluster;
    c.nodes = o->nodes[i];
    TRY(predict_size(&d, &c, points, &count, &best));
    if (idle_from == 0 && (int64_t)c.nodes * c.cores > d.work.sizes.shards) idle_from = c.nodes;
    if (!o->json) print_point(&d, c.nodes, &points[best], out);
    for (int k = 0; o->json && k < count; ++k, first = false)
      print_json_point(&d, c.nodes, &points[k], k == best, first, out);
  }
  if (o->json) fprintf(out, "]}\n");
  else if (idle_from > 0)
    fprintf(out, "rollout.shards: %d: from %d node%s on there are more cores than shards, and those left over idle\n",
            d.work.sizes.shards, idle_from, idle_from == 1 ? "" : "s");
  return NULL;
}
