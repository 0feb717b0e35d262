// The flow policy: a network for the velocity u(obs, x_t, t), samplers that integrate it from noise to an action, the
// conditional flow matching (CFM) loss, and the log-likelihood of a noisy chain of flow steps, each with its gradient.
// FPO §3; docs/algorithm.md §2, §3, §4.
#ifndef FLOWRANK_FLOW_POLICY_H
#define FLOWRANK_FLOW_POLICY_H

#include "common/config.h"
#include "common/error.h"
#include "common/mlp.h"
#include "common/rng.h"

struct flow_policy {
  struct mlp net; // inputs: observation [O], x_t [A], embedding of t [2·frequencies]
  int obs_dim, action_dim, embedding_dim;
  float output_scale;
  float sde_sigma;
  enum supervision_kind supervision; // data: the network's output is the action at the end of the flow
  float time_floor;                  // u = (x_t − action)/max(t, time_floor) where it is
};

void flow_policy_layout(struct flow_policy *p, const struct config *config, int obs_dim, int action_dim, size_t offset);

// Scratch of one thread, for up to `obs_rows` observations with up to `pairs` (x_t, t) pairs each. One owner, reusable.
struct flow_workspace {
  int obs_rows, pairs;
  float *memory;
  float *shared;   // [obs_rows, width[1]]: observation's share of the first layer
  float *input;    // [obs_rows·pairs, A + embedding]
  float *u;        // [obs_rows·pairs, A]
  float *d_u;      // [obs_rows·pairs, A]
  float *stage;    // [4, obs_rows, A]: stages of a sampler
  float *d_shared; // [obs_rows, width[1]]
  struct mlp_tape tape;
};
struct error *flow_workspace_init(struct flow_workspace *w, const struct flow_policy *p, int obs_rows, int pairs,
                                  int with_backward) MUST_USE;
void flow_workspace_free(struct flow_workspace *w);

// Velocity u(obs, x, t), pointing from action to noise: output_scale · net, or what follows from the action that the
// network predicts. Each observation has `pairs` rows of x, t.
// obs [rows, O] normalised; x [rows·pairs, A]; t [rows·pairs]; u [rows·pairs, A].
void flow_policy_velocity(const struct flow_policy *p, const float *parameters, int rows, int pairs, const float *obs,
                          const float *x, const float *t, struct flow_workspace *w, float *u);

// How an action is integrated.
struct flow_sampling {
  enum sampler_kind sampler;
  int steps;
  const float *sde_noise; // [rows, steps, A] standard normal, times sde_sigma added after each step; null: none
  int kept;               // of the last steps, x after which goes to `chain`
  float *chain;           // [rows, kept, A]; null: none
};

// Integrates dx/dt = u from t = 1 (noise) to t = 0 (action) in equal steps.
// obs [rows, O] normalised; x [rows, A]: noise in, raw action out.
void flow_policy_sample(const struct flow_policy *p, const float *parameters, const struct flow_sampling *how, int rows,
                        const float *obs, struct flow_workspace *w, float *x);

// CFM loss of every stored pair: loss [rows, pairs], mean over action dims of the squared error of the supervised
// quantity (velocity: eps − a; eps: eps; data: a). obs [rows, O]; action [rows, A]; eps [rows, pairs, A]; t [rows, pairs].
void flow_policy_cfm_forward(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                             const float *obs, const float *action, const float *eps, const float *t,
                             struct flow_workspace *w, float *loss);

// Adds the gradient of sum(d_loss · loss) to `gradient`, after the forward with the same arguments and workspace.
// d_loss [rows, pairs].
void flow_policy_cfm_backward(const struct flow_policy *p, const float *parameters, int rows, int pairs,
                              const float *obs, const float *action, const float *eps, const float *t,
                              struct flow_workspace *w, const float *d_loss, float *gradient);

// Log-likelihoods of the last `learned` of `steps` Euler–Maruyama steps with sde_sigma: log_prob [rows, learned].
// start [rows, A]: x before the first of them, rows start_stride floats apart; chain [rows, ≥ learned, A]: x after each,
// rows chain_stride floats apart.
struct flow_chain {
  int steps, learned;
  const float *start, *chain;
  size_t start_stride, chain_stride;
};
void flow_policy_chain_forward(const struct flow_policy *p, const float *parameters, int rows, const float *obs,
                               const struct flow_chain *c, struct flow_workspace *w, float *log_prob);

// Adds the gradient of sum(d_log_prob · log_prob) to `gradient`, after the forward with the same arguments and workspace.
void flow_policy_chain_backward(const struct flow_policy *p, const float *parameters, int rows, const float *obs,
                                const struct flow_chain *c, struct flow_workspace *w, const float *d_log_prob,
                                float *gradient);

// Log-likelihoods of the same steps while the policy is the one that made them: a function of their noise alone.
// noise [learned, A]; log_prob [learned].
void flow_policy_chain_of_noise(const struct flow_policy *p, int learned, const float *noise, float *log_prob);

// Draws the stored pairs of `rows` actions again, of environment `env` at control step `step` (counted since the run's
// start) and those after it: eps [rows, pairs, A], t [rows, pairs]; t from the K = flow_steps left grid points
// {1, 1−1/K, .., 1/K}, uniform, or lognormal.
void flow_policy_draw_pairs(const struct config *config, int action_dim, uint32_t env, uint32_t step, int rows,
                            float *eps, float *t);

// Velocity evaluations of one action.
int flow_policy_evaluations(enum sampler_kind sampler, int steps);

// Matrix-product operations: one action sampled; the velocities of `pairs` (x_t, t) of one observation; their backward.
double flow_policy_sample_flops(const struct flow_policy *p, enum sampler_kind sampler, int steps);
double flow_policy_forward_flops(const struct flow_policy *p, int pairs);
double flow_policy_backward_flops(const struct flow_policy *p, int pairs);

#endif
