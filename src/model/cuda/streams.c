/* streams.c - the two streams of a step, and the marks between its ops. */
#include "model/cuda/internal.h"

void proa_cuda_forward_set_streams(proa_cuda_forward *f, int32_t streams)
{
    PROA_ASSERT(streams == 1 || streams == 2);
    f->two_streams = streams == 2;
}

void proa_cuda_forward_set_marks(proa_cuda_forward *f, proa_cuda_marks *marks)
{
    f->marks = marks;
    f->mark_status = PROA_OK;
}

int32_t proa_cuda_forward_points_max(const proa_cuda_forward *f)
{
    enum { OF_A_LAYER = 32, OF_A_STEP = 32 };
    return OF_A_LAYER * f->config.num_hidden_layers + OF_A_STEP;
}

/* The first failure is told at the end. */
static void mark(proa_cuda_forward *f, int32_t what)
{
    if (f->marks != NULL && f->mark_status == PROA_OK)
        f->mark_status = proa_cuda_marks_add(f->marks, what, f->layer, f->beside, &f->mark_error);
}

bool proa_cuda_begin(proa_cuda_forward *f, proa_cuda_op op)
{
    if ((f->only >> op & 1) == 0)
        return false;
    mark(f, (int32_t)op);
    return true;
}

proa_status proa_cuda_fork(proa_cuda_forward *f, proa_error *err)
{
    return f->two_streams ? proa_gpu_fork(f->gpu, err) : PROA_OK;
}

void proa_cuda_beside(proa_cuda_forward *f, bool beside)
{
    if (!f->two_streams || f->beside == beside)
        return;
    if (f->beside)
        mark(f, PROA_CUDA_NOTHING);
    f->beside = beside;
    proa_gpu_beside(f->gpu, beside);
}

proa_status proa_cuda_join(proa_cuda_forward *f, proa_error *err)
{
    if (!f->two_streams)
        return PROA_OK;
    mark(f, PROA_CUDA_NOTHING); /* the first stream waits */
    return proa_gpu_join(f->gpu, err);
}

proa_status proa_cuda_end(proa_cuda_forward *f, proa_status status, proa_error *err)
{
    proa_cuda_beside(f, false); /* where something failed in between */
    f->layer = -1;
    mark(f, PROA_CUDA_NOTHING);
    if (status == PROA_OK && f->mark_status != PROA_OK) {
        *err = f->mark_error;
        status = f->mark_status;
    }
    f->mark_status = PROA_OK;
    return status;
}
