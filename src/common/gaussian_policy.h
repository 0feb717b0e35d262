// The Gaussian policy: a network for the mean and the deviation of the raw action, its log-probability, the entropy of
// tanh(action), and their gradient. After Brax's NormalTanhDistribution; docs/algorithm.md §4, §5.
#ifndef FLOWRANK_GAUSSIAN_POLICY_H
#define FLOWRANK_GAUSSIAN_POLICY_H

#include "common/config.h"
#include "common/error.h"
#include "common/mlp.h"

struct gaussian_policy {
  struct mlp net; // inputs: observation [O]; outputs: loc [A], s [A] with scale = softplus(s) + 1e-3
  int action_dim;
};

void gaussian_policy_layout(struct gaussian_policy *p, const struct config *config, int obs_dim, int action_dim,
                            size_t offset);

// Makes `std` the deviation where the network's part of s is zero, by its output's biases. 0 leaves them.
void gaussian_policy_set_std(const struct gaussian_policy *p, double std, float *parameters);

// Scratch of one thread for up to `rows` observations.
struct gaussian_workspace {
  int rows;
  float *memory;
  float *output, *d_output; // [rows, 2·A]: loc and s
  struct mlp_tape tape;
};
struct error *gaussian_workspace_init(struct gaussian_workspace *w, const struct gaussian_policy *p, int rows,
                                      int with_backward) MUST_USE;
void gaussian_workspace_free(struct gaussian_workspace *w);

// x [rows, A]: standard normal (or zero, for the mode) in, raw action loc + scale·x out. obs [rows, O] normalised.
void gaussian_policy_sample(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                            struct gaussian_workspace *w, float *x);

// log_prob [rows]: log density of the raw action [rows, A]; that of tanh(action) differs by a term of the action alone,
// which no ratio and no gradient sees. entropy [rows]: that of the Gaussian and the log
// determinant of tanh at the sample loc + scale·noise, noise [rows, A]; both null: not wanted.
void gaussian_policy_forward(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                             const float *action, const float *noise, struct gaussian_workspace *w, float *log_prob,
                             float *entropy);

// Adds the gradient of sum(d_log_prob · log_prob) + d_entropy · sum(entropy) to `gradient`, after the forward with the
// same arguments and workspace. noise null: without the entropy.
void gaussian_policy_backward(const struct gaussian_policy *p, const float *parameters, int rows, const float *obs,
                              const float *action, const float *noise, struct gaussian_workspace *w,
                              const float *d_log_prob, float d_entropy, float *gradient);

#endif
