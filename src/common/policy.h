// What every method (objective.kind) gives the loop: raw actions in training and in evaluation, what is recorded of an
// action, and a few log-probabilities of what was recorded with their gradient, whose change makes the policy's ratio.
//
//             network        an action's log-probabilities          recorded                    drawn again
//   fpo       velocity       −CFM loss of each of M (eps, t) pairs  raw action, old means       eps, t
//   ppo       loc and scale  one, of the action                     raw action, old             noise of the entropy
//   dppo      velocity       one of each flow step that learns      x after each of these       x at t = 1, noises: old
#ifndef FLOWRANK_POLICY_H
#define FLOWRANK_POLICY_H

#include "common/flow_policy.h"
#include "common/gaussian_policy.h"

struct policy {
  const struct config *config;
  const struct policy_method *method;
  int obs_dim, action_dim;
  int terms;          // log-probabilities of an action
  int ratios;         // of an action: one each, or 1 of their mean
  int action_columns; // numbers recorded of an action; the last A are the raw action
  int old_columns;    // old log-probabilities recorded of an action: `ratios`, or 0 where the draws tell them
  int noises, times;  // drawn again for an action: eps [noises, A], t [times]
  union {
    struct flow_policy flow; // fpo, dppo
    struct gaussian_policy gaussian;
  };
};

void policy_layout(struct policy *p, const struct config *config, int obs_dim, int action_dim, size_t offset);
// Parameters of the network before anything is learned. parameters: at the layout's offsets.
void policy_initialise(const struct policy *p, uint64_t seed, float *parameters);
const struct mlp *policy_net(const struct policy *p);

// What a workspace is for.
enum policy_use {
  POLICY_EVALUATE, // act without exploring, any sampler and number of steps
  POLICY_EXPLORE,  // act
  POLICY_COMPARE,  // forward
  POLICY_LEARN,    // forward and backward
};
// Scratch of one thread for up to `rows` observations. One owner, reusable.
struct policy_workspace {
  struct flow_workspace flow;         // empty for a Gaussian
  struct gaussian_workspace gaussian; // empty for a flow
  float *memory;
  float *x;         // [rows, A]
  float *sde_noise; // [rows, flow_steps, A]
  float *entropy;   // [rows]: of the newest forward, where the config gives it a cost
};
struct error *policy_workspace_init(struct policy_workspace *w, const struct policy *p, enum policy_use use,
                                    int rows) MUST_USE;
void policy_workspace_free(struct policy_workspace *w);

// How actions are made.
struct policy_acting {
  bool explore; // with sde and feather noise, and recorded; else the action alone
  bool noise;   // a flow starts from noise and a Gaussian is sampled; else it starts at zero and is the mean
  enum sampler_kind sampler;
  int flow_steps;
  uint64_t seed;
  uint32_t purpose; // added to the purposes of the random streams
};
struct policy_acting policy_training(const struct config *config);
struct policy_acting policy_evaluation(const struct config *config);

// Recorded actions, row after row, with what was drawn again.
struct policy_batch {
  int rows;
  const float *obs;    // [rows, O] normalised
  const float *action; // [rows, action_columns]
  const float *eps;    // [rows, noises, A]
  const float *t;      // [rows, times]
};

// Where actions' draws go: eps [rows, noises, A], t [rows, times] and, where nothing old is recorded, old [rows, ratios].
struct policy_draws {
  float *eps, *t, *old;
};

// What a method does in its own way. `p` is the policy that has the method.
struct policy_method {
  void (*layout)(struct policy *p, size_t offset); // the network, and the sizes above

  // Actions of `rows` observations. obs [rows, O] normalised; row r draws from the streams of owner first_owner + r at
  // `step`. record [rows, action_columns], or [rows, A] raw actions when not exploring.
  void (*act)(const struct policy *p, const float *parameters, const struct policy_acting *how, uint32_t first_owner,
              uint32_t step, int rows, const float *obs, struct policy_workspace *w, float *record);

  // Draws again what the log-probabilities of `rows` actions need: those of environment `env` at `step` and the control
  // steps after it, counted since the run's start.
  void (*draw)(const struct policy *p, uint32_t env, uint32_t step, int rows, struct policy_draws out);

  // log_prob [rows, terms]; fpo: minus objective.loss_weight times the CFM losses
  void (*forward)(const struct policy *p, const float *parameters, const struct policy_batch *b,
                  struct policy_workspace *w, float *log_prob);

  // Adds the gradient of sum(d_log_prob · log_prob) + d_entropy · sum(entropy) to `gradient`, after the forward with the
  // same arguments and workspace. d_log_prob [rows, terms] is overwritten.
  void (*backward)(const struct policy *p, const float *parameters, const struct policy_batch *b,
                   struct policy_workspace *w, float *d_log_prob, float d_entropy, float *gradient);
};

// What the environment receives of raw actions: their tanh. raw [count], action [count]; they may be the same.
void policy_squash(size_t count, const float *raw, float *action);

// An action's log-probabilities as its ratios see them: themselves, or their mean. terms [terms], out [ratios].
void policy_combine(const struct policy *p, const float *terms, float *out);

// Evaluations of the network for one action; matrix-product operations of one action made, compared, learned from.
int policy_evaluations(const struct policy *p, const struct policy_acting *how);
double policy_act_flops(const struct policy *p, const struct policy_acting *how);
double policy_forward_flops(const struct policy *p);
double policy_backward_flops(const struct policy *p);

#endif
