/* test_trace.c - traces of a GPU's steps: spans nest and do not overlap on a track, every layer's ops are there, in steps that are graphs and
 * in those that are queued, whole and in pieces; so many steps and no more; no bit moves; and where nothing is recorded, no graph has a mark. */
#include "gpu_test.h"
#include "small_model.h"
#include "model/cuda/runner.h"
#include "model/cuda/trace.h"

#include <unistd.h>

enum {
    VOCAB = 320,
    LAYERS = 3,
    DENSE = 1,
    PROMPT = 40,
    BLOCKS = 8,
    MOST = 4,
    FILE_MAX = 8 << 20,
    EVENTS_MAX = 4096
};

typedef struct fixture {
    proa_gpu *gpu;
    proa_model_config config;
    proa_cuda_weights *weights;
    proa_trace *trace;
    proa_forward *forward;
    char path[64];
} fixture;

/* A step's prompts have as many keys as a context, each prompt's rounded up to 128; others come in pieces. */
static void open_fixture(fixture *f, proa_gpu *gpu, int32_t context, bool single_stream)
{
    proa_error err = {0};
    *f = (fixture){.gpu = gpu};
    small_model(&f->config);
    gpu_good(proa_cuda_weights_make(gpu, &f->config, f->config.n_routed_experts, &f->weights, &err), &err);
    gpu_good(proa_trace_create("test", &f->trace, &err), &err);
    const proa_forward_limits limits = {
        .rows_max = 3 * PROMPT, .logit_rows_max = MOST, .positions_max = context, .kv_blocks = BLOCKS};
    const proa_cuda_runner_options options = {.graphs = {.count = 2, .rows = {1, MOST}},
                                              .host_logits = true,
                                              .single_stream = single_stream,
                                              .trace = f->trace};
    gpu_good(proa_cuda_runner_create(gpu, f->weights, NULL, &limits, &options, &f->forward, &err), &err);
    snprintf(f->path, sizeof f->path, "/tmp/test_gpu_trace.XXXXXX");
    const int fd = mkstemp(f->path);
    assert_true(fd >= 0);
    close(fd);
}

static void close_fixture(fixture *f)
{
    proa_forward_free(f->forward);
    proa_cuda_weights_free(f->gpu, f->weights);
    proa_trace_free(f->trace);
    unlink(f->path);
}

/* ---- steps, as an engine makes them: `count` sequences of the same tokens, each in blocks of its own ---- */

static void run_step(fixture *f, int32_t count, int32_t first, int32_t rows, float logits[MOST][VOCAB])
{
    static const int32_t blocks[MOST][2] = {{3, 1}, {0, 4}, {6, 2}, {5, 7}};
    proa_segment segments[MOST];
    int32_t ids[MOST * PROMPT], logit_rows[MOST];
    float *out = NULL;
    proa_error err = {0};
    for (int32_t s = 0; s < count; s++) {
        segments[s] = (proa_segment){.row_first = s * rows,
                                     .row_count = rows,
                                     .position_first = first,
                                     .blocks = blocks[s],
                                     .absorbed = first >= PROMPT};
        logit_rows[s] = (s + 1) * rows - 1;
        for (int32_t i = 0; i < rows; i++)
            ids[s * rows + i] = ((first + i) * 37 + s) % VOCAB;
    }
    proa_trace_step_begin(f->trace);
    gpu_good(proa_forward_step(f->forward,
                               &(proa_step){.row_count = count * rows,
                                            .token_ids = ids,
                                            .segments = segments,
                                            .segment_count = count,
                                            .logit_rows = logit_rows,
                                            .logit_count = count},
                               &out, &err),
             &err);
    proa_trace_step_end(f->trace, "");
    memcpy(logits, out, sizeof *logits * (size_t)count);
}

/* ---- what was written ---- */

typedef struct event {
    const char *name;
    int64_t track;
    int64_t start_ns, end_ns;
    int64_t layer; /* or -1 */
    const proa_json *args;
} event;

typedef struct events {
    proa_json *json;
    int32_t count;
    event e[EVENTS_MAX];
} events;

static void read_events(const fixture *f, events *to)
{
    static char text[FILE_MAX];
    proa_error err = {0};
    FILE *file = fopen(f->path, "r");
    assert_non_null(file);
    const size_t n = fread(text, 1, sizeof text, file);
    fclose(file);
    assert_true(n < sizeof text);
    to->json = proa_json_parse(text, n, &err);
    to->count = 0;
    if (to->json == NULL)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < proa_json_size(to->json); i++) {
        const proa_json *e = proa_json_at(to->json, i), *args = proa_json_get(e, "args");
        if (strcmp(proa_json_string(proa_json_get(e, "ph"), ""), "X") != 0)
            continue;
        assert_true(to->count < EVENTS_MAX);
        const int64_t start = llround(1e3 * proa_json_real(proa_json_get(e, "ts"), NAN)),
                      length = llround(1e3 * proa_json_real(proa_json_get(e, "dur"), NAN));
        assert_true(length >= 0);
        to->e[to->count++] = (event){.name = proa_json_string(proa_json_get(e, "name"), ""),
                                     .track = proa_json_int(proa_json_get(e, "tid"), -1),
                                     .start_ns = start,
                                     .end_ns = start + length,
                                     .layer = proa_json_int(proa_json_get(args, "layer"), -1),
                                     .args = args};
    }
}

static int32_t count_named(const events *all, const char *name, int64_t layer)
{
    int32_t count = 0;
    for (int32_t i = 0; i < all->count; i++)
        count += strcmp(all->e[i].name, name) == 0 && all->e[i].layer == layer;
    return count;
}

/* Each pair of a track: apart, or one within the other. */
static void check_tracks(const events *all)
{
    for (int32_t i = 0; i < all->count; i++)
        for (int32_t j = 0; j < i; j++) {
            const event *a = &all->e[j], *b = &all->e[i]; /* a was written before */
            const bool apart = a->end_ns <= b->start_ns || b->end_ns <= a->start_ns,
                       within = b->start_ns >= a->start_ns && b->end_ns <= a->end_ns;
            if (a->track == b->track && !apart && !within)
                fail_msg("\"%s\" %lld-%lld and \"%s\" %lld-%lld overlap on track %lld", a->name,
                         (long long)a->start_ns, (long long)a->end_ns, b->name, (long long)b->start_ns,
                         (long long)b->end_ns, (long long)a->track);
        }
}

/* So many times in the whole trace, each. */
static void check_layers(const events *all, int32_t prompts, int32_t decodes)
{
    static const struct {
        const char *name;
        bool of_prompts, of_decodes, dense, moe;
        int32_t times;
    } ops[] = {
        {"norms", true, true, true, true, 2},
        {"q_a, kv_a", true, true, true, true, 1},
        {"q_a norm", true, true, true, true, 1},
        {"q_b", true, true, true, true, 1},
        {"RoPE", true, true, true, true, 1},
        {"kv_a norm, cache", true, true, true, true, 1},
        {"W_UK", false, true, true, true, 1},
        {"MLA decode", false, true, true, true, 1},
        {"W_UV", false, true, true, true, 1},
        {"gather keys", true, false, true, true, 1},
        {"kv_b", true, false, true, true, 1},
        {"MHA prefill", true, false, true, true, 1},
        {"o_proj", true, true, true, true, 1},
        {"dense MLP", true, true, true, false, 1},
        {"router", true, true, false, true, 1},
        {"dispatch pack", true, true, false, true, 1},
        {"experts gate, up", true, true, false, true, 1},
        {"experts SwiGLU", true, true, false, true, 1},
        {"experts down", true, true, false, true, 1},
        {"shared expert", true, true, false, true, 1},
        {"combine", true, true, false, true, 1},
    };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        for (int32_t layer = 0; layer < LAYERS; layer++) {
            const bool there = layer < DENSE ? ops[i].dense : ops[i].moe;
            const int32_t want =
                there ? ops[i].times * (prompts * ops[i].of_prompts + decodes * ops[i].of_decodes) : 0;
            if (count_named(all, ops[i].name, layer) != want)
                fail_msg("\"%s\" of layer %d: %d times, not %d", ops[i].name, layer,
                         count_named(all, ops[i].name, layer), want);
        }
    assert_int_equal(count_named(all, "LM head", -1), prompts + decodes);
    assert_int_equal(count_named(all, "embed", -1), prompts + decodes);
}

static int32_t count_graphs(const events *all)
{
    int32_t count = 0;
    for (int32_t i = 0; i < all->count; i++)
        count += strcmp(all->e[i].name, "forward") == 0 &&
                 proa_json_bool(proa_json_get(all->e[i].args, "graph"), false);
    return count;
}

/* Prompts, then six steps with a graph, of which the trace has the first three; then three that it does not have. */
static void record(fixture *f, float logits[][MOST][VOCAB])
{
    proa_error err = {0};
    gpu_good(proa_trace_start(f->trace, f->path, 0, 4, &err), &err);
    run_step(f, 3, 0, PROMPT, logits[0]);
    for (int32_t i = 1; i <= 6; i++)
        run_step(f, i < 3 ? 3 : 1, PROMPT + i - 1, 1, logits[i]);
    assert_int_equal(proa_trace_stop(f->trace, &err), PROA_BUSY); /* it has ended */
}

static void check_steps(void **state, bool single_stream)
{
    static events all;
    static float logits[7][MOST][VOCAB], plain[7][MOST][VOCAB];
    fixture f;
    open_fixture(&f, gpu_of(state), 512, single_stream);
    memset(logits, 0, sizeof logits);
    memset(plain, 0, sizeof plain);
    run_step(&f, 3, 0, PROMPT, plain[0]);
    for (int32_t i = 1; i <= 6; i++)
        run_step(&f, i < 3 ? 3 : 1, PROMPT + i - 1, 1, plain[i]);
    record(&f, logits);
    assert_memory_equal(logits, plain, sizeof plain);
    read_events(&f, &all);
    check_tracks(&all);
    check_layers(&all, 1, 3);
    assert_int_equal(count_graphs(&all), 3);
    assert_int_equal(count_named(&all, "step", -1), 4);
    assert_int_equal(count_named(&all, "upload of the step", -1), 4);
    assert_int_equal(count_named(&all, "download of logits", -1), 4);
    assert_int_equal(count_named(&all, "make a graph with marks", -1), 2); /* of MOST rows, and of 1 */
    int32_t beside = 0;
    for (int32_t i = 0; i < all.count; i++)
        beside += all.e[i].track == 1 + PROA_TRACE_GPU_BESIDE;
    assert_int_equal(beside, single_stream ? 0 : 4 * LAYERS + 2 * LAYERS + 4 * (LAYERS - DENSE));
    proa_json_free(all.json);
    close_fixture(&f);
}

static void test_steps_on_two_streams(void **state)
{
    check_steps(state, false);
}

static void test_steps_on_one_stream(void **state)
{
    check_steps(state, true);
}

/* What does not fit runs in pieces; each is there, the step has one download. */
static void test_pieces(void **state)
{
    static events all;
    static float logits[MOST][VOCAB];
    fixture f;
    proa_error err = {0};
    open_fixture(&f, gpu_of(state), 256, false);
    gpu_good(proa_trace_start(f.trace, f.path, 1, 1, &err), &err);
    run_step(&f, 1, 0, PROMPT, logits);
    run_step(&f, 3, 0, PROMPT, logits);
    read_events(&f, &all);
    check_tracks(&all);
    check_layers(&all, 2, 0);
    assert_int_equal(count_named(&all, "step", -1), 1);
    assert_int_equal(count_named(&all, "gather keys", 0), 2);
    assert_int_equal(count_named(&all, "download of logits", -1), 1);
    proa_json_free(all.json);
    close_fixture(&f);
}

/* The GPU's spans lie within the step that the host sees, as far as clocks agree; and they take time. */
static void test_clocks_agree(void **state)
{
    enum { SLACK_NS = 200000 };
    static events all;
    static float logits[MOST][VOCAB];
    fixture f;
    proa_error err = {0};
    int64_t start_ns = 0, end_ns = 0;
    open_fixture(&f, gpu_of(state), 256, false);
    gpu_good(proa_trace_start(f.trace, f.path, 2, 1, &err), &err);
    for (int32_t i = 0; i < 3; i++)
        run_step(&f, 1, i == 0 ? 0 : PROMPT + i - 1, i == 0 ? PROMPT : 1, logits);
    read_events(&f, &all);
    for (int32_t i = 0; i < all.count; i++)
        if (strcmp(all.e[i].name, "step") == 0) {
            start_ns = all.e[i].start_ns;
            end_ns = all.e[i].end_ns;
        }
    assert_true(end_ns > start_ns);
    for (int32_t i = 0; i < all.count; i++)
        if (all.e[i].start_ns < start_ns - SLACK_NS || all.e[i].end_ns > end_ns + SLACK_NS)
            fail_msg("\"%s\" %lld-%lld lies outside of its step %lld-%lld", all.e[i].name,
                     (long long)all.e[i].start_ns, (long long)all.e[i].end_ns, (long long)start_ns,
                     (long long)end_ns);
    for (int32_t i = 0; i < all.count; i++)
        if (strcmp(all.e[i].name, "LM head") == 0 || strcmp(all.e[i].name, "MLA decode") == 0 ||
            strcmp(all.e[i].name, "shared expert") == 0)
            assert_true(all.e[i].end_ns > all.e[i].start_ns);
    proa_json_free(all.json);
    close_fixture(&f);
}

static size_t nodes_of(fixture *f, proa_cuda_forward *forward, proa_cuda_marks *marks, int32_t streams)
{
    proa_error err = {0};
    proa_gpu_graph *graph;
    if (marks != NULL)
        proa_cuda_marks_clear(marks);
    proa_cuda_forward_set_streams(forward, streams);
    proa_cuda_forward_set_marks(forward, marks);
    gpu_good(proa_gpu_graph_begin(f->gpu, &err), &err);
    gpu_good(proa_cuda_forward_run(forward, &err), &err);
    gpu_good(proa_gpu_graph_end(f->gpu, &graph, &err), &err);
    proa_cuda_forward_set_marks(forward, NULL);
    const size_t nodes = proa_gpu_graph_nodes(graph);
    proa_gpu_graph_free(graph);
    return nodes;
}

static void test_a_graph_has_marks_where_they_are_wanted(void **state)
{
    fixture f;
    proa_error err = {0};
    proa_cuda_forward *forward;
    proa_cuda_marks *marks;
    open_fixture(&f, gpu_of(state), 256, false);
    const proa_cuda_limits limits = {.rows_max = MOST,
                                     .decode_rows_max = MOST,
                                     .segments_max = 1,
                                     .keys_max = 128,
                                     .logit_rows_max = MOST,
                                     .positions_max = 256,
                                     .kv_blocks = BLOCKS};
    gpu_good(proa_cuda_forward_create(f.gpu, f.weights, &limits, NULL, &forward, &err), &err);
    gpu_good(proa_cuda_marks_create(f.gpu, proa_cuda_forward_points_max(forward), &marks, &err), &err);
    gpu_good(proa_cuda_forward_prepare(forward, &(proa_cuda_step){.padding = MOST}, &err), &err);
    gpu_good(proa_cuda_forward_run(forward, &err), &err); /* so that all kernels are loaded */
    gpu_good(proa_gpu_sync(f.gpu, &err), &err);
    const size_t plain = nodes_of(&f, forward, NULL, 2);
    assert_int_equal(nodes_of(&f, forward, NULL, 1), plain);
    assert_true(nodes_of(&f, forward, marks, 1) > plain + 10 * LAYERS);
    assert_true(nodes_of(&f, forward, marks, 2) > plain + 10 * LAYERS);
    assert_int_equal(nodes_of(&f, forward, NULL, 2), plain);
    proa_cuda_marks_free(marks);
    proa_cuda_forward_free(forward);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_on_two_streams),
        cmocka_unit_test(test_steps_on_one_stream),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_clocks_agree),
        cmocka_unit_test(test_a_graph_has_marks_where_they_are_wanted),
    };
    return cmocka_run_group_tests(tests, gpu_open_state, gpu_close_state);
}
