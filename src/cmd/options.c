/* options.c - the commands and the option table. Data alone; base/option.c reads it.
 *
 * To add a command: a file with proa_cmd_NAME, its line in cmd.h, its line in `commands` below, its name in the
 * `commands` column of the options that it knows. To add an option: its row, where its group stands. Then `make docs`.
 *
 * Names and meanings are SGLang's wherever it has the flag. An option may name commands that do not exist yet.
 */
#include "cmd/cmd.h"

#include <math.h>
#include <stdint.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* clang-format off */
static const proa_command commands[] = {
    {"bench", "op|model|tokenizer", 1,
     "Measure ops, or the layer graph, beside the bounds of this machine; or the tokenizer", proa_cmd_bench},
    {"detokenize", NULL, 0, "Turn JSON lines {\"ids\": [...]} into {\"text\": ...}", proa_cmd_detokenize},
    {"eval", NULL, 0, "Ask the model questions whose answers can be checked, and count", proa_cmd_eval},
    {"serve", NULL, 0, "Serve a model on this machine: OpenAI's API and SGLang's, over HTTP", proa_cmd_serve},
    {"help", "[COMMAND]", 1, "Describe the commands, or one of them", proa_cmd_help},
    {"tokenize", NULL, 0, "Turn JSON lines {\"text\": ...} into {\"ids\": [...]}", proa_cmd_tokenize},
    {"logits", NULL, 0, "Compute logits, hidden states and greedy tokens, and compare them with a reference", proa_cmd_logits},
    {"version", NULL, 0, "Print the version", proa_cmd_version},
};

#define MODEL_COMMANDS "serve logits eval"
#define TEXT_COMMANDS  "tokenize detokenize"

static const proa_option options[] = {
    {.name = "model-path", .aliases = "model", .commands = MODEL_COMMANDS " bench " TEXT_COMMANDS, .group = "Model",
     .type = PROA_OPTION_STRING, .metavar = "DIR",
     .help = "Folder of the checkpoint: config.json, safetensors, tokenizer.json"},
    {.name = "tokenizer-path", .commands = "serve bench " TEXT_COMMANDS, .group = "Model",
     .type = PROA_OPTION_STRING, .metavar = "DIR",
     .help = "Folder of tokenizer.json and tokenizer_config.json when it is not --model-path"},
    {.name = "load-format", .commands = MODEL_COMMANDS " bench", .group = "Model",
     .type = PROA_OPTION_CHOICE, .choices = "auto|dummy", .fallback = "auto",
     .help = "auto reads safetensors; dummy makes random weights of the right shapes from config.json alone"},
    {.name = "activation-dtype", .commands = MODEL_COMMANDS " bench", .group = "Model",
     .type = PROA_OPTION_CHOICE, .choices = "auto|float32", .fallback = "auto",
     .help = "auto is bf16, and FP8 where the checkpoint has FP8 weights; float32 neither rounds nor quantises "
             "activations, as a float32 reference computes"},
    {.name = "context-length", .commands = "serve", .group = "Model",
     .type = PROA_OPTION_INT, .low = 1, .high = INT32_MAX, .unit = "tokens",
     .help = "Longest prompt plus output of a request; without it, what config.json says. Longer than that is an error"},
    {.name = "chat-template", .commands = "serve", .group = "Model",
     .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "Chat template (Jinja) instead of the checkpoint's own"},
    {.name = "reasoning-parser", .commands = "serve", .group = "Model",
     .type = PROA_OPTION_CHOICE, .choices = "auto|none|deepseek-r1|deepseek-v3", .fallback = "auto",
     .help = "How reasoning_content is told from content: deepseek-r1 starts inside the reasoning, deepseek-v3 when the "
             "request turns thinking on; auto looks at the chat template and at the end of each prompt"},
    {.name = "sampling-defaults", .commands = "serve", .group = "Model",
     .type = PROA_OPTION_CHOICE, .choices = "model|openai", .fallback = "model",
     .help = "Sampling parameters of requests to /v1 that give none: those of generation_config.json, or OpenAI's "
             "(temperature 1, top_p 1)"},
    {.name = "trust-remote-code", .commands = "serve", .group = "Model", .type = PROA_OPTION_FLAG,
     .ignored = "no code of a checkpoint is ever run", .help = "Accepted for SGLang's command lines"},

    {.name = "host", .commands = "serve", .group = "Server",
     .type = PROA_OPTION_STRING, .metavar = "ADDRESS", .fallback = "127.0.0.1",
     .help = "Address to listen on; 0.0.0.0 for all"},
    {.name = "port", .commands = "serve", .group = "Server",
     .type = PROA_OPTION_INT, .low = 0, .high = 65535, .fallback = "8000",
     .help = "Port to listen on, 0 for any free one. SGLang's server has 30000; 8000 is the frontend's in its "
             "multi-node guides"},
    {.name = "served-model-name", .commands = "serve", .group = "Server", .type = PROA_OPTION_STRING, .metavar = "NAME",
     .help = "Name in /v1/models and in answers; without it, --model-path"},
    {.name = "api-key", .commands = "serve eval", .group = "Server", .type = PROA_OPTION_STRING, .metavar = "KEY",
     .help = "Key that clients must send as a bearer token (eval: that is sent). In the environment it does not show in ps"},
    {.name = "shutdown-timeout", .commands = "serve", .group = "Server",
     .type = PROA_OPTION_REAL, .low = 0, .high = 86400, .fallback = "5", .unit = "seconds", .metavar = "S",
     .help = "After SIGTERM, requests in flight may take this long; a second signal ends them at once"},
    {.name = "watchdog-timeout", .commands = "serve", .group = "Server",
     .type = PROA_OPTION_REAL, .low = 1, .high = INFINITY, .fallback = "300", .unit = "seconds", .metavar = "S",
     .help = "Requests fail when the engine has made no step for this long"},
    {.name = "log-level", .commands = "serve logits eval bench", .group = "Server",
     .type = PROA_OPTION_CHOICE, .choices = "error|warn|info|debug|trace", .fallback = "info",
     .help = "Least important lines that are logged"},
    {.name = "decode-log-interval", .commands = "serve", .group = "Server",
     .type = PROA_OPTION_INT, .low = 0, .high = INT32_MAX, .fallback = "40", .unit = "decode steps",
     .help = "Steps between two summary lines in the log; 0 for none"},

    {.name = "device", .commands = MODEL_COMMANDS " bench", .group = "Device",
     .type = PROA_OPTION_CHOICE, .choices = "cpu|ref", .fallback = "cpu",
     .help = "cpu is AVX2 or AVX-512 on all cores; ref is the scalar reference that defines the results, and slow"},
    {.name = "threads", .commands = MODEL_COMMANDS " bench", .group = "Device",
     .type = PROA_OPTION_INT, .low = 0, .high = 4096, .fallback = "0",
     .help = "Threads that compute; 0 for one a physical core"},

    {.name = "mem-fraction-static", .commands = "serve", .group = "Memory and scheduling",
     .type = PROA_OPTION_REAL, .low = 0.01, .high = 1, .fallback = "0.9", .metavar = "FRACTION",
     .help = "Share of the available memory that weights and KV cache may take together"},
    {.name = "max-total-tokens", .commands = "serve eval", .group = "Memory and scheduling",
     .type = PROA_OPTION_INT, .low = 1, .high = INT32_MAX, .unit = "tokens",
     .help = "Size of the KV cache; without it, what --mem-fraction-static leaves, but not more than the running "
             "requests could fill"},
    {.name = "max-running-requests", .commands = "serve eval", .group = "Memory and scheduling",
     .type = PROA_OPTION_INT, .low = 1, .high = 65536, .fallback = "64", .unit = "requests",
     .help = "Most requests in a step"},
    {.name = "max-queued-requests", .commands = "serve", .group = "Memory and scheduling",
     .type = PROA_OPTION_INT, .low = 1, .high = 1 << 24, .fallback = "2048", .unit = "requests",
     .help = "Most requests that wait; more are refused with status 503"},
    {.name = "chunked-prefill-size", .commands = "serve eval", .group = "Memory and scheduling",
     .type = PROA_OPTION_INT, .low = -1, .high = INT32_MAX, .fallback = "512", .unit = "tokens",
     .help = "Most prompt tokens in a step; -1 for whole prompts"},
    {.name = "page-size", .commands = "serve eval", .group = "Memory and scheduling",
     .type = PROA_OPTION_INT, .low = 1, .high = 64, .fallback = "1", .unit = "tokens",
     .help = "Granularity at which prefixes are matched"},
    {.name = "schedule-policy", .commands = "serve eval", .group = "Memory and scheduling",
     .type = PROA_OPTION_CHOICE, .choices = "fcfs|lpm", .fallback = "fcfs",
     .help = "Which waiting request is next: first come first served, or longest prefix match"},
    {.name = "disable-radix-cache", .commands = "serve eval", .group = "Memory and scheduling", .type = PROA_OPTION_FLAG,
     .help = "Do not keep the KV cache of finished requests for later ones with the same beginning"},

    {.name = "input", .commands = "logits", .group = "Comparison", .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "Safetensors file with input_ids [n, t] int32, and with --compare the expected tensors"},
    {.name = "output", .commands = "logits eval", .group = "Comparison", .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "File to write: safetensors (logits), JSON lines (eval)"},
    {.name = "compare", .commands = "logits", .group = "Comparison", .type = PROA_OPTION_FLAG,
     .help = "Measure against the tensors of the same names in --input and fail beyond the tolerances"},
    {.name = "prefix", .commands = "logits", .group = "Comparison",
     .type = PROA_OPTION_INT, .low = 0, .high = INT32_MAX, .fallback = "0", .unit = "tokens",
     .help = "With --generate: how many of the given tokens to start from; 0 for all"},
    {.name = "generate", .commands = "logits", .group = "Comparison",
     .type = PROA_OPTION_INT, .low = 0, .high = INT32_MAX, .fallback = "0", .unit = "tokens",
     .help = "Continue greedily by this many tokens"},

    {.name = "input", .commands = TEXT_COMMANDS, .group = "Text", .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "JSON lines to read; without it, standard input"},

    {.name = "questions", .commands = "eval", .group = "Evaluation", .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "JSON lines {\"task\", \"question\", \"answer\"}; without it, the checkpoint's eval.jsonl"},
    {.name = "url", .commands = "eval", .group = "Evaluation", .type = PROA_OPTION_STRING, .metavar = "URL",
     .help = "Ask the server there, http://host:port, instead of running the model here"},
    {.name = "concurrency", .commands = "eval", .group = "Evaluation",
     .type = PROA_OPTION_INT, .low = 1, .high = 4096, .fallback = "16", .unit = "requests",
     .help = "With --url: questions that are asked at once"},
    {.name = "limit", .commands = "eval", .group = "Evaluation",
     .type = PROA_OPTION_INT, .low = 0, .high = INT32_MAX, .fallback = "0", .unit = "questions",
     .help = "Ask only the first ones; 0 for all"},
    {.name = "max-new-tokens", .commands = "eval", .group = "Evaluation",
     .type = PROA_OPTION_INT, .low = 1, .high = INT32_MAX, .fallback = "1024", .unit = "tokens",
     .help = "Longest answer, reasoning included"},

    {.name = "op", .commands = "bench", .group = "Benchmark", .type = PROA_OPTION_STRING, .metavar = "NAME",
     .help = "Measure this op alone, \"linear\" for example"},
    {.name = "shape", .commands = "bench", .group = "Benchmark", .type = PROA_OPTION_STRING, .metavar = "TEXT",
     .help = "Measure only the shapes whose description contains the text"},
    {.name = "isa", .commands = "bench", .group = "Benchmark",
     .type = PROA_OPTION_CHOICE, .choices = "portable|avx2|avx512|avx512-bf16",
     .help = "Use this instruction set instead of the processor's best"},
    {.name = "json", .commands = "bench eval", .group = "Benchmark", .type = PROA_OPTION_STRING, .metavar = "FILE",
     .help = "Write the bounds and rows there too, as JSON"},

    {.name = "format", .commands = "help", .group = "Help",
     .type = PROA_OPTION_CHOICE, .choices = "text|man|markdown", .fallback = "text",
     .help = "man prints the manual page of the whole program, markdown docs/flags.md"},
};
/* clang-format on */

const proa_program proa_cmd_program = {
    .name = "proa",
    .version = PROA_VERSION,
    .summary = "Serve DeepSeek-V3/R1-class language models",
    .commands = commands,
    .command_count = COUNT(commands),
    .options = options,
    .option_count = COUNT(options),
};
