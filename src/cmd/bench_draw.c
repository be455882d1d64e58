/* bench_draw.c - `proa bench slice --from-json`: the picture of a measurement of another day or machine. */
#include "cmd/bench_roofline.h"
#include "cmd/cmd.h"

enum { FILE_MAX = 4 << 20 };

int proa_cmd_bench_draw(const proa_options *options)
{
    const char *path = proa_options_string(options, "from-json"), *svg = proa_options_string(options, "svg");
    proa_error err = {0};
    if (svg == NULL) {
        proa_error_set(&err, PROA_ERR_INVALID, "--from-json %s: say with --svg FILE where to draw it", path);
        proa_cmd_fail(&err);
        return PROA_EXIT_USAGE;
    }
    proa_json *whole = proa_json_parse_file(path, FILE_MAX, &err);
    proa_status status = whole != NULL ? PROA_OK : err.status;
    if (status == PROA_OK) {
        status = proa_roofline_write(whole, proa_options_string(options, "shape"), svg, &err);
        if (status == PROA_ERR_INVALID || status == PROA_ERR_TOO_LONG || status == PROA_ERR_NOT_FOUND)
            proa_error_prefix(&err, "--from-json %s", path);
    }
    proa_json_free(whole);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
