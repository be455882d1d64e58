/* marks.c - see marks.h. */
#include "model/cuda/marks.h"

#include <stdlib.h>

typedef struct point {
    proa_gpu_mark *mark;
    int32_t what;
    int32_t layer;
    bool beside;
} point;

struct proa_cuda_marks {
    proa_gpu *gpu;
    int32_t count, points_max;
    int32_t last[2]; /* point of each stream, or -1 */
    point points[];
};

proa_status proa_cuda_marks_create(proa_gpu *gpu, int32_t points_max, proa_cuda_marks **out, proa_error *err)
{
    proa_cuda_marks *m = calloc(1, sizeof *m + sizeof *m->points * (size_t)points_max);
    proa_status status = PROA_OK;
    *out = NULL;
    if (m == NULL)
        return proa_error_set(err, PROA_ERR_MEMORY, "no memory for %d marks", points_max);
    m->gpu = gpu;
    m->points_max = points_max;
    proa_cuda_marks_clear(m);
    for (int32_t i = 0; i < points_max && status == PROA_OK; i++)
        status = proa_gpu_mark_create(gpu, &m->points[i].mark, err);
    if (status != PROA_OK) {
        proa_cuda_marks_free(m);
        return status;
    }
    *out = m;
    return PROA_OK;
}

void proa_cuda_marks_free(proa_cuda_marks *m)
{
    for (int32_t i = 0; m != NULL && i < m->points_max; i++)
        proa_gpu_mark_free(m->points[i].mark);
    free(m);
}

void proa_cuda_marks_clear(proa_cuda_marks *m)
{
    m->count = 0;
    m->last[0] = m->last[1] = -1;
}

proa_status proa_cuda_marks_add(proa_cuda_marks *m, int32_t what, int32_t layer, bool beside, proa_error *err)
{
    const int32_t last = m->last[beside];
    if (last >= 0 ? m->points[last].what == what && m->points[last].layer == layer
                  : what == PROA_CUDA_NOTHING)
        return PROA_OK;
    PROA_ASSERT(m->count < m->points_max);
    point *p = &m->points[m->count];
    p->what = what;
    p->layer = layer;
    p->beside = beside;
    m->last[beside] = m->count++;
    return proa_gpu_mark_set(m->gpu, p->mark, err);
}

/* Where the stream's next point is; it has one behind each that is not NOTHING. */
static const point *next_of(const proa_cuda_marks *m, int32_t at)
{
    for (int32_t i = at + 1; i < m->count; i++)
        if (m->points[i].beside == m->points[at].beside)
            return &m->points[i];
    PROA_ASSERT(m->points[at].what == PROA_CUDA_NOTHING);
    return NULL;
}

bool proa_cuda_marks_next(const proa_cuda_marks *m, const proa_gpu_mark *from, int32_t *at,
                          proa_cuda_span *span)
{
    while (*at < m->count && m->points[*at].what == PROA_CUDA_NOTHING)
        ++*at;
    if (*at == m->count)
        return false;
    const point *p = &m->points[*at], *end = next_of(m, *at);
    *span = (proa_cuda_span){.what = p->what,
                             .layer = p->layer,
                             .beside = p->beside,
                             .start_us = proa_gpu_mark_us(from, p->mark),
                             .end_us = proa_gpu_mark_us(from, end->mark)};
    ++*at;
    return true;
}
