// The plan's model against sums written out by hand, and what must hold whatever the numbers are.
#include "helpers.h"

#include "plan.h"

enum { SHARDS = 12 };

// A second of acting and half a second of learning a shard; a wire of 100 bytes/s, where memory has 1e12.
static const struct plan_work WORK = {.sizes = {.shards = SHARDS, .envs = 2, .steps = 10, .iterations = 100},
                                      .rates = {.act = 1, .learn = 0.05, .normalise = 0.01, .add = 1e12},
                                      .updates = 10,
                                      .learner_bytes = 40,
                                      .tail_bytes = 10,
                                      .weight_bytes = 996,
                                      .observation_bytes = 24,
                                      .sum_bytes = 64,
                                      .checkpoints = 0.1};
static const struct plan_cluster CLUSTER = {.nodes = 1, .cores = 1, .ranks = 1, .bandwidth = 100, .latency = 0.001};
static const double IN_MEMORY = 1e-4; // of a second, or of the time: what all that stays in memory takes, at most

static struct plan_point predict(const struct plan_work *work, const struct plan_cluster *cluster, int ranks,
                                 int64_t learners) {
  struct config config;
  struct placement placement;
  struct plan_point point;
  config_default(&config);
  config.rollout.shards = work->sizes.shards;
  config.cluster.learners = learners;
  must(placement_init(&placement, &config, ranks));
  must(plan_predict(work, cluster, &placement, &point));
  placement_free(&placement);
  const double sum = point.act + point.wire + point.learn + point.reduce + point.publish + point.other;
  if (!work->overlaps) assert_number("sum of the parts", point.iteration, sum, 1e-12, 0);
  return point;
}

static void assert_seconds(const char *what, double got, double expected) {
  assert_number(what, got, expected, IN_MEMORY, 1);
}

static void one_core_does_everything(void **state) {
  (void)state;
  const struct plan_point p = predict(&WORK, &CLUSTER, 1, 1);
  assert_seconds("act", p.act, SHARDS);
  assert_seconds("wire", p.wire, 0);
  assert_seconds("learn", p.learn, SHARDS * (10 * 0.05 + 0.01));
  assert_seconds("reduce", p.reduce, 0);
  assert_seconds("publish", p.publish, 0);
  assert_true(p.wire_bytes == 0);
  assert_number("efficiency", p.efficiency, 1, 1e-4, 0);
  assert_string_equal(p.bottleneck, "act");
}

static void sums_of_gradients_are_additions(void **state) {
  (void)state;
  struct plan_work work = WORK;
  work.rates.add = 1000; // bytes/s; 11 additions and a copy, of each of 10 gradients and as many moments of 24 bytes
  const double bytes = 10 * (996 + 4 + 24) + 24 + 64;
  const struct plan_point p = predict(&work, &CLUSTER, 1, 1);
  assert_number("reduce", p.reduce, (SHARDS - 1 + 1) * bytes / 1000, 1e-9, 0);
}

static void threads_take_whole_shards(void **state) {
  (void)state;
  const int rounds[][2] = {{1, 12}, {2, 6}, {3, 4}, {4, 3}, {5, 3}, {6, 2}, {11, 2}, {12, 1}, {64, 1}};
  for (size_t i = 0; i < COUNT_OF(rounds); ++i) {
    struct plan_cluster cluster = CLUSTER;
    cluster.cores = rounds[i][0];
    const struct plan_point p = predict(&WORK, &cluster, 1, 1);
    assert_seconds("act", p.act, rounds[i][1]);
    assert_seconds("learn", p.learn, rounds[i][1] * (10 * 0.05 + 0.01));
  }
}

static void trajectories_wait_for_the_wire(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  cluster.nodes = 2;
  // 50 bytes take 0.5 s, less than a shard: the last one alone is waited for.
  struct plan_point p = predict(&WORK, &cluster, 2, 1);
  assert_seconds("act", p.act, SHARDS);
  assert_seconds("wire", p.wire, 0.5 + 0.001);
  // 150 bytes take 1.5 s: all of them one after the other, from the first shard's end on.
  struct plan_work work = WORK;
  work.learner_bytes = 140;
  p = predict(&work, &cluster, 2, 1);
  assert_seconds("wire", p.wire, 1 + SHARDS * 1.5 + 0.001 - SHARDS);
  assert_string_equal(p.bottleneck, "act");
  // Two nodes that act share the learner's wire.
  cluster.nodes = 3;
  p = predict(&work, &cluster, 3, 1);
  assert_seconds("act", p.act, SHARDS / 2.0);
  assert_seconds("act and wire", p.act + p.wire, 1 + SHARDS * 1.5 + 0.001);
}

static void only_tails_travel_where_all_learn(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  cluster.nodes = 2;
  const struct plan_point p = predict(&WORK, &cluster, 2, LEARNERS_ALL);
  assert_seconds("act", p.act, SHARDS / 2.0);
  assert_seconds("wire", p.wire, 0.1 + 0.001);
}

static void a_gradient_crosses_once_a_node_and_back(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  const double trees = 10 * (1000 + 24) + 24 + 64; // bytes of all sums, each way
  for (int ranks = 2; ranks <= 4; ranks *= 2) {
    cluster.nodes = ranks;
    struct plan_work work = WORK;
    work.sizes.shards = 16; // so that whole subtrees lie on a rank
    const struct plan_point p = predict(&work, &cluster, ranks, LEARNERS_ALL);
    const int levels = 2 * (ranks == 2 ? 1 : 2); // of the tree, up and down
    assert_number("reduce", p.reduce, levels * trees / 100 + 22 * levels * 0.001, 1e-5, 0);
    const double tails = (ranks - 1) * 16.0 / ranks * 10, agreements = 8 * 4 * (ranks - 1);
    const double weights = (ranks - 1) * (996 + 24);
    assert_number("bytes", p.wire_bytes, 2 * (ranks - 1) * trees + tails + weights + agreements, 1e-9, 0);
  }
}

static void ranks_of_a_node_do_not_use_the_wire(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  cluster.cores = cluster.ranks = 4;
  const struct plan_point p = predict(&WORK, &cluster, 4, LEARNERS_ALL);
  assert_true(p.wire_bytes == 0);
  assert_seconds("act", p.act, SHARDS / 4.0);
  assert_seconds("wire", p.wire, 0);
}

static void weights_go_down_a_tree(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  cluster.nodes = 8;
  cluster.bandwidth = 1e6;
  struct plan_work work = WORK;
  work.weight_bytes = 1 << 20;
  const struct plan_point p = predict(&work, &cluster, 8, 1);
  assert_number("publish", p.publish, 3 * ((1 << 20) + 24) / 1e6 + 2 * 3 * 0.001, 1e-5, 0);
}

static void memory_is_what_a_rank_holds(void **state) {
  (void)state;
  struct plan_work work = WORK;
  work.rates.process_bytes = 1e6;
  work.rates.thread_bytes = 1e4;
  work.environment_bytes = 500;
  struct plan_cluster cluster = CLUSTER;
  cluster.nodes = 2;
  cluster.cores = 3;
  // Rank 0 learns: all trajectories and gradients, their sum, the learned state and a copy of it.
  struct plan_point p = predict(&work, &cluster, 2, 1);
  assert_true(p.rank_bytes == 1e6 + 3e4 + SHARDS * 50 + (SHARDS + 1 + 6) * 996 + 500);
  // Half of them, but all tails and a gradient that arrives.
  p = predict(&work, &cluster, 2, LEARNERS_ALL);
  assert_true(p.rank_bytes == 1e6 + 3e4 + 6 * 50 + 6 * 10 + (6 + 2 + 6) * 996 + 500);
}

static void overlap_hides_the_shorter_half(void **state) {
  (void)state;
  struct plan_cluster cluster = CLUSTER;
  cluster.nodes = 2;
  struct plan_work work = WORK;
  work.overlaps = true;
  work.rates.act = 10;
  struct plan_point p = predict(&work, &cluster, 2, 1);
  assert_seconds("acting is longer", p.iteration, p.act + p.wire);
  work.rates.act = 0.1;
  p = predict(&work, &cluster, 2, 1);
  assert_seconds("learning is longer", p.iteration, p.learn + p.reduce + p.publish + p.other);
  p = predict(&work, &cluster, 2, LEARNERS_ALL);
  assert_seconds("a rank does one after the other", p.iteration,
                 p.act + p.wire + p.learn + p.reduce + p.publish + p.other);
  p = predict(&work, &cluster, 1, 1);
  assert_seconds("alone", p.iteration, p.act + p.learn + p.reduce + p.other);
}

static void more_nodes_never_act_longer(void **state) {
  (void)state;
  struct plan_work work = WORK;
  work.sizes.shards = 1000;
  for (int64_t learners = LEARNERS_ALL; learners <= 4; learners += 2) {
    double act = INFINITY;
    for (int nodes = 8; nodes <= 512; nodes *= 2) {
      struct plan_cluster cluster = CLUSTER;
      cluster.nodes = nodes;
      cluster.cores = cluster.ranks = 2;
      const int ranks = 2 * nodes < 1000 ? 2 * nodes : 1000;
      const struct plan_point p = predict(&work, &cluster, ranks, learners);
      assert_true(p.act <= act && p.act >= 1);
      assert_true(p.efficiency > 0 && p.efficiency <= 1);
      assert_true(p.wire >= 0 && p.reduce > 0 && p.publish > 0);
      act = p.act;
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_core_does_everything),
      cmocka_unit_test(sums_of_gradients_are_additions),
      cmocka_unit_test(threads_take_whole_shards),
      cmocka_unit_test(trajectories_wait_for_the_wire),
      cmocka_unit_test(only_tails_travel_where_all_learn),
      cmocka_unit_test(a_gradient_crosses_once_a_node_and_back),
      cmocka_unit_test(ranks_of_a_node_do_not_use_the_wire),
      cmocka_unit_test(weights_go_down_a_tree),
      cmocka_unit_test(memory_is_what_a_rank_holds),
      cmocka_unit_test(overlap_hides_the_shorter_half),
      cmocka_unit_test(more_nodes_never_act_longer),
  };
  return cmocka_run_group_tests_name("plan", tests, NULL, NULL);
}
