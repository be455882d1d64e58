/* slurm_profiler.c - --profiler's text: settings with semicolons between, in Dynamo's form. */
#include "cmd/slurm.h"

#include <stdlib.h>
#include <string.h>

static bool to_count(const char *text, int *value)
{
    char *end;
    long n = strtol(text, &end, 10);
    *value = (int)n;
    return end != text && *end == '\0' && n >= 1 && n <= 1 << 20;
}

static proa_status bad_profiler(const char *text, const char *why, proa_error *err)
{
    return proa_error_set(err, PROA_ERR_INVALID,
                          "--profiler \"%s\": %s; write manual, or \"type=sglang; isl=8192; osl=1024; "
                          "concurrencies=16x2048; req-rate=inf\"",
                          text, why);
}

/* One "name=value" of the profiler's text; the answer says what is wrong with it, NULL: nothing. */
static const char *take_setting(proa_slurm_plan *plan, char *setting)
{
    char *value = strchr(setting, '='), *rest = NULL;
    if (value == NULL)
        return "each setting is name=value";
    *value++ = '\0';
    if (strcmp(setting, "type") == 0) {
        plan->profiler = proa_arena_string(plan->arena, value, strlen(value));
    } else if (strcmp(setting, "isl") == 0) {
        return to_count(value, &plan->profile_isl) ? NULL : "isl is a number of tokens";
    } else if (strcmp(setting, "osl") == 0) {
        return to_count(value, &plan->profile_osl) ? NULL : "osl is a number of tokens";
    } else if (strcmp(setting, "req-rate") == 0) {
        return strcmp(value, "inf") == 0 ? NULL : "req-rate is inf: requests are sent as others end";
    } else if (strcmp(setting, "concurrencies") == 0) {
        for (char *one = strtok_r(value, "x", &rest); one != NULL; one = strtok_r(NULL, "x", &rest)) {
            int n;
            if (!to_count(one, &n) || n > 4096)
                return "concurrencies are numbers up to 4096 with an x between";
            proa_words_add(&plan->profile_concurrencies, one);
        }
    } else {
        return "settings are type, isl, osl, concurrencies and req-rate";
    }
    return NULL;
}

proa_status proa_slurm_plan_profiler(proa_slurm_plan *plan, proa_error *err)
{
    const char *text = proa_options_string(plan->options, "profiler");
    char copy[512], *rest = NULL;
    plan->profile_concurrencies.arena = plan->arena;
    plan->profiler = "manual";
    if (strcmp(text, "manual") == 0)
        return PROA_OK;
    if (strlen(text) >= sizeof copy)
        return bad_profiler("...", "it is too long", err);
    strcpy(copy, text);
    for (char *one = strtok_r(copy, ";", &rest); one != NULL; one = strtok_r(NULL, ";", &rest)) {
        one += strspn(one, " ");
        const char *wrong = take_setting(plan, one);
        if (wrong != NULL)
            return bad_profiler(text, wrong, err);
    }
    if (strcmp(plan->profiler, "manual") == 0)
        return PROA_OK;
    if (strcmp(plan->profiler, "sglang") != 0 && strcmp(plan->profiler, "vllm") != 0)
        return bad_profiler(text, "type is manual, sglang or vllm", err);
    if (plan->profile_isl == 0 || plan->profile_osl == 0 || plan->profile_concurrencies.count == 0)
        return bad_profiler(text, "isl, osl and concurrencies are needed", err);
    return PROA_OK;
}
