// Multilayer perceptron with SiLU between layers: forward and backward over views into one flat parameter array.
#ifndef FLOWRANK_MLP_H
#define FLOWRANK_MLP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"

enum { MLP_MAX_LAYERS = CONFIG_MAX_LAYERS + 1 };

// Layout only; the numbers live in the flat array that every call is given.
struct mlp {
  int layers;                    // linear maps; SiLU after all but the last
  int width[MLP_MAX_LAYERS + 1]; // width[0]: inputs, width[layers]: outputs
  size_t weight[MLP_MAX_LAYERS]; // offset of layer l's weights [width[l], width[l+1]], row-major, in floats
  size_t bias[MLP_MAX_LAYERS];   // offset of layer l's biases [width[l+1]]
  size_t end;                    // offset just behind the last parameter
};

// Lays out a network of `inputs`, `hidden`, `outputs` from `offset` on.
void mlp_layout(struct mlp *net, int inputs, const struct config_layers *hidden, int outputs, size_t offset);

// LeCun-uniform weights (uniform on ±sqrt(3/fan_in)), zero biases; layer l draws from the stream of owner first_tensor+l.
void mlp_initialise(const struct mlp *net, uint64_t seed, uint32_t first_tensor, float *parameters);

// What a forward pass leaves for its backward pass, for up to `rows` rows. One allocation.
struct mlp_tape {
  int rows;
  float *memory;
  float *activation[MLP_MAX_LAYERS]; // [rows, width[l+1]]: output of hidden layer l, after SiLU
  float *slope[MLP_MAX_LAYERS];      // [rows, width[l+1]]: SiLU' at hidden layer l's input; null without backward
  float *gradient[2];                // [rows, max width] scratch of the backward pass
  float *turned;                     // [width[l+1], width[l]]: its layer's weights, transposed
};

// with_backward 0 leaves out what only mlp_backward needs.
struct error *mlp_tape_init(struct mlp_tape *tape, const struct mlp *net, int rows, int with_backward) MUST_USE;
void mlp_tape_free(struct mlp_tape *tape);

// output [rows, outputs] = net(input [rows, inputs]). Fills the tape. rows ≤ tape->rows.
void mlp_forward(const struct mlp *net, const float *parameters, int rows, const float *input, struct mlp_tape *tape,
                 float *output);

// Gradient of a scalar with respect to the parameters, added to `gradient` (same offsets as the parameters) or put there
// over whatever it holds, from d_output [rows, outputs] (scalar by output). Uses the tape of the mlp_forward with the
// same input.
void mlp_backward(const struct mlp *net, const float *parameters, int rows, const float *input, struct mlp_tape *tape,
                  const float *d_output, bool add, float *gradient);

// The two halves for callers that make the first layer's product themselves (flow_policy.c): the caller puts
// input·W0, without bias, into tape->activation[0]; the rest follows. Needs at least one hidden layer.
void mlp_forward_hidden(const struct mlp *net, const float *parameters, int rows, struct mlp_tape *tape, float *output);
// Backward down to the first layer's product: its gradient [rows, width[1]] is returned (lives in the tape); the first
// bias' gradient is made, the first weights' is the caller's.
float *mlp_backward_hidden(const struct mlp *net, const float *parameters, int rows, struct mlp_tape *tape,
                           const float *d_output, bool add, float *gradient);

// The matrix products that all networks are made of, row-major; `add` adds to what is there.
// y [rows, width] = x [rows, inner] · w [inner, width]
void mlp_product(int rows, int inner, int width, const float *x, const float *w, bool add, float *y);
// d_w [inputs, outputs] = x [rows, inputs]ᵀ · dz [rows, outputs]
void mlp_weight_gradient(int rows, int inputs, int outputs, const float *x, const float *dz, bool add, float *d_w);
// dx [rows, inputs] = dz [rows, outputs] · w [inputs, outputs]ᵀ; turned [outputs, inputs]: scratch.
void mlp_input_gradient(int rows, int inputs, int outputs, const float *dz, const float *w, float *turned, float *dx);

// Floating-point operations of the matrix products for one row, forward only / backward only (with input gradient of
// all layers but the first).
double mlp_forward_flops(const struct mlp *net);
double mlp_backward_flops(const struct mlp *net);

#endif
