#include "common/mlp.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/rng.h"
#include "common/simd.h"

void mlp_layout(struct mlp *net, int inputs, const struct config_layers *hidden, int outputs, size_t offset) {
  net->layers = (int)hidden->count + 1;
  net->width[0] = inputs;
  for (int l = 0; l < net->layers - 1; ++l) net->width[l + 1] = (int)hidden->width[l];
  net->width[net->layers] = outputs;
  for (int l = 0; l < net->layers; ++l) {
    net->weight[l] = offset;
    net->bias[l] = offset + (size_t)net->width[l] * (size_t)net->width[l + 1];
    offset = net->bias[l] + (size_t)net->width[l + 1];
  }
  net->end = offset;
}

void mlp_initialise(const struct mlp *net, uint64_t seed, uint32_t first_tensor, float *parameters) {
  for (int l = 0; l < net->layers; ++l) {
    float *weight = parameters + net->weight[l];
    const size_t count = (size_t)net->width[l] * (size_t)net->width[l + 1];
    const float bound = sqrtf(3.0f / (float)net->width[l]);
    rng_uniform(rng_stream(seed, RNG_PARAMETERS, first_tensor + (uint32_t)l, 0), count, weight);
    for (size_t i = 0; i < count; ++i) weight[i] = bound * (2.0f * weight[i] - 1.0f);
    memset(parameters + net->bias[l], 0, (size_t)net->width[l + 1] * sizeof(float));
  }
}

struct error *mlp_tape_init(struct mlp_tape *tape, const struct mlp *net, int rows, int with_backward) {
  memset(tape, 0, sizeof *tape);
  size_t widest = 0, turned = 0, total = 0;
  for (int l = 0; l < net->layers; ++l) {
    const size_t size = simd_padded((size_t)rows * (size_t)net->width[l + 1]);
    const size_t weights = simd_padded((size_t)net->width[l] * (size_t)net->width[l + 1]);
    if (size > widest) widest = size;
    if (l > 0 && weights > turned) turned = weights;
    if (l < net->layers - 1) total += (with_backward ? 2 : 1) * size;
  }
  if (with_backward) total += 2 * widest + turned;
  tape->rows = rows;
  tape->memory = aligned_alloc(64, (total ? total : 16) * sizeof(float));
  if (tape->memory == NULL) return error_no_memory("a network's activations");
  float *next = tape->memory;
  for (int l = 0; l < net->layers - 1; ++l) {
    const size_t size = simd_padded((size_t)rows * (size_t)net->width[l + 1]);
    tape->activation[l] = next;
    next += size;
    if (!with_backward) continue;
    tape->slope[l] = next;
    next += size;
  }
  for (int i = 0; with_backward && i < 2; ++i) {
    tape->gradient[i] = next;
    next += widest;
  }
  if (with_backward) tape->turned = next;
  return NULL;
}

void mlp_tape_free(struct mlp_tape *tape) {
  free(tape->memory);
  memset(tape, 0, sizeof *tape);
}

// SiLU(x) and SiLU'(x).
static inline simd silu(simd x, simd *slope) {
  const simd sigmoid = simd_sigmoid(x), y = x * sigmoid;
  *slope = SIMD_FMA(y, 1.0f - sigmoid, sigmoid);
  return y;
}

// The columns from `first` on, fewer than a vector.
static void bias_silu_tail(int rows, int columns, int first, const float *restrict bias, float *restrict z,
                           float *restrict slope) {
  const size_t part = (size_t)(columns - first);
  const simd b = simd_load_part(bias + first, part);
  for (int r = 0; r < rows; ++r) {
    const size_t at = (size_t)r * (size_t)columns + (size_t)first;
    simd dy;
    simd_store_part(z + at, silu(simd_load_part(z + at, part) + b, &dy), part);
    if (slope) simd_store_part(slope + at, dy, part);
  }
}

// The columns in whole vectors. Nothing but arithmetic is in the loop, so that its constants stay in registers.
static inline void bias_silu_body(int rows, int columns, const float *restrict bias, float *restrict z,
                                  float *restrict slope) {
  const size_t stride = (size_t)columns, whole = stride / SIMD_LANES * SIMD_LANES;
  for (size_t r = 0; r < (size_t)rows; ++r)
    for (size_t c = 0; c < whole; c += SIMD_LANES) {
      simd dy;
      simd_store(z + r * stride + c, silu(simd_load(z + r * stride + c) + simd_load(bias + c), &dy));
      if (slope) simd_store(slope + r * stride + c, dy);
    }
}

// z [rows, columns] → SiLU(z + bias) in place; slope (may be null) gets SiLU'(z + bias).
static void bias_silu(int rows, int columns, const float *restrict bias, float *restrict z, float *restrict slope) {
  if (slope) bias_silu_body(rows, columns, bias, z, slope);
  else bias_silu_body(rows, columns, bias, z, NULL);
  const int whole = columns / SIMD_LANES * SIMD_LANES;
  if (whole < columns) bias_silu_tail(rows, columns, whole, bias, z, slope);
}

static void add_bias(int rows, int columns, const float *restrict bias, float *restrict z) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) z[(size_t)r * (size_t)columns + (size_t)c] += bias[c];
}

// dz *= slope (where given), and its column sums go, or are added, to d_bias.
static void slope_and_bias_gradient(int rows, int columns, const float *restrict slope, float *restrict dz, bool add,
                                    float *restrict d_bias) {
  if (!add) memset(d_bias, 0, (size_t)columns * sizeof *d_bias);
  for (int r = 0; r < rows; ++r) {
    float *row = dz + (size_t)r * (size_t)columns;
    if (slope) {
      const float *slope_row = slope + (size_t)r * (size_t)columns;
      for (int c = 0; c < columns; ++c) row[c] *= slope_row[c];
    }
    for (int c = 0; c < columns; ++c) d_bias[c] += row[c];
  }
}

void mlp_product(int rows, int inner, int width, const float *x, const float *w, bool add, float *y) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, inner, 1.0f, x, inner, w, width, (float)add, y,
              width);
}

void mlp_forward(const struct mlp *net, const float *parameters, int rows, const float *input, struct mlp_tape *tape,
                 float *output) {
  const int last = net->layers - 1;
  float *first = last == 0 ? output : tape->activation[0];
  mlp_product(rows, net->width[0], net->width[1], input, parameters + net->weight[0], false, first);
  if (last == 0) add_bias(rows, net->width[1], parameters + net->bias[0], output);
  else mlp_forward_hidden(net, parameters, rows, tape, output);
}

void mlp_forward_hidden(const struct mlp *net, const float *parameters, int rows, struct mlp_tape *tape,
                        float *output) {
  const int last = net->layers - 1;
  bias_silu(rows, net->width[1], parameters + net->bias[0], tape->activation[0], tape->slope[0]);
  for (int l = 1; l <= last; ++l) {
    float *z = l == last ? output : tape->activation[l];
    mlp_product(rows, net->width[l], net->width[l + 1], tape->activation[l - 1], parameters + net->weight[l], false, z);
    if (l == last) add_bias(rows, net->width[l + 1], parameters + net->bias[l], z);
    else bias_silu(rows, net->width[l + 1], parameters + net->bias[l], z, tape->slope[l]);
  }
}

void mlp_weight_gradient(int rows, int inputs, int outputs, const float *x, const float *dz, bool add, float *d_w) {
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, inputs, outputs, rows, 1.0f, x, inputs, dz, outputs, (float)add,
              d_w, outputs);
}

// OpenBLAS multiplies narrow matrices by a plain one in 0.4 to 0.6 of the time that a transposed one takes, so
// that making the transpose pays; among wide ones it costs 2% of the product and gains nothing.
enum { NARROW = 64 };
void mlp_input_gradient(int rows, int inputs, int outputs, const float *dz, const float *w, float *turned, float *dx) {
  if (outputs > NARROW) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, inputs, outputs, 1.0f, dz, outputs, w, outputs, 0.0f, dx,
                inputs);
    return;
  }
  cblas_somatcopy(CblasRowMajor, CblasTrans, inputs, outputs, 1.0f, w, outputs, turned, inputs);
  mlp_product(rows, outputs, inputs, dz, turned, false, dx);
}

void mlp_backward(const struct mlp *net, const float *parameters, int rows, const float *input, struct mlp_tape *tape,
                  const float *d_output, bool add, float *gradient) {
  const float *dz = mlp_backward_hidden(net, parameters, rows, tape, d_output, add, gradient);
  mlp_weight_gradient(rows, net->width[0], net->width[1], input, dz, add, gradient + net->weight[0]);
}

float *mlp_backward_hidden(const struct mlp *net, const float *parameters, int rows, struct mlp_tape *tape,
                           const float *d_output, bool add, float *gradient) {
  const int last = net->layers - 1;
  float *dz = tape->gradient[0], *dz_below = tape->gradient[1];
  memcpy(dz, d_output, (size_t)rows * (size_t)net->width[last + 1] * sizeof(float));
  slope_and_bias_gradient(rows, net->width[last + 1], NULL, dz, add, gradient + net->bias[last]);
  for (int l = last; l > 0; --l) {
    const int inputs = net->width[l], outputs = net->width[l + 1];
    mlp_weight_gradient(rows, inputs, outputs, tape->activation[l - 1], dz, add, gradient + net->weight[l]);
    mlp_input_gradient(rows, inputs, outputs, dz, parameters + net->weight[l], tape->turned, dz_below);
    slope_and_bias_gradient(rows, inputs, tape->slope[l - 1], dz_below, add, gradient + net->bias[l - 1]);
    float *const swap = dz;
    dz = dz_below;
    dz_below = swap;
  }
  return dz;
}

double mlp_forward_flops(const struct mlp *net) {
  double flops = 0;
  for (int l = 0; l < net->layers; ++l) flops += 2.0 * net->width[l] * net->width[l + 1];
  return flops;
}

double mlp_backward_flops(const struct mlp *net) {
  return 2.0 * mlp_forward_flops(net) - 2.0 * net->width[0] * net->width[1];
}
