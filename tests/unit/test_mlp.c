// The multilayer perceptron against the same network written naively in double precision, and its gradient against
// central differences of that one (so that the tolerances are those of float32, not of the differences).
#include "helpers.h"

// Shapes with full vectors, tails, one column, and no hidden layer at all.
static const struct shape {
  int inputs, hidden, width[3], outputs, rows;
} SHAPES[] = {
    {5, 2, {7, 6}, 3, 11}, {3, 1, {1}, 1, 1},       {9, 2, {32, 32}, 4, 8}, {4, 3, {17, 33, 16}, 2, 65},
    {6, 0, {0}, 3, 5},     {1, 2, {64, 5}, 1, 130}, {2, 1, {8}, 20, 3},
};

struct net {
  struct mlp mlp;
  float *parameters;
};

// Parameters behind `offset` unused floats; biases are not zero.
static struct net net_of(const struct shape *s, size_t offset, struct source *source) {
  struct net net;
  const struct config_layers hidden = hidden_layers(s->hidden, s->width);
  mlp_layout(&net.mlp, s->inputs, &hidden, s->outputs, offset);
  net.parameters = normal_floats(source, net.mlp.end, 0.5);
  return net;
}

static double *naive_rows(const struct mlp *net, const double *parameters, int rows, const float *input) {
  const size_t inputs = (size_t)net->width[0], outputs = (size_t)net->width[net->layers];
  double *out = doubles((size_t)rows * outputs), *x = to_doubles((size_t)rows * inputs, input);
  for (size_t r = 0; r < (size_t)rows; ++r) naive_mlp(net, parameters, x + r * inputs, out + r * outputs);
  free(x);
  return out;
}

// sum(d_output · output), the scalar that the backward pass differentiates.
static double scalar_of(const struct mlp *net, const double *parameters, int rows, const float *input,
                        const float *d_output) {
  double *out = naive_rows(net, parameters, rows, input), sum = 0;
  for (size_t i = 0; i < (size_t)rows * (size_t)net->width[net->layers]; ++i) sum += (double)d_output[i] * out[i];
  free(out);
  return sum;
}

static void layout_is_dense_and_in_order(void **state) {
  (void)state;
  const struct config_layers hidden = hidden_layers(2, (const int[]){7, 6});
  struct mlp net;
  mlp_layout(&net, 5, &hidden, 3, 100);
  assert_int_equal(net.layers, 3);
  const int width[] = {5, 7, 6, 3};
  size_t next = 100;
  for (int l = 0; l < 3; ++l) {
    assert_int_equal(net.width[l], width[l]);
    assert_int_equal(net.weight[l], next);
    next += (size_t)(width[l] * width[l + 1]);
    assert_int_equal(net.bias[l], next);
    next += (size_t)width[l + 1];
  }
  assert_int_equal(net.width[3], 3);
  assert_int_equal(net.end, next);
}

static void initial_weights_are_lecun_uniform_and_biases_zero(void **state) {
  (void)state;
  const struct config_layers hidden = hidden_layers(2, (const int[]){128, 200});
  struct mlp net;
  mlp_layout(&net, 50, &hidden, 60, 10);
  float *a = floats(net.end + 10), *b = floats(net.end + 10);
  for (size_t i = 0; i < net.end + 10; ++i) a[i] = b[i] = -9;
  mlp_initialise(&net, 42, 3, a);
  for (size_t i = 0; i < 10; ++i) assert_true(a[i] == -9 && a[net.end + i] == -9);
  for (int l = 0; l < net.layers; ++l) {
    const double count = net.width[l] * net.width[l + 1], bound = sqrt(3.0 / net.width[l]);
    double sum = 0, squares = 0, largest = 0;
    for (size_t i = net.weight[l]; i < net.bias[l]; ++i) {
      sum += (double)a[i];
      squares += (double)a[i] * (double)a[i];
      largest = fmax(largest, fabs((double)a[i]));
    }
    assert_true(largest <= bound * (1 + 1e-6) && largest > 0.99 * bound);
    assert_true(fabs(sum / count) < 5 * bound / sqrt(3 * count));
    assert_number("variance times fan-in", squares / count * net.width[l], 1, 5 * sqrt(0.8 / count), 1);
    for (int i = 0; i < net.width[l + 1]; ++i) assert_true(a[net.bias[l] + (size_t)i] == 0);
  }
  mlp_initialise(&net, 42, 3, b);
  assert_same_bits("the same seed", net.end, a, b);
  mlp_initialise(&net, 43, 3, b);
  assert_true(b[net.weight[0]] != a[net.weight[0]] && b[net.weight[1]] != a[net.weight[1]]);
  // Layer l draws from tensor first_tensor + l: two networks that share a seed differ.
  mlp_initialise(&net, 42, 4, b);
  assert_true(b[net.weight[0]] != a[net.weight[0]]);
  const double ratio = sqrt(50.0 / 128.0); // the same draws, scaled to another fan-in
  for (size_t i = 0; i < 50; ++i)
    assert_number("the next tensor's draw", (double)a[net.weight[1] + i], (double)b[net.weight[0] + i] * ratio, 1e-5,
                  0.01);
  free(a), free(b);
}

static void forward_equals_naive(void **state) {
  (void)state;
  struct source source = {1};
  for (size_t i = 0; i < COUNT_OF(SHAPES); ++i)
    for (int with_backward = 0; with_backward < 2; ++with_backward) {
      const struct shape *s = SHAPES + i;
      struct net net = net_of(s, 13, &source);
      const size_t outputs = (size_t)(s->rows * s->outputs);
      float *input = normal_floats(&source, (size_t)(s->rows * s->inputs), 1), *output = floats(outputs + 1);
      double *parameters = to_doubles(net.mlp.end, net.parameters);
      double *want = naive_rows(&net.mlp, parameters, s->rows, input);
      struct mlp_tape tape;
      must(mlp_tape_init(&tape, &net.mlp, s->rows + 5 * with_backward, with_backward));
      output[outputs] = 77;
      mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
      assert_near("output", outputs, output, want, 2e-6);
      assert_true(output[outputs] == 77);
      // A tape is used again, with fewer rows.
      const int fewer = s->rows - s->rows / 2;
      memset(output, 0, outputs * sizeof *output);
      mlp_forward(&net.mlp, net.parameters, fewer, input, &tape, output);
      assert_near("output of fewer rows", (size_t)(fewer * s->outputs), output, want, 2e-6);
      mlp_tape_free(&tape);
      free(net.parameters), free(input), free(output), free(parameters), free(want);
    }
}

static void forward_survives_large_inputs(void **state) {
  (void)state;
  struct source source = {2};
  struct net net = net_of(&SHAPES[2], 0, &source);
  float *input = normal_floats(&source, 8 * 9, 1000), *output = floats(8 * 4), *gradient = floats(net.mlp.end);
  double *parameters = to_doubles(net.mlp.end, net.parameters);
  double *want = naive_rows(&net.mlp, parameters, 8, input);
  struct mlp_tape tape;
  must(mlp_tape_init(&tape, &net.mlp, 8, 1));
  mlp_forward(&net.mlp, net.parameters, 8, input, &tape, output);
  assert_near("output", 8 * 4, output, want, 1e-5);
  mlp_backward(&net.mlp, net.parameters, 8, input, &tape, output, true, gradient);
  for (size_t i = 0; i < net.mlp.end; ++i) assert_true(isfinite(gradient[i]));
  mlp_tape_free(&tape);
  free(net.parameters), free(input), free(output), free(gradient), free(parameters), free(want);
}

static void tape_holds_each_hidden_layers_silu_and_slope(void **state) {
  (void)state;
  struct source source = {3};
  struct net net = net_of(&SHAPES[3], 0, &source);
  const int rows = 6, n = net.mlp.width[1];
  float *input = normal_floats(&source, 6 * 4, 1), output[6 * 2];
  struct mlp_tape tape;
  must(mlp_tape_init(&tape, &net.mlp, rows, 1));
  mlp_forward(&net.mlp, net.parameters, rows, input, &tape, output);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < n; ++c) {
      double z = (double)net.parameters[net.mlp.bias[0] + (size_t)c];
      for (int i = 0; i < 4; ++i)
        z += (double)input[r * 4 + i] * (double)net.parameters[net.mlp.weight[0] + (size_t)(i * n + c)];
      const double sigmoid = 1 / (1 + exp(-z));
      assert_number("silu", (double)tape.activation[0][r * n + c], z * sigmoid, 1e-5, 0.1);
      assert_number("slope", (double)tape.slope[0][r * n + c], sigmoid * (1 + z * (1 - sigmoid)), 1e-5, 0.1);
    }
  mlp_tape_free(&tape);
  must(mlp_tape_init(&tape, &net.mlp, rows, 0));
  assert_null(tape.slope[0]);
  mlp_tape_free(&tape);
  free(net.parameters), free(input);
}

static void backward_equals_central_differences(void **state) {
  (void)state;
  struct source source = {4};
  for (size_t i = 0; i < COUNT_OF(SHAPES); ++i) {
    const struct shape *s = SHAPES + i;
    struct net net = net_of(s, 3, &source);
    const size_t count = net.mlp.end;
    float *input = normal_floats(&source, (size_t)(s->rows * s->inputs), 1);
    float *d_output = normal_floats(&source, (size_t)(s->rows * s->outputs), 1);
    float *output = floats((size_t)(s->rows * s->outputs)), *gradient = floats(count);
    double *parameters = to_doubles(count, net.parameters), *want = doubles(count);
    for (size_t k = 3; k < count; ++k) {
      const double kept = parameters[k], h = 1e-5;
      parameters[k] = kept + h;
      want[k] = scalar_of(&net.mlp, parameters, s->rows, input, d_output);
      parameters[k] = kept - h;
      want[k] = (want[k] - scalar_of(&net.mlp, parameters, s->rows, input, d_output)) / (2 * h);
      parameters[k] = kept;
    }
    struct mlp_tape tape;
    must(mlp_tape_init(&tape, &net.mlp, s->rows + 2, 1));
    mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
    mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, true, gradient);
    for (int l = 0; l < net.mlp.layers; ++l) {
      const size_t weight = net.mlp.weight[l], bias = net.mlp.bias[l], width = (size_t)net.mlp.width[l + 1];
      assert_near("weight gradient", bias - weight, gradient + weight, want + weight, 5e-6);
      assert_near("bias gradient", width, gradient + bias, want + bias, 5e-6);
    }
    assert_true(gradient[0] == 0 && gradient[1] == 0 && gradient[2] == 0);
    mlp_tape_free(&tape);
    free(net.parameters), free(input), free(d_output), free(output), free(gradient), free(parameters), free(want);
  }
}

// The float code against itself: what the step changes, times a tolerance that float32 differences allow.
static void backward_equals_differences_of_forward_along_random_directions(void **state) {
  (void)state;
  struct source source = {5};
  const struct shape *s = &SHAPES[2];
  struct net net = net_of(s, 0, &source);
  const size_t count = net.mlp.end, outputs = (size_t)(s->rows * s->outputs);
  float *input = normal_floats(&source, (size_t)(s->rows * s->inputs), 1), *output = floats(outputs);
  float *d_output = normal_floats(&source, outputs, 1), *gradient = floats(count), *moved = floats(count);
  struct mlp_tape tape;
  must(mlp_tape_init(&tape, &net.mlp, s->rows, 1));
  mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
  mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, true, gradient);
  for (int round = 0; round < 8; ++round) {
    float *direction = normal_floats(&source, count, 1);
    double slope = 0, norm = 0, difference = 0;
    for (size_t i = 0; i < count; ++i) slope += (double)gradient[i] * (double)direction[i];
    for (size_t i = 0; i < count; ++i) norm += (double)gradient[i] * (double)gradient[i];
    for (int side = -1; side <= 1; side += 2) {
      for (size_t i = 0; i < count; ++i) moved[i] = net.parameters[i] + (float)side * 1e-3f * direction[i];
      mlp_forward(&net.mlp, moved, s->rows, input, &tape, output);
      for (size_t i = 0; i < outputs; ++i) difference += side * (double)d_output[i] * (double)output[i] / 2e-3;
    }
    assert_number("directional derivative", difference, slope, 2e-3, sqrt(norm));
    free(direction);
  }
  mlp_tape_free(&tape);
  free(net.parameters), free(input), free(output), free(d_output), free(gradient), free(moved);
}

static void backward_adds_to_the_gradient_or_puts_it_there(void **state) {
  (void)state;
  struct source source = {6};
  const struct shape *s = &SHAPES[0];
  struct net net = net_of(s, 0, &source);
  const size_t count = net.mlp.end;
  float *input = normal_floats(&source, (size_t)(s->rows * s->inputs), 1);
  float *d_output = normal_floats(&source, (size_t)(s->rows * s->outputs), 1);
  float *output = floats((size_t)(s->rows * s->outputs)), *once = floats(count), *twice = floats(count);
  double *want = doubles(count);
  struct mlp_tape tape;
  must(mlp_tape_init(&tape, &net.mlp, s->rows, 1));
  mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
  mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, true, once);
  for (size_t i = 0; i < count; ++i) twice[i] = (float)i;
  for (size_t i = 0; i < count; ++i) want[i] = (double)i + 2 * (double)once[i];
  for (int round = 0; round < 2; ++round) { // a backward pass leaves what the next one needs
    mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
    mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, true, twice);
  }
  for (size_t i = 0; i < count; ++i) assert_number("gradient", (double)twice[i], want[i], 1e-6, 100);
  for (size_t i = 0; i < count; ++i) twice[i] = NAN;
  mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, output);
  mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, false, twice);
  assert_same_bits("gradient put over what was there", count, twice, once);
  mlp_tape_free(&tape);
  free(net.parameters), free(input), free(d_output), free(output), free(once), free(twice), free(want);
}

// input·W0 made by the caller: the same output, and the first layer's gradients from what comes back.
static void hidden_halves_equal_the_whole(void **state) {
  (void)state;
  struct source source = {7};
  const struct shape *s = &SHAPES[3];
  struct net net = net_of(s, 0, &source);
  const size_t rows = (size_t)s->rows, inputs = (size_t)s->inputs, n = (size_t)net.mlp.width[1];
  const size_t outputs = rows * (size_t)s->outputs, count = net.mlp.end;
  float *input = normal_floats(&source, rows * inputs, 1), *d_output = normal_floats(&source, outputs, 1);
  float *whole = floats(outputs), *halves = floats(outputs), *gradient = floats(count), *hidden = floats(count);
  struct mlp_tape tape;
  must(mlp_tape_init(&tape, &net.mlp, s->rows, 1));
  mlp_forward(&net.mlp, net.parameters, s->rows, input, &tape, whole);
  mlp_backward(&net.mlp, net.parameters, s->rows, input, &tape, d_output, true, gradient);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < n; ++c) {
      double sum = 0;
      for (size_t i = 0; i < inputs; ++i)
        sum += (double)input[r * inputs + i] * (double)net.parameters[net.mlp.weight[0] + i * n + c];
      tape.activation[0][r * n + c] = (float)sum;
    }
  mlp_forward_hidden(&net.mlp, net.parameters, s->rows, &tape, halves);
  double *want = to_doubles(outputs, whole), *want_gradient = to_doubles(count, gradient), *first = doubles(inputs * n);
  assert_near("output", outputs, halves, want, 2e-6);
  const float *dz = mlp_backward_hidden(&net.mlp, net.parameters, s->rows, &tape, d_output, true, hidden);
  for (size_t i = 0; i < inputs; ++i)
    for (size_t c = 0; c < n; ++c) {
      for (size_t r = 0; r < rows; ++r) first[i * n + c] += (double)input[r * inputs + i] * (double)dz[r * n + c];
      assert_true(hidden[net.mlp.weight[0] + i * n + c] == 0); // the caller's
    }
  assert_near("first weights' gradient", inputs * n, gradient + net.mlp.weight[0], first, 5e-6);
  assert_near("other gradients", count - net.mlp.bias[0], hidden + net.mlp.bias[0], want_gradient + net.mlp.bias[0],
              5e-6);
  mlp_tape_free(&tape);
  free(net.parameters), free(input), free(d_output), free(whole), free(halves), free(gradient), free(hidden);
  free(want), free(want_gradient), free(first);
}

static void flops_count_the_matrix_products(void **state) {
  (void)state;
  const struct config_layers hidden = hidden_layers(2, (const int[]){7, 6});
  struct mlp net;
  mlp_layout(&net, 5, &hidden, 3, 0);
  assert_true(mlp_forward_flops(&net) == 2 * (5 * 7 + 7 * 6 + 6 * 3));
  assert_true(mlp_backward_flops(&net) == 2 * (5 * 7 + 2 * (7 * 6 + 6 * 3)));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(layout_is_dense_and_in_order),
      cmocka_unit_test(initial_weights_are_lecun_uniform_and_biases_zero),
      cmocka_unit_test(forward_equals_naive),
      cmocka_unit_test(forward_survives_large_inputs),
      cmocka_unit_test(tape_holds_each_hidden_layers_silu_and_slope),
      cmocka_unit_test(backward_equals_central_differences),
      cmocka_unit_test(backward_equals_differences_of_forward_along_random_directions),
      cmocka_unit_test(backward_adds_to_the_gradient_or_puts_it_there),
      cmocka_unit_test(hidden_halves_equal_the_whole),
      cmocka_unit_test(flops_count_the_matrix_products),
  };
  return cmocka_run_group_tests_name("mlp", tests, NULL, NULL);
}
