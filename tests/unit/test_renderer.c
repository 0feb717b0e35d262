// What the renderer draws of a ball above a floor: where it is, through which camera, and a translucent second one.
#include "helpers.h"

#include "actor/renderer.h"

// For sanitizer builds: Mesa's driver leaves memory behind, and cannot be told by name once it is unloaded.
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; }

enum { WIDTH = 64, HEIGHT = 48, BYTES = WIDTH * HEIGHT * 3 };

static const char MODEL[] = "<mujoco><worldbody><light pos='0 0 4'/><geom type='plane' size='4 4 .1'/>"
                            "<camera name='front' pos='0 -3 1' xyaxes='1 0 0 0 0 1'/>"
                            "<camera pos='0 0 4'/>"
                            "<body pos='0 0 1'><freejoint/><geom size='.3' rgba='1 0 0 1'/></body>"
                            "</worldbody></mujoco>";

struct stage {
  mjModel *model;
  mjData *data, *reference;
  struct renderer renderer;
};

static mjData *ball_at(const mjModel *m, double x) {
  mjData *d = mj_makeData(m);
  assert_non_null(d);
  d->qpos[0] = x;
  mj_forward(m, d);
  return d;
}

static mjModel *compile(void) {
  char reason[256] = "";
  mjSpec *spec = mj_parseXMLString(MODEL, NULL, reason, sizeof reason);
  assert_non_null(spec);
  mjModel *m = mj_compile(spec, NULL);
  assert_non_null(m);
  mj_deleteSpec(spec);
  return m;
}

// Skips the test where there is no OpenGL.
static void set_up(struct stage *s) {
  mjvCamera camera;
  s->model = compile();
  s->data = ball_at(s->model, -0.7);
  s->reference = ball_at(s->model, 0.7);
  must(renderer_find_camera(s->model, NULL, &camera));
  struct error *e = renderer_init(&s->renderer, s->model, &camera, WIDTH, HEIGHT);
  if (e == NULL) return;
  print_message("%s\n", e->text);
  error_free(e);
  renderer_free(&s->renderer);
  mj_deleteData(s->data);
  mj_deleteData(s->reference);
  mj_deleteModel(s->model);
  skip();
}

static void tear_down(struct stage *s) {
  renderer_free(&s->renderer);
  mj_deleteData(s->data);
  mj_deleteData(s->reference);
  mj_deleteModel(s->model);
}

// Draws the ball, with the reference at this opacity (below 0: none).
static void take(struct stage *s, double alpha, uint8_t picture[BYTES]) {
  renderer_scene(&s->renderer, s->model, s->data);
  if (alpha >= 0) renderer_ghost(&s->renderer, s->model, s->reference, (float)alpha);
  renderer_draw(&s->renderer, NULL, NULL);
  memcpy(picture, s->renderer.rgb, BYTES);
}

// By how much red outweighs blue, over the columns first..end-1.
static double redness(const uint8_t picture[BYTES], int first, int end) {
  double sum = 0;
  for (int y = 0; y < HEIGHT; ++y)
    for (int x = first; x < end; ++x) {
      const uint8_t *pixel = picture + 3 * (y * WIDTH + x);
      if (pixel[0] > pixel[2]) sum += pixel[0] - pixel[2];
    }
  return sum;
}

static void the_ball_is_where_its_data_says(void **state) {
  (void)state;
  struct stage s;
  uint8_t left[BYTES], again[BYTES];
  set_up(&s);
  take(&s, -1, left);
  assert_true(redness(left, 0, WIDTH / 2) > 1000);
  assert_true(redness(left, WIDTH / 2, WIDTH) < 1);
  take(&s, -1, again);
  assert_memory_equal(left, again, BYTES);
  s.data->qpos[0] = 0.7;
  mj_forward(s.model, s.data);
  take(&s, -1, again);
  assert_true(redness(again, WIDTH / 2, WIDTH) > 1000);
  assert_true(redness(again, 0, WIDTH / 2) < 1);
  tear_down(&s);
}

// A ball in the upper half must be in the upper rows.
static void the_top_row_is_first(void **state) {
  (void)state;
  struct stage s;
  uint8_t picture[BYTES];
  set_up(&s);
  s.data->qpos[2] = 1.6;
  mj_forward(s.model, s.data);
  take(&s, -1, picture);
  memset(picture + BYTES / 2, 0, BYTES / 2);
  assert_true(redness(picture, 0, WIDTH) > 1000);
  tear_down(&s);
}

static void a_ghost_is_translucent(void **state) {
  (void)state;
  struct stage s;
  uint8_t none[BYTES], half[BYTES], full[BYTES], invisible[BYTES];
  set_up(&s);
  take(&s, -1, none);
  take(&s, 0.4, half);
  take(&s, 1, full);
  take(&s, 0, invisible);
  const double weak = redness(half, WIDTH / 2, WIDTH), strong = redness(full, WIDTH / 2, WIDTH);
  assert_true(weak > 0.2 * strong && weak < 0.8 * strong);
  assert_memory_equal(none, invisible, BYTES);
  const double body = redness(none, 0, WIDTH / 2), beside = redness(half, 0, WIDTH / 2);
  assert_true(fabs(body - beside) < 0.05 * body); // the body itself stays as it is
  take(&s, -1, half);
  assert_memory_equal(none, half, BYTES); // and the ghost is gone with its frame
  tear_down(&s);
}

static void cameras_have_names_and_numbers(void **state) {
  (void)state;
  mjvCamera camera;
  mjModel *m = compile();
  must(renderer_find_camera(m, "front", &camera));
  assert_int_equal(camera.type, mjCAMERA_FIXED);
  assert_int_equal(camera.fixedcamid, 0);
  must(renderer_find_camera(m, "1", &camera));
  assert_int_equal(camera.fixedcamid, 1);
  must(renderer_find_camera(m, "track", &camera));
  assert_int_equal(camera.type, mjCAMERA_TRACKING);
  assert_int_equal(camera.trackbodyid, 1);
  must(renderer_find_camera(m, "free", &camera));
  assert_int_equal(camera.type, mjCAMERA_FREE);
  struct error *e = renderer_find_camera(m, "frnt", &camera);
  assert_non_null(e);
  assert_non_null(strstr(e->text, "did you mean 'front'"));
  error_free(e);
  m->ncam = 0;
  must(renderer_find_camera(m, NULL, &camera));
  assert_int_equal(camera.type, mjCAMERA_TRACKING);
  e = renderer_find_camera(m, "0", &camera);
  assert_non_null(e);
  error_free(e);
  m->ncam = 2;
  mj_deleteModel(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_ball_is_where_its_data_says),
      cmocka_unit_test(the_top_row_is_first),
      cmocka_unit_test(a_ghost_is_translucent),
      cmocka_unit_test(cameras_have_names_and_numbers),
  };
  return cmocka_run_group_tests_name("renderer", tests, NULL, NULL);
}
