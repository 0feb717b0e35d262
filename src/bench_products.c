// The matrix products of a run's networks alone: through all layers forward (acting: in every flow step) and, where they learn,
// backward, over and over, so that weights come from where they come from in a run.
#include <cblas.h>
#include <math.h>
#include <stdlib.h>

#include "bench.h"
#include "common/clock.h"
#include "common/rng.h"
#include "common/shard.h"
#include "learner/update.h"

static const double PASS_SECONDS = 0.1; // at least, in each round

enum product { FORWARD, WEIGHT_GRADIENT, INPUT_GRADIENT, PRODUCTS };

struct layer {
  int rows, inputs, outputs;
  int times; // forward, in a pass
  bool product[PRODUCTS];
  float *memory;
  float *x, *y, *dx, *dz;               // [rows, inputs], [rows, outputs], and their gradients
  float *w, *dw, *turned;               // [inputs, outputs]; the scratch of a gradient
  double seconds[PRODUCTS];             // of a round
  double share[PRODUCTS][BENCH_ROUNDS]; // of the peak
};

struct network {
  const char *name;
  int layers;
  struct layer layer[MLP_MAX_LAYERS + 1];
  double share[BENCH_ROUNDS];
};

enum { NETWORKS = 3 };
struct products_bench {
  struct objective objective;
  struct shard_sizes sizes;
  struct network network[NETWORKS];
  double peak[BENCH_ROUNDS];
};

// backward: with the weights' gradient; inner: and with the inputs'.
static void add_layer(struct network *n, int rows, int inputs, int outputs, int times, bool backward, bool inner) {
  n->layer[n->layers++] = (struct layer){.rows = rows,
                                         .inputs = inputs,
                                         .outputs = outputs,
                                         .times = times,
                                         .product = {true, backward, backward && inner}};
}

static void add_layers(struct network *n, const struct mlp *net, int first, int rows, int times, bool backward) {
  for (int l = first; l < net->layers; ++l)
    add_layer(n, rows, net->width[l], net->width[l + 1], times, backward, l > 0);
}

// `rows` actions. A flow's first layer is two products: of observations, once for all pairs and flow steps, and of x_t (with
// its time where each row has its own).
static void add_policy(struct network *n, const struct policy *p, int rows, int evaluations, bool backward) {
  const struct mlp *net = policy_net(p);
  const bool flow = net->width[0] > p->obs_dim;
  if (!flow) {
    add_layers(n, net, 0, rows, 1, backward);
    return;
  }
  const int pairs = backward ? p->terms : 1, x = backward ? net->width[0] - p->obs_dim : p->action_dim;
  add_layer(n, rows, p->obs_dim, net->width[1], 1, backward, false);
  add_layer(n, rows * pairs, x, net->width[1], evaluations, backward, false);
  add_layers(n, net, 1, rows * pairs, evaluations, backward);
}

static void lay_out(struct products_bench *b, const struct config *config, int obs_dim, int action_dim) {
  int value_rows, policy_rows;
  const struct shard_sizes sizes = b->sizes = shard_sizes(config);
  const struct policy_acting how = policy_training(config);
  objective_layout(&b->objective, config, obs_dim, action_dim);
  objective_block_rows(&b->objective, sizes.slice_unrolls, &value_rows, &policy_rows);
  const struct policy *p = &b->objective.policy;
  b->network[0].name = "value", b->network[1].name = "policy", b->network[2].name = "acting";
  add_layers(&b->network[0], &b->objective.value, 0, value_rows, 1, true);
  add_policy(&b->network[1], p, policy_rows, 1, true);
  add_policy(&b->network[2], p, sizes.envs, policy_evaluations(p, &how), false);
}

// below: the layer whose outputs are this one's inputs; null where there is none.
static struct error *layer_init(struct layer *l, const struct layer *below) {
  const size_t x = (size_t)l->rows * (size_t)l->inputs, y = (size_t)l->rows * (size_t)l->outputs;
  const size_t w = (size_t)l->inputs * (size_t)l->outputs, all = x + 2 * y + 3 * w;
  l->memory = malloc(all * sizeof *l->memory);
  if (l->memory == NULL) return error_no_memory("the benchmark of products");
  l->y = l->memory, l->dz = l->y + y, l->w = l->dz + y, l->dw = l->w + w, l->turned = l->dw + w;
  l->x = below ? below->y : l->turned + w;
  l->dx = below ? below->dz : NULL;
  rng_normal(rng_stream(1, RNG_BENCH, 0, 0), all, l->memory);
  for (size_t i = 0; i < w; ++i) l->w[i] /= sqrtf((float)l->inputs);
  return NULL;
}

static void multiply(struct layer *l, enum product product) {
  if (!l->product[product]) return;
  const double started = clock_seconds();
  switch (product) {
  case FORWARD:
    mlp_product(l->rows, l->inputs, l->outputs, l->x, l->w, false, l->y);
    break;
  case WEIGHT_GRADIENT:
    mlp_weight_gradient(l->rows, l->inputs, l->outputs, l->x, l->dz, true, l->dw);
    break;
  default:
    mlp_input_gradient(l->rows, l->inputs, l->outputs, l->dz, l->w, l->turned, l->dx);
  }
  l->seconds[product] += clock_seconds() - started;
}

static void pass(struct network *n) {
  const int times = n->layer[n->layers - 1].times; // no other has more
  for (int t = 0; t < times; ++t)
    for (int l = 0; l < n->layers; ++l)
      if (t < n->layer[l].times) multiply(&n->layer[l], FORWARD);
  for (int l = n->layers - 1; l >= 0; --l) {
    multiply(&n->layer[l], WEIGHT_GRADIENT);
    multiply(&n->layer[l], INPUT_GRADIENT);
  }
}

static void network_round(struct network *n, int round, double peak) {
  double flops = 0, seconds = 0;
  int passes = 0;
  for (int l = 0; l < n->layers; ++l)
    for (int p = 0; p < PRODUCTS; ++p) n->layer[l].seconds[p] = 0;
  for (const double started = clock_seconds(); passes == 0 || clock_seconds() - started < PASS_SECONDS; ++passes)
    pass(n);
  for (int i = 0; i < n->layers; ++i) {
    struct layer *l = &n->layer[i];
    const double work = 2.0 * l->rows * l->inputs * l->outputs * l->times * passes;
    for (int p = 0; p < PRODUCTS; ++p) {
      if (!l->product[p]) continue;
      l->share[p][round] = work / l->seconds[p] / peak;
      flops += work, seconds += l->seconds[p];
    }
  }
  n->share[round] = flops / seconds / peak;
}

static struct error *measure(struct products_bench *b) {
  for (int n = 0; n < NETWORKS; ++n)
    for (int i = 0; i < b->network[n].layers; ++i) {
      struct layer *l = &b->network[n].layer[i];
      TRY(layer_init(l, i > 0 && l[-1].rows == l->rows && l[-1].outputs == l->inputs ? l - 1 : NULL));
    }
  for (int n = 0; n < NETWORKS; ++n) network_round(&b->network[n], 0, 1); // warm-up
  for (int round = 0; round < BENCH_ROUNDS; ++round) {
    TRY(bench_sgemm(&b->peak[round]));
    for (int n = 0; n < NETWORKS; ++n) network_round(&b->network[n], round, b->peak[round]);
  }
  return NULL;
}

// Of both networks' products together, as often as an update has them.
static double learning(struct products_bench *b) {
  const struct learner_flops f = learner_flops(&b->objective, &b->sizes);
  const double value = bench_median(b->network[0].share), policy = bench_median(b->network[1].share);
  return (f.value + f.policy) / (f.value / value + f.policy / policy);
}

static void print_text(struct products_bench *b, FILE *out) {
  fprintf(out,
          "observation %d, action %d, one core: shares of the sgemm peak, %.3g operations/s\n"
          "             rows  inputs outputs  times   forward  gradient of weights  of inputs\n",
          b->objective.policy.obs_dim, b->objective.policy.action_dim, bench_median(b->peak));
  for (int n = 0; n < NETWORKS; ++n) {
    struct network *net = &b->network[n];
    for (int i = 0; i < net->layers; ++i) {
      struct layer *l = &net->layer[i];
      fprintf(out, "%-10s %6d %7d %7d %6d", net->name, l->rows, l->inputs, l->outputs, l->times);
      static const int width[PRODUCTS] = {9, 20, 10};
      for (int p = 0; p < PRODUCTS; ++p)
        if (l->product[p]) fprintf(out, " %*.2f", width[p], bench_median(l->share[p]));
      fputc('\n', out);
    }
  }
  fprintf(out, "achieved / limit     %.2f learning (%.2f value network, %.2f policy), %.2f acting\n", learning(b),
          bench_median(b->network[0].share), bench_median(b->network[1].share), bench_median(b->network[2].share));
}

static void print_json(struct products_bench *b, FILE *out) {
  static const char *const name[PRODUCTS] = {"forward", "weight_gradient", "input_gradient"};
  fprintf(out, "{\"obs_dim\": %d, \"action_dim\": %d, \"sgemm_flops\": %.6g", b->objective.policy.obs_dim,
          b->objective.policy.action_dim, bench_median(b->peak));
  for (int n = 0; n < NETWORKS; ++n)
    fprintf(out, ", \"%s_ratio\": %.4f", b->network[n].name, bench_median(b->network[n].share));
  fprintf(out, ", \"learn_ratio\": %.4f, \"layers\": [", learning(b));
  for (int n = 0; n < NETWORKS; ++n)
    for (int i = 0; i < b->network[n].layers; ++i) {
      struct layer *l = &b->network[n].layer[i];
      fprintf(out, "%s{\"network\": \"%s\", \"rows\": %d, \"inputs\": %d, \"outputs\": %d, \"times\": %d",
              n + i > 0 ? ", " : "", b->network[n].name, l->rows, l->inputs, l->outputs, l->times);
      for (int p = 0; p < PRODUCTS; ++p)
        if (l->product[p]) fprintf(out, ", \"%s\": %.4f", name[p], bench_median(l->share[p]));
      fprintf(out, "}");
    }
  fprintf(out, "]}\n");
}

struct error *bench_products(const struct config *config, int obs_dim, int action_dim, bool json, FILE *out) {
  openblas_set_num_threads(1);
  TRY(bench_sizes(config, &obs_dim, &action_dim));
  struct products_bench *b = calloc(1, sizeof *b);
  if (b == NULL) return error_no_memory("the benchmark of products");
  lay_out(b, config, obs_dim, action_dim);
  struct error *e = measure(b);
  if (e == NULL) (json ? print_json : print_text)(b, out);
  for (int n = 0; n < NETWORKS; ++n)
    for (int l = 0; l < b->network[n].layers; ++l) free(b->network[n].layer[l].memory);
  free(b);
  return e;
}
