// humanoid_track's observation and similarity against golden/humanoid/humanoid.h5, which make.py beside it evaluates with
// rotation matrices in numpy.
#include "../unit/helpers.h"
#include "golden_file.h"

#include "actor/tasks/humanoid_track.h"

static const double PROMISE = 1e-9;

struct pose_of_case {
  struct golden_array position, rotation, velocity;
};

static struct golden_array read_part(const struct golden *g, const char *name, const char *part) {
  char path[GOLDEN_NAME_SIZE + 64];
  snprintf(path, sizeof path, "%s/%s", name, part);
  return golden_read(g, path);
}

static struct pose_of_case read_pose(const struct golden *g, const char *name, const char *which) {
  char part[64];
  struct pose_of_case p;
  snprintf(part, sizeof part, "%s_position", which);
  p.position = read_part(g, name, part);
  snprintf(part, sizeof part, "%s_rotation", which);
  p.rotation = read_part(g, name, part);
  snprintf(part, sizeof part, "%s_velocity", which);
  p.velocity = read_part(g, name, part);
  return p;
}

static struct motion_pose view(const struct pose_of_case *p) {
  return (struct motion_pose){p->position.data, p->rotation.data, p->velocity.data};
}

static void free_pose(struct pose_of_case *p) {
  golden_array_free(&p->position);
  golden_array_free(&p->rotation);
  golden_array_free(&p->velocity);
}

static void check_observation(const struct golden *g, const char *name, const char *kind, int bodies,
                              const struct motion_pose *self, const struct motion_pose *target, const double *upright) {
  char part[64];
  bool seen[64];
  snprintf(part, sizeof part, "seen_%s", kind);
  struct golden_array shown = read_part(g, name, part);
  snprintf(part, sizeof part, "obs_%s", kind);
  struct golden_array want = read_part(g, name, part);
  assert_int_equal(want.count, humanoid_track_obs_dim(bodies));
  for (int j = 0; j < bodies; ++j) seen[j] = shown.data[j] != 0;
  double *obs = doubles(want.count);
  humanoid_track_observe(bodies, upright, self, target, seen, strcmp(kind, "full") == 0, obs);
  for (size_t i = 0; i < want.count; ++i)
    if (!(fabs(obs[i] - want.data[i]) <= PROMISE))
      fail_msg("%s, %s: obs[%zu] is %.15g, not %.15g", name, kind, i, obs[i], want.data[i]);
  free(obs);
  golden_array_free(&shown);
  golden_array_free(&want);
}

static void observation_and_similarity_are_those_of_matrices(void **unused) {
  (void)unused;
  struct golden g;
  char name[GOLDEN_NAME_SIZE];
  size_t cases = 0;
  golden_open(&g, "humanoid/humanoid.h5");
  for (; golden_member(&g, "/", cases, name); ++cases) {
    struct pose_of_case self = read_pose(&g, name, "self"), target = read_pose(&g, name, "target");
    struct golden_array upright = read_part(&g, name, "upright"), want = read_part(&g, name, "similarity");
    const struct motion_pose a = view(&self), b = view(&target);
    const int bodies = (int)self.position.dim[0];
    const double got = humanoid_track_similarity(bodies, &a, &b);
    if (!(fabs(got - want.data[0]) <= PROMISE)) fail_msg("%s: similarity %.15g, not %.15g", name, got, want.data[0]);
    check_observation(&g, name, "full", bodies, &a, &b, upright.data);
    check_observation(&g, name, "some", bodies, &a, &b, upright.data);
    check_observation(&g, name, "root", bodies, &a, &b, upright.data);
    free_pose(&self);
    free_pose(&target);
    golden_array_free(&upright);
    golden_array_free(&want);
  }
  golden_close(&g);
  assert_int_equal(cases, 12);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(observation_and_similarity_are_those_of_matrices)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
