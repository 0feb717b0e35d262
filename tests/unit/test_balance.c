// The placement that follows from measured rates, against what can be reckoned by hand.
#include "helpers.h"

#include "common/balance.h"
#include "common/shard.h"

enum { RANKS = 4, SHARDS = 12 };

static struct rates rates_of(struct rank_rates rank[RANKS], double act, double learn) {
  for (int i = 0; i < RANKS; ++i) rank[i] = (struct rank_rates){act, learn, 1};
  return (struct rates){.ranks = RANKS, .rank = rank};
}

static void assert_counts(const struct placement *p, const int *rank_of, const int *want) {
  for (int i = 0; i < p->ranks; ++i) assert_int_equal(placement_count(p, rank_of, i), want[i]);
  for (int s = 1; s < p->shards; ++s) assert_true(rank_of[s] >= rank_of[s - 1]); // neighbours lie together
}

static void equal_ranks_get_equal_shares(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 2);
  struct placement p;
  must(placement_by_rates(&p, SHARDS, LEARNERS_ALL, &rates));
  assert_counts(&p, p.actor_of, (int[]){3, 3, 3, 3});
  assert_counts(&p, p.learner_of, (int[]){3, 3, 3, 3});
  assert_int_equal(p.learners, 4);
  assert_number("seconds", placement_seconds(&p, &rates), 9, 1e-12, 1e-30);
  placement_free(&p);
}

static void a_slow_rank_gets_fewer(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 1);
  struct placement even, p;
  rank[2].act = rank[2].learn = 4;
  must(placement_by_rates(&p, SHARDS, LEARNERS_ALL, &rates));
  assert_counts(&p, p.actor_of, (int[]){4, 4, 1, 3});
  must(placement_even(&even, SHARDS, LEARNERS_ALL, RANKS));
  assert_number("before", placement_seconds(&even, &rates), 24, 1e-12, 1e-30);
  assert_number("after", placement_seconds(&p, &rates), 8, 1e-12, 1e-30);
  placement_free(&p);
  placement_free(&even);
}

static void a_rank_that_is_far_too_slow_gets_none_but_rank_0_keeps_one(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 1);
  struct placement p;
  rank[0].learn = rank[3].act = 100;
  must(placement_by_rates(&p, SHARDS, 2, &rates)); // ranks 0 and 1 learn, 2 and 3 act
  assert_counts(&p, p.learner_of, (int[]){1, 11, 0, 0});
  assert_counts(&p, p.actor_of, (int[]){0, 0, 12, 0});
  assert_int_equal(p.learner_of[0], 0);
  assert_int_equal(p.learners, 2);
  assert_false(placement_is_actor(&p, 3));
  placement_free(&p);
}

static void threads_take_whole_shards(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 0);
  struct placement p;
  rank[0].threads = 3;
  must(placement_by_rates(&p, SHARDS, LEARNERS_ALL, &rates));
  assert_counts(&p, p.actor_of, (int[]){6, 2, 2, 2});
  assert_number("seconds", placement_seconds(&p, &rates), 2, 1e-12, 1e-30);
  placement_free(&p);
}

static void an_unknown_rank_counts_as_the_mean(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 1);
  struct placement p;
  rank[1].act = rank[1].learn = NAN;
  must(placement_by_rates(&p, SHARDS, LEARNERS_ALL, &rates));
  assert_counts(&p, p.actor_of, (int[]){3, 3, 3, 3});
  placement_free(&p);
}

static void all_learn_where_sums_cost_little(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  struct rates rates = rates_of(rank, 1, 1);
  struct learners_choice c;
  must(balance_learners(SHARDS, &rates, &c));
  assert_int_equal(c.learners, LEARNERS_ALL);
  assert_number("all", c.predicted, 6, 1e-12, 1e-30); // 3 shards acted and learned
  assert_int_equal(c.other, 2);                       // 6 acted, 6 learned
  assert_number("other", c.runner_up, 12, 1e-12, 1e-30);
}

static void halves_that_overlap_take_as_long_as_the_longer(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  struct rates rates = rates_of(rank, 1, 0.5);
  struct placement apart, together;
  rates.overlap = true;
  rates.wire = 0.25;
  must(placement_even(&apart, SHARDS, 1, RANKS));
  must(placement_even(&together, SHARDS, LEARNERS_ALL, RANKS));
  assert_number("learns longer", placement_seconds(&apart, &rates), 6, 1e-12, 1e-30);
  for (int i = 0; i < RANKS; ++i) rank[i].act = 2;
  assert_number("acts longer", placement_seconds(&apart, &rates), 8 + 0.25, 1e-12, 1e-30);
  assert_number("one after the other", placement_seconds(&together, &rates), 6 + 1.5, 1e-12, 1e-30);
  placement_free(&apart);
  placement_free(&together);
}

static void one_learns_where_sums_cost_much_and_learning_little(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  struct rates rates = rates_of(rank, 1, 0.1);
  struct learners_choice c;
  rates.sum = 5;
  rates.wire = 0.25;
  must(balance_learners(SHARDS, &rates, &c));
  assert_int_equal(c.learners, 1);
  assert_number("one", c.predicted, 4 + 0.25 + 1.2, 1e-12,
                1e-30); // the wire is hidden behind 4 s of acting, but for a shard
  rates.wire = 1;       // one learner: 12 s, 4 of them hidden; two: 6 s behind 6 s
  must(balance_learners(SHARDS, &rates, &c));
  assert_int_equal(c.learners, 2);
  assert_number("two", c.predicted, 6 + 1 + 0.6 + 5, 1e-12, 1e-30);
  assert_int_equal(c.other, 1);
  assert_number("one", c.runner_up, 4 + 8 + 1.2, 1e-12, 1e-30);
}

static void only_what_has_work_for_all_is_considered(void **state) {
  (void)state;
  struct rank_rates rank[RANKS];
  const struct rates rates = rates_of(rank, 1, 1);
  struct learners_choice c;
  must(balance_learners(2, &rates, &c));
  assert_int_equal(c.learners, 2);
  assert_int_equal(c.other, 0);
  must(balance_learners(3, &rates, &c));
  assert_int_equal(c.learners, 1); // 3 actors and 1 learner: 1 + 3 s; 2 and 2: 2 + 2 s, which is no better
  assert_int_equal(c.other, 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(equal_ranks_get_equal_shares),
      cmocka_unit_test(a_slow_rank_gets_fewer),
      cmocka_unit_test(a_rank_that_is_far_too_slow_gets_none_but_rank_0_keeps_one),
      cmocka_unit_test(threads_take_whole_shards),
      cmocka_unit_test(an_unknown_rank_counts_as_the_mean),
      cmocka_unit_test(all_learn_where_sums_cost_little),
      cmocka_unit_test(halves_that_overlap_take_as_long_as_the_longer),
      cmocka_unit_test(one_learns_where_sums_cost_much_and_learning_little),
      cmocka_unit_test(only_what_has_work_for_all_is_considered),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
