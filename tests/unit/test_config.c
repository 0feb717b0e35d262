// Settings: what is read, what is refused and with which words, and that what is printed reads back to the same bits.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config.h"

// ---------------------------------------------------------------------------------------------------------------------
// Helpers

static char folder[] = "/tmp/test_config.XXXXXX";

static const char *in_folder(const char *name) {
  static char paths[4][512];
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

static void write_file(const char *name, const char *text, size_t length) {
  FILE *file = fopen(in_folder(name), "wb");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, length, file), length);
  assert_int_equal(fclose(file), 0);
}

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

static void must_succeed(struct error *e) {
  if (e != NULL) {
    print_error("%s\n", e->text);
    error_free(e);
    fail();
  }
}

// The error is a usage error of one printable line that holds `expected`.
static void must_say(struct error *e, const char *expected) {
  if (e == NULL) {
    fail_msg("accepted; expected: %s", expected);
    return;
  }
  char text[2000];
  int code = e->code, length = snprintf(text, sizeof text, "%s", e->text);
  error_free(e);
  if (strstr(text, expected) == NULL) fail_msg("expected: %s\n      got: %s", expected, text);
  assert_int_equal(code, EXIT_CODE_USAGE);
  assert_in_range(length, 1, 1000);
  for (const unsigned char *s = (const unsigned char *)text; *s != '\0'; s++) assert_true(*s >= 0x20 && *s != 0x7f);
}

static struct error *parse(const char *text, struct config *config) {
  return config_parse("f.yaml", text, 0, NULL, config);
}

struct bad {
  const char *text, *expected;
};

// ---------------------------------------------------------------------------------------------------------------------
// What is read

static void defaults_are_the_papers(void **state) {
  (void)state;
  struct config c;
  memset(&c, 0xff, sizeof c);
  config_default(&c);
  assert_string_equal(c.task.name, "CartpoleBalance");
  assert_int_equal(c.task.episode_length, 0);
  assert_int_equal(c.task.reset, RESET_RANDOM);
  assert_int_equal(c.rollout.envs, 2048);
  assert_int_equal(c.rollout.unroll_length, 30);
  assert_int_equal(c.rollout.unrolls, 16);
  assert_int_equal(c.rollout.shards, 64);
  assert_true(c.rollout.reward_scaling == 10.0);
  assert_int_equal(c.rollout.normalizer, NORMALIZER_EXACT);
  assert_int_equal(c.policy.hidden.count, 4);
  for (int i = 0; i < 4; i++) assert_int_equal(c.policy.hidden.width[i], 32);
  assert_true(c.policy.output_scale == 0.25);
  assert_int_equal(c.policy.time_frequencies, 4);
  assert_int_equal(c.policy.sampler, SAMPLER_EULER);
  assert_int_equal(c.policy.flow_steps, 10);
  assert_true(c.policy.sde_sigma == 0.0 && c.policy.feather_std == 0.0);
  assert_int_equal(c.value.hidden.count, 5);
  for (int i = 0; i < 5; i++) assert_int_equal(c.value.hidden.width[i], 256);
  assert_int_equal(c.objective.kind, OBJECTIVE_FPO);
  assert_int_equal(c.objective.ratio, RATIO_AVERAGED);
  assert_int_equal(c.objective.supervision, SUPERVISION_EPS);
  assert_int_equal(c.objective.flow_time, FLOW_TIME_GRID);
  assert_int_equal(c.objective.mc_samples, 8);
  assert_true(c.policy.initial_std == 0.0 && c.objective.loss_weight == 1.0);
  assert_true(c.objective.clip == 0.05 && c.objective.log_ratio_clip == 3.0 && c.objective.value_coef == 0.25);
  assert_true(c.objective.discount == 0.995 && c.objective.gae_lambda == 0.95);
  assert_true(c.objective.normalize_advantage && !c.objective.bootstrap_truncated);
  assert_true(c.optimizer.learning_rate == 3e-4 && c.optimizer.beta1 == 0.9 && c.optimizer.beta2 == 0.999);
  assert_true(c.optimizer.epsilon == 1e-8 && c.optimizer.max_grad_norm == 0.0);
  assert_int_equal(c.optimizer.epochs, 16);
  assert_int_equal(c.optimizer.minibatches, 32);
  assert_int_equal(c.cluster.learners, 1);
  assert_int_equal(c.cluster.threads, THREADS_AUTO);
  assert_int_equal(c.cluster.pipeline, PIPELINE_SYNC);
  assert_int_equal(c.cluster.rebalance, REBALANCE_OFF);
  assert_true(c.cluster.timeout == 600);
  assert_int_equal(c.eval.episodes, 128);
  assert_int_equal(c.eval.flow_steps, 0);
  assert_int_equal(c.total_env_steps, 60000000);
  must_succeed(config_validate("defaults", &c));
}

// Every kind of value, from a file, into its field.
static void values_reach_their_fields(void **state) {
  (void)state;
  struct config c;
  must_succeed(parse("# comment\n"
                     "seed: 9223372036854775807\n"
                     "task: {name: \"HumanoidRun\", reset: first_state}\n"
                     "policy:\n  hidden: [7]\n  sampler: rk4\n  output_scale: 1e-3\n"
                     "value:\n  hidden:\n    - 8\n    - 9\n"
                     "objective:\n  bootstrap_truncated: true\n  clip: .5\n"
                     "cluster: {learners: all, threads: 3, rebalance: on, timeout: 30}\n",
                     &c));
  assert_true(c.seed == INT64_MAX);
  assert_string_equal(c.task.name, "HumanoidRun");
  assert_int_equal(c.task.reset, RESET_FIRST_STATE);
  assert_int_equal(c.policy.hidden.count, 1);
  assert_int_equal(c.policy.hidden.width[0], 7);
  assert_int_equal(c.policy.sampler, SAMPLER_RK4);
  assert_true(c.policy.output_scale == 1e-3);
  assert_int_equal(c.value.hidden.count, 2);
  assert_int_equal(c.value.hidden.width[1], 9);
  assert_true(c.objective.bootstrap_truncated);
  assert_true(c.objective.clip == 0.5);
  assert_int_equal(c.cluster.learners, LEARNERS_ALL);
  assert_int_equal(c.cluster.threads, 3);
  assert_int_equal(c.cluster.rebalance, REBALANCE_ON);
  assert_true(c.cluster.timeout == 30);
  assert_int_equal(c.rollout.envs, 2048); // untouched
  must_succeed(parse("cluster: {learners: auto}\n", &c));
  assert_int_equal(c.cluster.learners, LEARNERS_AUTO);
  must_succeed(parse("{}", &c));
  must_succeed(parse("\xef\xbb\xbf---\r\nseed: 5\r\n...\r\n", &c)); // an editor's byte order mark, and its line ends
  assert_int_equal(c.seed, 5);
}

static void set_overrides_in_order(void **state) {
  (void)state;
  struct config c;
  const char *const sets[] = {"seed=7",
                              "policy.hidden=[1, 2,3]",
                              "task.name=A/b-1.x",
                              "cluster.learners=all",
                              "cluster.threads=auto",
                              "objective.clip=0.25",
                              "seed=8"};
  must_succeed(config_parse("f.yaml", "seed: 6\ncluster: {threads: 4}\n", 7, sets, &c));
  assert_int_equal(c.seed, 8);
  assert_int_equal(c.policy.hidden.count, 3);
  assert_int_equal(c.policy.hidden.width[2], 3);
  assert_string_equal(c.task.name, "A/b-1.x");
  assert_int_equal(c.cluster.learners, LEARNERS_ALL);
  assert_int_equal(c.cluster.threads, THREADS_AUTO);
  assert_true(c.objective.clip == 0.25);
}

static void a_refused_config_leaves_the_callers_alone(void **state) {
  (void)state;
  struct config c, before;
  memset(&c, 0x5a, sizeof c);
  before = c;
  must_say(parse("seed: 5\nseedy: 6\n", &c), "did you mean 'seed'?");
  assert_memory_equal(&c, &before, sizeof c);
}

// ---------------------------------------------------------------------------------------------------------------------
// What is refused

static const struct bad bad_texts[] = {
    // keys
    {"rollout:\n  envz: 5\n", "f.yaml:2:3: key 'rollout.envz' is unknown; did you mean 'rollout.envs'?"},
    {"rolout:\n  envs: 5\n", "f.yaml:1:1: key 'rolout' is unknown; did you mean 'rollout'?"},
    {"sede: 5\n", "f.yaml:1:1: key 'sede' is unknown; did you mean 'seed'?"},
    {"bsae: x.yaml\n", "key 'bsae' is unknown; did you mean 'base'?"},
    {"learning_rate: 1\n", "key 'learning_rate' is unknown; did you mean 'optimizer.learning_rate'?"},
    {"policy: {mc_samples: 1}\n", "key 'policy.mc_samples' is unknown; did you mean 'objective.mc_samples'?"},
    {"log:\n  verbosity: 5\n", "f.yaml:2:3: key 'log.verbosity' is unknown; section 'log' has: interval"},
    {"colour: red\n", "f.yaml:1:1: key 'colour' is unknown; the top level has: base, task, rollout, "},
    {"Seed: 5\n", "did you mean 'seed'?"},
    {"<<: {seed: 1}\n", "key '<<' is unknown"},
    {"'': 1\n", "f.yaml:1:1: key '' is unknown"},
    {"seed: 5\nseed: 5\n", "f.yaml:2:1: key 'seed' is set twice; first at f.yaml:1:1"},
    {"value:\n  hidden: [1]\n  hidden: [1]\n", "f.yaml:3:3: key 'value.hidden' is set twice; first at f.yaml:2:3"},
    {"log: {interval: 1}\nseed: 1\nlog: {interval: 1}\n", "f.yaml:3:1: section 'log' appears twice"},
    {"log:\nseed: 5\n", "f.yaml:1:1: section 'log' holds no keys; give it some of: interval"},
    {"eval: 5\n", "section 'eval' holds no keys; give it some of: every, episodes"},
    {"eval: [5]\n", "section 'eval' holds no keys"},
    {"? [a, b]\n: 5\n", "f.yaml:1:3: a key must be one word"},
    {"? {a: b}\n: 5\n", "f.yaml:1:3: a key must be one word"},
    {"log: {? [interval] : 5}\n", "a key must be one word"},
    {"base: other.yaml\n", "f.yaml:1:1: key 'base' is not allowed here"},
    {"base: [a, b]\n", "f.yaml:1:7: key 'base' needs the path of one YAML file"},
    {"base:\n", "key 'base' needs the path of one YAML file"},
    {"base: a\nbase: b\n", "f.yaml:2:1: key 'base' is set twice; first at f.yaml:1:1"},
    // integers
    {"seed: abc\n", "f.yaml:1:7: key 'seed' is 'abc'; allowed: an integer in [0, 9223372036854775807]"},
    {"seed: 1.5\n", "key 'seed' is '1.5'; allowed: an integer"},
    {"total_env_steps: 60e6\n", "key 'total_env_steps' is '60e6'; allowed: an integer"},
    {"seed: 0x10\n", "key 'seed' is '0x10'"},
    {"seed: 010\n", "key 'seed' is '010'"},
    {"seed: -1\n", "key 'seed' is '-1'; allowed: an integer in [0, "},
    {"seed: --1\n", "key 'seed' is '--1'"},
    {"seed: 9223372036854775808\n", "key 'seed' is '9223372036854775808'"},
    {"seed: -99999999999999999999999\n", "key 'seed' is '-99999999999999999999999'"},
    {"seed: '5'\n", "key 'seed' is the quoted string '5'"},
    {"seed: |\n  5\n", "key 'seed' is the quoted string '5\\x0a'"},
    {"seed:\n", "key 'seed' is empty; allowed: an integer"},
    {"seed: ~\n", "key 'seed' is '~'"},
    {"seed: true\n", "key 'seed' is 'true'"},
    {"seed: [5]\n", "f.yaml:1:7: key 'seed' is a list; allowed: an integer"},
    {"seed: {a: 5}\n", "f.yaml:1:7: key 'seed' is a mapping; allowed: an integer"},
    {"rollout: {envs: {a: {b: {c: {}}}}}\n", "key 'rollout.envs' is a mapping"},
    {"rollout: {envs: 0}\n", "f.yaml:1:17: key 'rollout.envs' is '0'; allowed: an integer in [1, 1048576]"},
    {"cluster: {learners: some}\n",
     "key 'cluster.learners' is 'some'; allowed: an integer in [1, 65536], or all or auto"},
    {"cluster: {learners: -2}\n", "key 'cluster.learners' is '-2'; allowed: an integer in [1, 65536], or all or auto"},
    {"cluster: {rebalance: true}\n", "key 'cluster.rebalance' is 'true'; allowed: off or on"},
    {"cluster: {timeout: -1}\n", "key 'cluster.timeout' is '-1'; allowed: a finite number in [0, 1e6]"},
    {"cluster: {learners: -1}\n", "key 'cluster.learners' is '-1'; allowed: an integer in [1, 65536], or all"},
    {"cluster: {threads: all}\n", "key 'cluster.threads' is 'all'; allowed: an integer in [1, 4096], or auto"},
    {"eval: {episodes: 0}\n", "key 'eval.episodes' is '0'; allowed: an integer in [1, "},
    // reals
    {"objective: {clip: nan}\n", "key 'objective.clip' is 'nan'; allowed: a finite number in (0, 1)"},
    {"objective: {clip: .nan}\n", "key 'objective.clip' is '.nan'; allowed: a finite number"},
    {"optimizer: {learning_rate: .inf}\n", "key 'optimizer.learning_rate' is '.inf'; allowed: a finite number"},
    {"optimizer: {learning_rate: inf}\n", "key 'optimizer.learning_rate' is 'inf'"},
    {"optimizer: {learning_rate: 1e999}\n", "key 'optimizer.learning_rate' is '1e999'"},
    {"optimizer: {learning_rate: 3e-4x}\n", "key 'optimizer.learning_rate' is '3e-4x'"},
    {"optimizer: {learning_rate: 3e}\n", "key 'optimizer.learning_rate' is '3e'"},
    {"optimizer: {learning_rate: -1}\n", "key 'optimizer.learning_rate' is '-1'; allowed: a finite number in [0, 1]"},
    {"optimizer: {learning_rate: 0,1}\n", "key 'optimizer.1' is unknown; section 'optimizer' has: learning_rate, "},
    {"optimizer: {beta1: 1}\n", "key 'optimizer.beta1' is '1'; allowed: a finite number in [0, 0.999999]"},
    {"objective: {discount: 1.01}\n", "key 'objective.discount' is '1.01'; allowed: a finite number in [0, 1]"},
    {"objective: {gae_lambda: 2}\n", "key 'objective.gae_lambda' is '2'"},
    {"objective: {clip: 0}\n", "key 'objective.clip' is '0'; allowed: a finite number in (0, 1)"},
    {"objective: {clip: 1.0}\n", "key 'objective.clip' is '1.0'"},
    {"objective: {clip: \"0.1\"}\n", "key 'objective.clip' is the quoted string '0.1'"},
    // booleans, words, choices
    {"objective: {normalize_advantage: yes}\n", "is 'yes'; allowed: true or false"},
    {"objective: {normalize_advantage: 1}\n", "is '1'; allowed: true or false"},
    {"task: {name: a b}\n", "key 'task.name' is 'a b'; allowed: a name of letters"},
    {"task: {name: ''}\n", "key 'task.name' is empty"},
    {"task: {name: \"a\\nb\\e[31m\"}\n", "key 'task.name' is the quoted string 'a\\x0ab\\x1b[31m'"},
    {"task: {name: \"a\\0b\"}\n", "f.yaml:1:14: a zero byte is not allowed in a value"},
    {"task: {name: [a]}\n", "key 'task.name' is a list"},
    {"policy: {sampler: eular}\n", "key 'policy.sampler' is 'eular'; allowed: euler, heun, midpoint or rk4"},
    {"policy: {sampler: Euler}\n", "key 'policy.sampler' is 'Euler'; allowed: euler"},
    {"objective: {ratio: }\n", "key 'objective.ratio' is empty; allowed: averaged or per_sample"},
    // lists
    {"policy: {hidden: 32}\n", "key 'policy.hidden' is '32'; allowed: a list of 1 to 16 integers in [1, 65536]"},
    {"policy: {hidden: []}\n", "key 'policy.hidden' is an empty list; allowed: a list"},
    {"policy: {hidden: {a: 1}}\n", "key 'policy.hidden' is a mapping"},
    {"policy:\n  hidden:\n    - 32\n    - 0\n", "f.yaml:4:7: key 'policy.hidden' is '0'"},
    {"policy: {hidden: [32, x]}\n", "f.yaml:1:23: key 'policy.hidden' is 'x'"},
    {"policy: {hidden: [[32]]}\n", "key 'policy.hidden' is a list in a list"},
    {"policy: {hidden: [{a: 1}]}\n", "key 'policy.hidden' is a mapping"},
    {"policy: {hidden: ['32']}\n", "key 'policy.hidden' is the quoted string '32'"},
    {"policy: {hidden: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}\n", "too many widths; allowed: 1 to 16"},
    // the text as a whole
    {"", "f.yaml:1:1: the file is empty"},
    {"# nothing\n\n", "the file is empty"},
    {"---\n", "the file is empty"},
    {"--- ''\n", "the file is empty"},
    {"hello\n", "f.yaml:1:1: a config is a mapping"},
    {"- seed: 5\n", "f.yaml:1:1: a config is a mapping"},
    {"seed: 5\n---\nseed: 6\n", "f.yaml:2:1: only one YAML document is allowed"},
    {"seed: &x 5\n", "f.yaml:1:7: anchors and aliases (&x, *x) are not allowed"},
    {"seed: *x\n", "f.yaml:1:7: anchors and aliases"},
    {"policy: {hidden: &x [5]}\n", "anchors and aliases"},
    {"eval: &x {seed: 5}\n", "anchors and aliases"},
    {"&x seed: 5\n", "anchors and aliases"},
    {"seed: !!int 5\n", "f.yaml:1:7: the tag 'tag:yaml.org,2002:int' is not allowed"},
    {"eval: !!python/object {seed: 5}\n", "the tag 'tag:yaml.org,2002:python/object' is not allowed"},
    {"value: {hidden: [5\n", "f.yaml:2:1: not valid YAML: did not find expected ',' or ']'"},
    {"seed: 5\n  envs: 6\n", "f.yaml:1:7: key 'seed' is '5 envs', over several lines; allowed: an integer"},
    {"task:\n  name: a\n    reset: b\n", "f.yaml:2:9: key 'task.name' is 'a reset'"},
    {"eval: {}\n  log: {}\n", "f.yaml:2:3: not valid YAML: "},
    {"seed: \"5\n", "not valid YAML: found unexpected end of stream while scanning a quoted scalar"},
    {"rollout:\n\tenvs: 5\n", "f.yaml:2:1: not valid YAML: found character that cannot start any token"},
    {"seed: 5\nx\n", "f.yaml:3:1: not valid YAML: could not find expected ':'"},
    {"%BOGUS\nseed: 5\n", "not valid YAML"},
    {"%YAML 3.0\n---\nseed: 5\n", "not valid YAML: found incompatible YAML document"},
    {"seed: 5\n\nseed: \xff\n", "f.yaml:3:7: not valid YAML: invalid leading UTF-8 octet"},
    {"seed: \xc3(\n", "f.yaml:1:8: not valid YAML: invalid trailing UTF-8 octet"},
    {"seed: \xed\xa0\x80\n", "not valid YAML"},
    {"seed: \xf8\x88\x80\x80\x80\n", "not valid YAML"},
    {"seed: \x1b[31m5\n", "f.yaml:1:7: not valid YAML: control characters are not allowed"},
    {"\x7f"
     "ELF\x02\x01\x01",
     "f.yaml:1:1: not valid YAML"},
    {"\xff\xfes\x01", "not valid YAML"},
};

static void bad_text_is_refused_in_one_line_with_its_place(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad_texts / sizeof bad_texts[0]; i++) {
    struct config c;
    must_say(parse(bad_texts[i].text, &c), bad_texts[i].expected);
  }
}

static const struct bad bad_sets[] = {
    {"rollout.envz=5", "--set rollout.envz=5: key 'rollout.envz' is unknown; did you mean 'rollout.envs'?"},
    {"envs=5", "--set envs=5: key 'envs' is unknown; did you mean 'rollout.envs'?"},
    {"rollout=5", "--set rollout=5: key 'rollout' is unknown; section 'rollout' has: envs, unroll_length"},
    {"base=x.yaml", "--set base=x.yaml: key 'base' is unknown; the top level has: "},
    {"seed", "--set seed: write --set section.key=value"},
    {"=5", "--set =5: write --set section.key=value"},
    {"", "--set : write --set section.key=value"},
    {"seed=", "--set seed=: no value is given"},
    {"seed=#5", "--set seed=#5: no value is given"},
    {"seed=abc", "--set seed=abc: key 'seed' is 'abc'; allowed: an integer in [0, "},
    {"seed=-5", "--set seed=-5: key 'seed' is '-5'"},
    {"seed=\"5\"", "key 'seed' is the quoted string '5'"},
    {"seed=5\n6", "--set seed=5\\x0a6: key 'seed' is '5 6'"},
    {"seed=[5]", "--set seed=[5]: key 'seed' is a list"},
    {"value.hidden=[5", "--set value.hidden=[5: not valid YAML: "},
    {"seed=a: 5", "--set seed=a: 5: key 'seed' is a mapping"},
    {"seed=5\n---\n6", "only one YAML document is allowed"},
    {"seed=&x 5", "anchors and aliases"},
    {"seed=\xff", "--set seed=\\xff: not valid YAML: invalid leading UTF-8 octet"},
    {"seed==5", "--set seed==5: key 'seed' is '=5'"},
    {"policy.hidden=32", "--set policy.hidden=32: key 'policy.hidden' is '32'; allowed: a list"},
    {"policy.hidden=[]", "key 'policy.hidden' is an empty list"},
    {"objective.clip=nan", "key 'objective.clip' is 'nan'; allowed: a finite number"},
    {" seed=5", "key ' seed' is unknown; did you mean 'seed'?"},
};

static void bad_set_is_refused_by_its_own_text(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad_sets / sizeof bad_sets[0]; i++) {
    struct config c;
    must_say(config_parse("f.yaml", "seed: 5\n", 1, &bad_sets[i].text, &c), bad_sets[i].expected);
  }
  char longest[5000]; // nothing that comes in long comes out long
  memset(longest, 'k', sizeof longest);
  longest[4000] = '=', longest[4999] = '\0';
  const char *const sets[] = {longest};
  struct config c;
  must_say(config_parse("f.yaml", "seed: 5\n", 1, sets, &c), "is unknown");
  memcpy(longest, "task.name=", 10);
  must_say(config_parse("f.yaml", "seed: 5\n", 1, sets, &c), "key 'task.name' is 'kkk");
  must_say(parse(longest + 4001, &c), "a config is a mapping");
}

static const struct bad bad_combinations[] = {
    {"rollout:\n  envs: 100\n", "f.yaml:2:3: rollout.envs is 100, rollout.shards is 64: envs must be a multiple of "
                                "shards; nearest envs: 64 or 128"},
    {"rollout: {shards: 4096}\n", "f.yaml:1:11: rollout.envs is 2048, rollout.shards is 4096: envs must be a multiple "
                                  "of shards; nearest envs: 4096"},
    {"optimizer: {minibatches: 48}\n",
     "f.yaml:1:13: rollout.envs is 2048, rollout.shards is 64, rollout.unrolls is 16, optimizer.minibatches is 48: "
     "envs / shards * unrolls (512) must be a multiple of minibatches; nearest unrolls: 15 or 18; nearest minibatches: "
     "32"},
    {"rollout: {envs: 64, unrolls: 1}\n", "envs / shards * unrolls (1) must be a multiple of minibatches; nearest "
                                          "unrolls: 32; nearest minibatches: 1"},
    {"cluster:\n  learners: 65\n", "f.yaml:2:3: cluster.learners is 65, rollout.shards is 64: every learner needs a "
                                   "shard; allowed: at most 64 learners, or all"},
    {"policy: {sampler: heun, sde_sigma: 0.1}\n", "f.yaml:1:10: policy.sampler is heun, policy.sde_sigma is 0.1: only "
                                                  "euler takes noise; set policy.sampler to euler "
                                                  "or sde_sigma to 0"},
    {"objective: {kind: dppo}\n",
     "objective.kind is dppo, policy.sampler is euler, policy.sde_sigma is 0.0: dppo learns "
     "from the noise"},
    {"objective: {kind: dppo, denoising_steps: 11}\npolicy: {sde_sigma: 0.1}\n",
     "objective.denoising_steps is 11, policy.flow_steps is 10: no more flow steps"},
    {"objective: {kind: dppo}\npolicy: {sde_sigma: 0.1, feather_std: 0}\n",
     "f.yaml:2:26: policy.feather_std is 0.0, objective.kind is dppo: dppo has no such setting"},
    {"objective: {kind: ppo, supervision: eps}\n",
     "f.yaml:1:24: objective.supervision is eps, objective.kind is ppo: ppo has no such setting; remove it"},
    {"objective: {kind: ppo}\neval: {sampler: heun}\n", "eval.sampler is heun, objective.kind is ppo: ppo has no such"},
    {"objective: {entropy_cost: 0.01}\n", "objective.entropy_cost is 0.01, objective.kind is fpo: fpo has no such"},
    {"rollout: {envs: 1048576, shards: 65536, unrolls: 1048576, unroll_length: 65536}\n",
     "steps a shard and iteration; allowed: at most 2147483647"},
    {"rollout: {envs: 1048576, shards: 65536, unrolls: 65536, unroll_length: 2047}\n",
     "steps an iteration; allowed: at most 1099511627776"},
    {"rollout: {envs: 1, shards: 1, unrolls: 32}\ntotal_env_steps: 1000000000000\n",
     "f.yaml:2:1: total_env_steps is 1000000000000, rollout.envs is 1: "},
    {"rollout: {envs: 1024, shards: 1, unrolls: 1, unroll_length: 1}\ntotal_env_steps: 1000000000000\n"
     "optimizer: {epochs: 5}\n",
     "optimizer.epochs is 5, rollout.envs is 1024: 976562500 iterations; allowed: at most 4294967295 epochs in all"},
};

static void bad_combination_names_keys_values_and_the_nearest_allowed(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad_combinations / sizeof bad_combinations[0]; i++) {
    struct config c;
    must_say(parse(bad_combinations[i].text, &c), bad_combinations[i].expected);
  }
  struct config c; // the largest shard that fits
  must_succeed(parse("rollout: {envs: 64, shards: 1, unrolls: 1048576}\n", &c));
  must_say(parse("rollout: {envs: 64, shards: 1, unrolls: 1048576, unroll_length: 32}\n", &c), "is 32, ");
}

// Where two keys do not fit together, the message points at the one that was set last.
static void bad_combination_points_at_what_was_set_last(void **state) {
  (void)state;
  struct config c;
  const char *const sets[] = {"rollout.shards=3"};
  must_say(
      config_parse("f.yaml", "rollout: {envs: 64}\n", 1, sets, &c),
      "--set rollout.shards=3: rollout.envs is 64, rollout.shards is 3: envs must be a multiple of shards; nearest "
      "envs: 63 or 66");
  write_text("parent.yaml", "rollout:\n  shards: 10\n  envs: 20\noptimizer:\n  minibatches: 4\n");
  write_text("child.yaml", "base: parent.yaml\n\nrollout:\n  envs: 25\n");
  must_say(config_load(in_folder("child.yaml"), 0, NULL, &c), "child.yaml:4:3: rollout.envs is 25, rollout.shards is "
                                                              "10: ");
}

// A base file may be written for another method: what it says of that method alone is passed over. What stands beside
// the choice of the method, or comes after it, means it.
static void keys_of_another_method_are_passed_over_in_a_base_alone(void **state) {
  (void)state;
  struct config c, again;
  char *text;
  write_text("flow.yaml", "policy: {hidden: [7], sampler: rk4, flow_steps: 3}\nobjective: {supervision: velocity}\n");
  write_text("gaussian.yaml", "base: flow.yaml\nobjective: {kind: ppo, entropy_cost: 0.01}\n");
  must_succeed(config_load(in_folder("gaussian.yaml"), 0, NULL, &c));
  assert_int_equal(c.objective.kind, OBJECTIVE_PPO);
  assert_int_equal(c.policy.hidden.width[0], 7);
  assert_int_equal(c.policy.sampler, SAMPLER_EULER);
  assert_int_equal(c.policy.flow_steps, 10);
  must_succeed(config_print(&c, &text));
  assert_null(strstr(text, "sampler"));
  assert_non_null(strstr(text, "entropy_cost: 0.01"));
  must_succeed(config_parse("again", text, 0, NULL, &again));
  assert_null(config_first_difference(&c, &again, false));
  free(text);
  const char *const late[] = {"policy.flow_steps=4"}, *const both[] = {"policy.flow_steps=4", "objective.kind=ppo"};
  must_say(
      config_load(in_folder("gaussian.yaml"), 1, late, &c),
      "--set policy.flow_steps=4: policy.flow_steps is 4, objective.kind is ppo: ppo has no such setting; remove it");
  must_say(config_load(in_folder("flow.yaml"), 2, both, &c), "policy.flow_steps is 4, objective.kind is ppo: ppo has");
  must_succeed(config_load(in_folder("flow.yaml"), 1, both + 1, &c));
  assert_int_equal(c.policy.flow_steps, 10);
}

static void words_stand_for_numbers(void **state) {
  (void)state;
  struct config c;
  must_succeed(parse("objective: {kind: dppo, denoising_steps: last_half}\npolicy: {sde_sigma: 0.1}\n", &c));
  assert_int_equal(c.objective.denoising_steps, DENOISING_LAST_HALF);
  must_succeed(parse("objective: {kind: dppo, denoising_steps: 4}\npolicy: {sde_sigma: 0.1}\n", &c));
  assert_int_equal(c.objective.denoising_steps, 4);
  must_say(parse("objective: {denoising_steps: half}\n", &c),
           "key 'objective.denoising_steps' is 'half'; allowed: an integer in [1, 1000], or all or last_half");
  must_say(parse("eval: {noise: 2}\n", &c), "key 'eval.noise' is '2'; allowed: an integer in [0, 1], or auto");
}

static void a_config_filled_by_hand_is_checked_too(void **state) {
  (void)state;
  struct config c;
  config_default(&c);
  c.rollout.shards = 0;
  must_say(config_validate("run", &c), "run: rollout.shards is 0: allowed: an integer in [1, 65536]");
  config_default(&c);
  c.objective.clip = (double)NAN;
  must_say(config_validate("run", &c), "run: objective.clip is ");
  config_default(&c);
  c.policy.hidden.count = 0;
  must_say(config_validate("run", &c), "run: policy.hidden is []: allowed: a list");
  config_default(&c);
  c.policy.sampler = (enum sampler_kind)17;
  must_say(config_validate("run", &c), "run: policy.sampler is ?: allowed: euler");
  config_default(&c);
  c.rollout.envs = 100;
  must_say(config_validate("run", &c), "run: rollout.envs is 100, rollout.shards is 64: ");
}

// ---------------------------------------------------------------------------------------------------------------------
// Files

static void file_that_cannot_be_read_is_named(void **state) {
  (void)state;
  struct config c;
  must_say(config_load(in_folder("none.yaml"), 0, NULL, &c),
           "/none.yaml: cannot read this config file: No such file or directory");
  must_say(config_load(folder, 0, NULL, &c), ": Is a directory");
  must_say(config_load("", 0, NULL, &c), "No such file");
  must_say(config_load("/dev/null", 0, NULL, &c), "/dev/null:1:1: the file is empty");
  must_say(config_load("/dev/zero", 0, NULL, &c), "/dev/zero: too large for a config; allowed: at most 1048576 bytes");
  must_say(config_load("a\nb\x1b[2J\xff.yaml", 0, NULL, &c),
           "a\\x0ab\\x1b[2J\\xff.yaml: cannot read this config file: No such file");
}

static void huge_or_binary_file_is_refused(void **state) {
  (void)state;
  enum { LIMIT = 1 << 20 };
  struct config c;
  char *text = malloc(LIMIT + 1);
  assert_non_null(text);
  memset(text, '#', LIMIT + 1);
  const char head[] = "seed: 3\n", key[] = "seed: ";
  memcpy(text, head, sizeof head - 1);
  write_file("limit.yaml", text, LIMIT);
  must_succeed(config_load(in_folder("limit.yaml"), 0, NULL, &c));
  assert_int_equal(c.seed, 3);
  write_file("huge.yaml", text, LIMIT + 1);
  must_say(config_load(in_folder("huge.yaml"), 0, NULL, &c), "huge.yaml: too large for a config");

  for (int i = 0; i < LIMIT; i++) text[i] = (char)((unsigned)i * 2654435761u >> 24);
  write_file("binary.yaml", text, LIMIT);
  must_say(config_load(in_folder("binary.yaml"), 0, NULL, &c), "binary.yaml:1:");
  write_file("zero.yaml", "seed: 3\n\0\n", 10);
  must_say(config_load(in_folder("zero.yaml"), 0, NULL, &c), "zero.yaml:2:1: not valid YAML: control characters");

  const char *const openers[] = {"[", "{", "- ", "? ", "a: {", "[{", "\n [", "\"", "!", "&a "}; // deep, deeper
  for (size_t k = 0; k < sizeof openers / sizeof openers[0]; k++) {
    size_t length = strlen(openers[k]);
    for (size_t i = 0; i + length <= LIMIT; i += length) memcpy(text + i, openers[k], length);
    write_file("deep.yaml", text, LIMIT / length * length);
    must_say(config_load(in_folder("deep.yaml"), 0, NULL, &c), "deep.yaml:");
  }
  memset(text, 'x', LIMIT); // one endless word as a key, and as a value
  write_file("word.yaml", text, LIMIT);
  must_say(config_load(in_folder("word.yaml"), 0, NULL, &c), "word.yaml:1:1: a config is a mapping");
  memcpy(text, key, sizeof key - 1);
  write_file("word.yaml", text, LIMIT);
  must_say(config_load(in_folder("word.yaml"), 0, NULL, &c), "word.yaml:1:7: key 'seed' is 'xxx");
  free(text);
}

static void base_is_inherited(void **state) {
  (void)state;
  struct config c;
  assert_int_equal(mkdir(in_folder("sub"), 0777), 0);
  write_text("a.yaml", "seed: 1\nrollout: {envs: 128}\npolicy: {hidden: [1, 2, 3]}\ntask: {name: LongerName}\n");
  write_text("sub/b.yaml", "seed: 2\nbase: ../a.yaml\npolicy: {hidden: [4]}\n");
  write_text("c.yaml", "task: {name: Short}\nbase: sub/b.yaml\n");
  const char *const sets[] = {"objective.clip=0.5"};
  must_succeed(config_load(in_folder("c.yaml"), 1, sets, &c));
  assert_int_equal(c.seed, 2);
  assert_int_equal(c.rollout.envs, 128);
  assert_int_equal(c.policy.hidden.count, 1);
  assert_int_equal(c.policy.hidden.width[0], 4);
  assert_int_equal(c.policy.hidden.width[1], 0); // nothing of the longer list shows through
  assert_string_equal(c.task.name, "Short");
  assert_true(c.objective.clip == 0.5);

  char absolute[600];
  snprintf(absolute, sizeof absolute, "base: %s\n", in_folder("a.yaml"));
  write_text("sub/absolute.yaml", absolute);
  must_succeed(config_load(in_folder("sub/absolute.yaml"), 0, NULL, &c));
  assert_int_equal(c.seed, 1);

  assert_int_equal(chdir(folder), 0); // a file named without any folder
  must_succeed(config_load("c.yaml", 0, NULL, &c));
  assert_int_equal(c.seed, 2);
}

static void fault_in_a_base_names_the_file_that_holds_it(void **state) {
  (void)state;
  struct config c;
  write_text("bad.yaml", "seed: 1\nrollout:\n  envz: 64\n");
  write_text("on_bad.yaml", "base: bad.yaml\n");
  must_say(config_load(in_folder("on_bad.yaml"), 0, NULL, &c), "/bad.yaml:3:3: key 'rollout.envz' is unknown");
  write_text("on_none.yaml", "seed: 1\nbase: none.yaml\n");
  must_say(config_load(in_folder("on_none.yaml"), 0, NULL, &c), "/on_none.yaml:2:1: base: ");
  must_say(config_load(in_folder("on_none.yaml"), 0, NULL, &c),
           "/none.yaml: cannot read this config file: No such file or directory");
  write_text("on_folder.yaml", "base: .\n");
  must_say(config_load(in_folder("on_folder.yaml"), 0, NULL, &c), ": Is a directory");
  write_text("self.yaml", "base: self.yaml\n");
  must_say(config_load(in_folder("self.yaml"), 0, NULL, &c), "/self.yaml:1:1: base: ");
  must_say(config_load(in_folder("self.yaml"), 0, NULL, &c), "more than 8 files inherit from one another");
  write_text("ping.yaml", "base: pong.yaml\n");
  write_text("pong.yaml", "base: ping.yaml\n");
  must_say(config_load(in_folder("ping.yaml"), 0, NULL, &c), "more than 8 files inherit from one another");
}

// ---------------------------------------------------------------------------------------------------------------------
// What is written

static void round_trip(const struct config *c) {
  char *text = NULL, *again = NULL;
  struct config read;
  must_succeed(config_print(c, &text));
  must_succeed(config_parse("printed", text, 0, NULL, &read));
  assert_null(config_first_difference(c, &read, false));
  assert_memory_equal(&c->optimizer.learning_rate, &read.optimizer.learning_rate, sizeof(double));
  assert_memory_equal(&c->policy.sde_sigma, &read.policy.sde_sigma, sizeof(double));
  must_succeed(config_print(&read, &again));
  assert_string_equal(text, again);
  free(text);
  free(again);
}

static void printed_config_reads_back_to_the_same_bits(void **state) {
  (void)state;
  struct config c;
  config_default(&c);
  round_trip(&c);
  const double rates[] = {0.1 + 0.2, 1.0 / 3.0, DBL_MIN, DBL_TRUE_MIN, 1.0 - DBL_EPSILON / 2,
                          0.0,       -0.0,      1.0,     1e-8,         1e-15};
  for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
    c.optimizer.learning_rate = rates[i];
    c.policy.sde_sigma = 100 * rates[i];
    round_trip(&c);
  }
  uint64_t word = 1;
  for (int i = 0; i < 2000; i++) { // bits of every kind in [0, 1)
    word = word * 6364136223846793005u + 1442695040888963407u;
    c.optimizer.learning_rate = ldexp((double)(word >> 11), -53 - (int)(word % 60));
    round_trip(&c);
  }
  config_default(&c);
  c.seed = INT64_MAX;
  memset(c.task.name, 'n', CONFIG_MAX_NAME - 1);
  c.task.reset = RESET_FIRST_STATE;
  c.policy.hidden.count = CONFIG_MAX_LAYERS;
  for (int i = 0; i < CONFIG_MAX_LAYERS; i++) c.policy.hidden.width[i] = 65536 - i;
  c.policy.sampler = SAMPLER_RK4;
  c.objective.bootstrap_truncated = true;
  c.cluster.learners = LEARNERS_ALL;
  c.cluster.threads = 5;
  round_trip(&c);
}

static void printed_reals_are_short_and_have_a_point(void **state) {
  (void)state;
  struct config c;
  char *text = NULL;
  config_default(&c);
  must_succeed(config_print(&c, &text));
  assert_non_null(strstr(text, "\n  epsilon: 1.0e-08\n"));
  assert_non_null(strstr(text, "\n  learning_rate: 0.0003\n"));
  assert_non_null(strstr(text, "\n  reward_scaling: 10.0\n"));
  assert_non_null(strstr(text, "\n  hidden: [32, 32, 32, 32]\n"));
  assert_non_null(strstr(text, "\n  threads: auto\n"));
  free(text);
}

// Walks the printed config: each of its keys can be set, has a row in the reference, and shows up as a difference.
static void every_key_is_settable_documented_and_compared(void **state) {
  (void)state;
  struct config c;
  char *text = NULL, *reference = NULL, section[64] = "";
  size_t size = 0;
  config_default(&c);
  must_succeed(config_print(&c, &text));
  FILE *out = open_memstream(&reference, &size);
  assert_non_null(out);
  must_succeed(config_reference(out));
  assert_int_equal(fclose(out), 0);

  int keys = 0;
  for (char *rest = text, *line; (line = strsep(&rest, "\n")) != NULL && *line != '\0';) {
    char key[64], value[200], name[160], row[200], set[400];
    bool inner = line[0] == ' ';
    if (sscanf(line, " %63[a-z_0-9]: %199[^\n]", key, value) == 1) {
      snprintf(section, sizeof section, "%s", key);
      snprintf(row, sizeof row, "## %s\n", section);
      assert_non_null(strstr(reference, row));
      continue;
    }
    snprintf(name, sizeof name, "%s%s%s", inner ? section : "", inner ? "." : "", key);
    snprintf(row, sizeof row, "\n| `%s` | ", name);
    if (strstr(reference, row) == NULL) fail_msg("no row for %s", name);
    snprintf(set, sizeof set, "%s=%s", name, value);
    const char *const sets[] = {set};
    struct config read;
    must_succeed(config_parse("f.yaml", "{}", 1, sets, &read));
    assert_null(config_first_difference(&c, &read, false));
    keys++;
  }
  assert_true(keys >= 49);
  for (char *row = reference, *next; (next = strchr(row, '\n')) != NULL; row = next + 1) {
    int bars = 0; // every row of a table has its five cells
    for (char *s = row; s < next; s++) bars += *s == '|';
    assert_true(bars == 0 || bars == 6);
  }
  free(text);
  free(reference);
}

static void first_difference_names_the_key(void **state) {
  (void)state;
  struct config a, b;
  config_default(&a);
  config_default(&b);
  assert_null(config_first_difference(&a, &b, false));
  b.log.interval = 2;
  assert_string_equal(config_first_difference(&a, &b, false), "log.interval");
  assert_null(config_first_difference(&a, &b, true));
  b.total_env_steps++, b.cluster.learners = LEARNERS_ALL, b.cluster.threads = 3, b.checkpoint.every++;
  b.cluster.rebalance = REBALANCE_ON, b.cluster.timeout = 0;
  b.checkpoint.keep++, b.eval.every++, b.eval.episodes++, b.eval.flow_steps++, b.eval.seed++;
  b.eval.sampler = SAMPLER_HEUN;
  assert_null(config_first_difference(&a, &b, true));
  b.value.hidden.width[4] = 1;
  assert_string_equal(config_first_difference(&a, &b, true), "value.hidden");
  b.policy.sampler = SAMPLER_HEUN;
  assert_string_equal(config_first_difference(&a, &b, true), "policy.sampler");
  b.seed++;
  assert_string_equal(config_first_difference(&a, &b, true), "seed");
  config_default(&b);
  b.value.hidden.width[5] = 1; // beyond the count: no difference
  assert_null(config_first_difference(&a, &b, false));
  b.objective.discount = nextafter(b.objective.discount, 0);
  assert_string_equal(config_first_difference(&a, &b, false), "objective.discount");
}

static void sampler_words_go_both_ways(void **state) {
  (void)state;
  for (int i = SAMPLER_EULER; i <= SAMPLER_RK4; i++) {
    enum sampler_kind kind = SAMPLER_EULER;
    must_succeed(config_sampler_parse(config_sampler_name((enum sampler_kind)i), &kind));
    assert_int_equal(kind, i);
  }
  enum sampler_kind kind;
  must_say(config_sampler_parse("eular", &kind), "sampler 'eular' is unknown; allowed: euler, heun, midpoint or rk4");
}

// The files that ship, found by where this source was compiled from.
static void shipped_configs_load(void **state) {
  struct config c, defaults;
  char path[8192];
  int root = (int)(strlen(__FILE__) - strlen("tests/unit/test_config.c"));
  config_default(&defaults);
  const char *from = __FILE__[0] == '/' ? "" : *state; // the folder the test was started in
  snprintf(path, sizeof path, "%s/%.*sconfigs/paper/fpo.yaml", from, root, __FILE__);
  if (access(path, R_OK) != 0) skip(); // an installed test
  must_succeed(config_load(path, 0, NULL, &c));
  assert_null(config_first_difference(&defaults, &c, false)); // the paper's numbers are the defaults
  snprintf(path, sizeof path, "%s/%.*sconfigs/quickstart.yaml", from, root, __FILE__);
  must_succeed(config_load(path, 0, NULL, &c));
}

static char start_folder[4096];

static int make_folder(void **state) {
  (void)state;
  return getcwd(start_folder, sizeof start_folder) == NULL || mkdtemp(folder) == NULL;
}

static int remove_folder(void **state) {
  (void)state;
  char command[600];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return chdir("/") != 0 || system(command) != 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults_are_the_papers),
      cmocka_unit_test(values_reach_their_fields),
      cmocka_unit_test(set_overrides_in_order),
      cmocka_unit_test(a_refused_config_leaves_the_callers_alone),
      cmocka_unit_test(bad_text_is_refused_in_one_line_with_its_place),
      cmocka_unit_test(bad_set_is_refused_by_its_own_text),
      cmocka_unit_test(bad_combination_names_keys_values_and_the_nearest_allowed),
      cmocka_unit_test(bad_combination_points_at_what_was_set_last),
      cmocka_unit_test(keys_of_another_method_are_passed_over_in_a_base_alone),
      cmocka_unit_test(words_stand_for_numbers),
      cmocka_unit_test(a_config_filled_by_hand_is_checked_too),
      cmocka_unit_test(file_that_cannot_be_read_is_named),
      cmocka_unit_test(huge_or_binary_file_is_refused),
      cmocka_unit_test(base_is_inherited),
      cmocka_unit_test(fault_in_a_base_names_the_file_that_holds_it),
      cmocka_unit_test(printed_config_reads_back_to_the_same_bits),
      cmocka_unit_test(printed_reals_are_short_and_have_a_point),
      cmocka_unit_test(every_key_is_settable_documented_and_compared),
      cmocka_unit_test(first_difference_names_the_key),
      cmocka_unit_test(sampler_words_go_both_ways),
      cmocka_unit_test_prestate(shipped_configs_load, start_folder),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
