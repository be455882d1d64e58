/* template_internal.h - what the files of the template engine share; nobody else includes it.
 *
 *   source --template_lex--> tokens --template_parse*--> nodes (immutable, in the template's arena)
 *   nodes --template_exec (statements), template_eval (expressions)--> values (in the rendering's arena)
 *   values --template_print--> text --template_render--> output with pieces
 *
 * Values follow Python's rules, since that is what template authors test against. Every rendering owns one arena,
 * nothing in it is freed before the end, and three budgets bound it: steps (time), the arena's limit (memory)
 * and depth (stack). A function that can fail returns false after proa_tmpl_fail* has noted why.
 */
#ifndef PROA_TEXT_TEMPLATE_INTERNAL_H
#define PROA_TEXT_TEMPLATE_INTERNAL_H

#include "base/arena.h"
#include "text/template.h"

#include <locale.h>
#include <stdint.h>

typedef struct tmpl_render tmpl_render;
typedef struct tmpl_node tmpl_node;
typedef struct tmpl_value tmpl_value;

enum {
    TMPL_PARSE_DEPTH_MAX = 100,   /* nested brackets and blocks in the source */
    TMPL_RENDER_DEPTH_MAX = 1000, /* what limits.depth_max may ask for: about 1 KiB of stack each */
    TMPL_SOURCE_BYTES_MAX = 4 << 20,
    TMPL_PARAMS_MAX = 6, /* of a filter, test or method */
    TMPL_RANGE_MAX = 100000,
};

/* --- values --- */

typedef enum tmpl_taint {
    TMPL_TRUSTED, /* all of it comes from the template or a trusted variable */
    TMPL_TAINTED, /* descends from a user's value */
    TMPL_MIXED,   /* a concatenation with parts of both kinds */
} tmpl_taint;

/* UTF-8 text, always valid. Either a run of bytes or the concatenation of two strings, whose bytes are made when
 * somebody asks for them: a template that appends to a string in a loop stays linear. */
typedef struct tmpl_string {
    size_t length;     /* bytes */
    size_t characters; /* code points */
    const char *bytes; /* NULL: not made yet (then left and right are set); not terminated */
    struct tmpl_string *left, *right;
    uint32_t depth; /* of the tree of concatenations; 0 for a run */
    uint8_t taint;  /* tmpl_taint; a run is never mixed */
} tmpl_string;

typedef enum tmpl_flavour {
    TMPL_LIST,
    TMPL_TUPLE,
    TMPL_RANGE,
    TMPL_KEYS,      /* the three views of a dict */
    TMPL_VALUES,    /* ... */
    TMPL_ITEMS,     /* ... */
    TMPL_GENERATOR, /* what map, select, ... give: true, without length, read once */
} tmpl_flavour;

typedef struct tmpl_sequence {
    tmpl_flavour flavour;
    size_t count;
    tmpl_value *items;         /* NULL for a range */
    int64_t start, stop, step; /* range */
    size_t taken;              /* generator: elements already read */
} tmpl_sequence;

/* In order of insertion; lookups are linear (dicts in prompts are small) and cost steps. */
typedef struct tmpl_dict {
    size_t count, capacity;
    tmpl_value *keys, *values;
} tmpl_dict;

typedef enum tmpl_kind {
    TMPL_MISSING, /* an argument that was not given; no template sees it */
    TMPL_UNDEFINED,
    TMPL_NONE,
    TMPL_BOOL,
    TMPL_INT,
    TMPL_REAL,
    TMPL_STRING,
    TMPL_SEQUENCE,
    TMPL_DICT,
    TMPL_NAMESPACE,
    TMPL_MACRO,
    TMPL_LOOP,
    TMPL_METHOD,
    TMPL_FUNCTION,
} tmpl_kind;

struct tmpl_value {
    uint8_t kind;   /* tmpl_kind */
    uint8_t detail; /* UNDEFINED: tmpl_kind of the value that lacked the attribute, MISSING for a name */
    union {
        bool b;
        int64_t i;
        double d;
        tmpl_string *s;
        tmpl_sequence *q;
        tmpl_dict *m; /* DICT and NAMESPACE */
        struct tmpl_macro *macro;
        struct tmpl_loop *loop;
        struct tmpl_method *method;
        const struct tmpl_callable *function;
        const tmpl_node *origin; /* UNDEFINED: the expression that gave it, for the message; may be NULL */
    };
};

typedef struct tmpl_keyword {
    const tmpl_string *name;
    tmpl_value value;
} tmpl_keyword;

typedef struct tmpl_args {
    tmpl_value *positional;
    size_t count;
    tmpl_keyword *keywords;
    size_t keyword_count;
} tmpl_args;

/* A filter, test, method or global function. `self` is the filtered or tested value or the method's object.
 * `params` names the parameters, those with a '?' are optional ("old new count?"); bound `args` follow that
 * order, with TMPL_MISSING for what was not given. Functions with `raw` take their arguments as they come. */
typedef bool (*tmpl_bound)(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out);
typedef bool (*tmpl_raw)(tmpl_render *r, const tmpl_value *self, const tmpl_args *args, tmpl_value *out);
typedef struct tmpl_callable {
    const char *name;
    const char *params;
    tmpl_bound bound; /* either of the two; neither: known to Python, not supported here */
    tmpl_raw raw;
} tmpl_callable;

typedef struct tmpl_method {
    tmpl_value self;
    const tmpl_callable *callable;
} tmpl_method;

typedef struct tmpl_variable {
    uint32_t symbol;
    tmpl_value value;
} tmpl_variable;

/* Variables set in one scope. Loop bodies, macros and blocks have their own; an if has none. */
typedef struct tmpl_frame {
    struct tmpl_frame *parent;
    tmpl_variable *variables;
    size_t count, capacity;
    bool captured; /* a macro was defined here: the frame must outlive its scope */
} tmpl_frame;

typedef struct tmpl_macro {
    const tmpl_node *node; /* MACRO or CALL_BLOCK */
    tmpl_frame *scope;     /* where it was defined */
} tmpl_macro;

/* --- nodes --- */

typedef enum tmpl_node_kind {
    /* expressions              what a, b, c, list, name/symbol hold */
    TMPL_N_CONSTANT,   /* constant */
    TMPL_N_NAME,       /* symbol, name */
    TMPL_N_TUPLE,      /* list */
    TMPL_N_LIST,       /* list */
    TMPL_N_DICT,       /* list: key, value, key, value ... */
    TMPL_N_CONDITION,  /* a if b else c (c may be NULL) */
    TMPL_N_OR,         /* a or b */
    TMPL_N_AND,        /* a and b */
    TMPL_N_NOT,        /* not a */
    TMPL_N_COMPARE,    /* a, list of OPERAND */
    TMPL_N_OPERAND,    /* op (tmpl_token_kind or the two below), a */
    TMPL_N_BINARY,     /* a op b */
    TMPL_N_CONCAT,     /* list joined by ~ */
    TMPL_N_NEGATE,     /* -a */
    TMPL_N_PLUS,       /* +a */
    TMPL_N_ATTRIBUTE,  /* a.name */
    TMPL_N_ITEM,       /* a[b] */
    TMPL_N_SLICE,      /* a[b:c:other], each may be NULL */
    TMPL_N_CALL,       /* a(list) */
    TMPL_N_FILTER,     /* a|callable(list); a NULL in a filter block: the block's text */
    TMPL_N_TEST,       /* a is callable(list) */
    TMPL_N_KEYWORD,    /* in a call's list: name=a */
    TMPL_N_STAR,       /* in a call's list: *a */
    TMPL_N_STAR_STAR,  /* in a call's list: **a */
    TMPL_N_NAMESPACED, /* target only: symbol.name */
    /* statements */
    TMPL_N_TEXT,         /* constant */
    TMPL_N_PRINT,        /* a */
    TMPL_N_FOR,          /* for a in b if c, list (body), other (list of the else) */
    TMPL_N_IF,           /* list of BRANCH */
    TMPL_N_BRANCH,       /* a (NULL: else), list (body) */
    TMPL_N_SET,          /* a = b */
    TMPL_N_SET_BLOCK,    /* a, list (body), b: filters or NULL */
    TMPL_N_MACRO,        /* symbol, params, list (body), flags */
    TMPL_N_CALL_BLOCK,   /* a: the call; params, list (body), flags */
    TMPL_N_GENERATION,   /* list (body) */
    TMPL_N_FILTER_BLOCK, /* b: filters, list (body) */
    TMPL_N_WITH,         /* params: SETs, list (body) */
    TMPL_N_PARAM,        /* symbol, a: default or NULL */
    TMPL_N_BREAK,
    TMPL_N_CONTINUE,
} tmpl_node_kind;

enum { /* flags of MACRO and CALL_BLOCK: special names that the body reads */
       TMPL_USES_CALLER = 1,
       TMPL_USES_KWARGS = 2,
       TMPL_USES_VARARGS = 4,
};

typedef struct tmpl_list {
    tmpl_node *first, *last;
    size_t count;
} tmpl_list;

struct tmpl_node {
    uint8_t kind; /* tmpl_node_kind */
    uint8_t op;   /* tmpl_token_kind of an operator */
    uint8_t flags;
    uint32_t line, column;
    uint32_t symbol; /* number of a name: variables are found by it */
    tmpl_node *a, *b, *c;
    tmpl_node *other_expression; /* SLICE: the step */
    tmpl_list list, other, params;
    tmpl_list hidden, other_hidden; /* NAMEs that the scope of list, of other owns before it sets them */
    tmpl_node *next;                /* in its list */
    const tmpl_string *name;
    const tmpl_callable *callable;
    tmpl_value constant;
};

/* Names that the engine itself uses have fixed numbers. */
enum { TMPL_S_LOOP, TMPL_S_CALLER, TMPL_S_KWARGS, TMPL_S_VARARGS, TMPL_S_FIXED };

struct proa_template {
    proa_arena *arena;
    tmpl_list body, hidden;
    tmpl_string **names; /* by symbol */
    uint32_t name_count;
    locale_t locale; /* UTF-8 character classes and case; (locale_t)0: ASCII only */
};

/* --- template_lex.c --- */

typedef enum tmpl_token_kind {
    TMPL_T_EOF,
    TMPL_T_DATA,
    TMPL_T_BLOCK_BEGIN,
    TMPL_T_BLOCK_END,
    TMPL_T_VARIABLE_BEGIN,
    TMPL_T_VARIABLE_END,
    TMPL_T_NAME,
    TMPL_T_STRING,
    TMPL_T_INT,
    TMPL_T_REAL,
    TMPL_T_ADD,
    TMPL_T_SUB,
    TMPL_T_MUL,
    TMPL_T_DIV,
    TMPL_T_FLOORDIV,
    TMPL_T_MOD,
    TMPL_T_POW,
    TMPL_T_TILDE,
    TMPL_T_EQ,
    TMPL_T_NE,
    TMPL_T_LT,
    TMPL_T_LE,
    TMPL_T_GT,
    TMPL_T_GE,
    TMPL_T_IN,     /* not tokens: operators made of names */
    TMPL_T_NOT_IN, /* ... */
    TMPL_T_ASSIGN,
    TMPL_T_DOT,
    TMPL_T_COMMA,
    TMPL_T_COLON,
    TMPL_T_PIPE,
    TMPL_T_SEMICOLON,
    TMPL_T_LPAREN,
    TMPL_T_RPAREN,
    TMPL_T_LBRACKET,
    TMPL_T_RBRACKET,
    TMPL_T_LBRACE,
    TMPL_T_RBRACE,
} tmpl_token_kind;

typedef struct tmpl_token {
    tmpl_token_kind kind;
    const char *text; /* DATA: what is printed; STRING: unescaped; else as in the source */
    size_t length;
    int64_t i;
    double d;
    uint32_t line, column;
} tmpl_token;

typedef struct tmpl_lexer {
    proa_arena *arena;
    const char *source; /* newlines are LF, the last one is gone */
    size_t length, position;
    size_t counted; /* line and column stand for this position */
    uint32_t line, column;
    tmpl_token_kind mode;    /* DATA, BLOCK_BEGIN or VARIABLE_BEGIN: what we are inside of */
    tmpl_token_kind pending; /* a begin that follows the data just returned; EOF: none */
    bool line_starting;      /* the last end of a tag swallowed a newline */
    char brackets[TMPL_PARSE_DEPTH_MAX];
    size_t bracket_count;
    proa_error *err;
} tmpl_lexer;

bool proa_tmpl_lexer_init(tmpl_lexer *lexer, proa_arena *arena, const char *source, size_t length,
                          proa_error *err);
bool proa_tmpl_lexer_next(tmpl_lexer *lexer, tmpl_token *token);
const char *proa_tmpl_token_name(tmpl_token_kind kind);

/* --- template_parse.c and template_parse_expression.c --- */

typedef struct tmpl_parser {
    proa_template *program;
    tmpl_lexer lexer;
    tmpl_token current, ahead; /* one token of lookahead */
    bool failed;
    bool soft; /* directly inside of an if: an unknown filter is an error only when it is used, as in Jinja */
    int depth;
    int loops;     /* enclosing loops of the same function: break is allowed */
    uint8_t flags; /* special names read in the innermost macro */
    uint32_t name_capacity;
    uint32_t *name_table; /* open addressing, symbol + 1 */
    uint32_t name_table_size;
    proa_error *err;
} tmpl_parser;

typedef enum tmpl_tuple_rule { /* where a bare tuple ends besides at the end of its tag */
                               TMPL_TUPLE_PLAIN,
                               TMPL_TUPLE_UNTIL_IN,
} tmpl_tuple_rule;

/* All return NULL (or false) after a failure, which the parser's `failed` remembers. */
void *proa_tmpl_parse_fail(tmpl_parser *p, proa_status status, const tmpl_token *at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool proa_tmpl_advance(tmpl_parser *p);
bool proa_tmpl_is_name(const tmpl_token *token, const char *name);
bool proa_tmpl_skip_name(tmpl_parser *p, const char *name);
bool proa_tmpl_skip(tmpl_parser *p, tmpl_token_kind kind);
bool proa_tmpl_expect(tmpl_parser *p, tmpl_token_kind kind);
tmpl_node *proa_tmpl_node_new(tmpl_parser *p, tmpl_node_kind kind, const tmpl_token *at);
void proa_tmpl_list_add(tmpl_list *list, tmpl_node *node);
/* Interns a name: its symbol, and its string through `name` when not NULL. */
uint32_t proa_tmpl_symbol(tmpl_parser *p, const char *text, size_t length, const tmpl_string **name);
tmpl_string *proa_tmpl_parse_string(tmpl_parser *p, const char *text, size_t length);
bool proa_tmpl_enter(tmpl_parser *p);

tmpl_node *proa_tmpl_parse_expression(tmpl_parser *p, bool with_condition);
tmpl_node *proa_tmpl_parse_tuple(tmpl_parser *p, bool with_condition, bool parenthesised);
tmpl_node *proa_tmpl_parse_target(tmpl_parser *p, tmpl_tuple_rule rule, bool with_namespace);
tmpl_node *proa_tmpl_parse_filters(tmpl_parser *p, tmpl_node *input, bool start_inline);

/* template_scope.c: fills in the lists `hidden` */
bool proa_tmpl_analyse_scopes(tmpl_parser *p);

/* --- rendering --- */

/* Text collected by a macro, a set block and the like. */
typedef struct tmpl_capture {
    struct tmpl_capture *outer;
    tmpl_string *text;
} tmpl_capture;

struct tmpl_render {
    const proa_template *program;
    const proa_json *variables, *tainted;
    proa_arena *arena;
    size_t arena_limit;
    int64_t steps_left;
    int64_t steps_max;
    int32_t depth, depth_max;
    size_t string_max; /* bytes of the output and of any string */
    tmpl_frame *frame;
    tmpl_capture *capture; /* NULL: text goes to the output */
    proa_template_output *output;
    const tmpl_node *at;    /* what is being evaluated, for messages */
    const tmpl_node *input; /* FILTER without input: its value is input_value */
    tmpl_value input_value;
    tmpl_value *context; /* variables of the caller by symbol, MISSING until asked for */
    proa_buf scratch;    /* for functions that build a string and call nothing else meanwhile */
    tmpl_string *empty;
    proa_error *err;
    proa_status status;
};

/* template_render.c */
bool proa_tmpl_fail(tmpl_render *r, proa_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool proa_tmpl_fail_undefined(tmpl_render *r, const tmpl_value *undefined);
bool proa_tmpl_spend(tmpl_render *r, size_t steps);
/* A step for every 64; work that is slower than copying spends more: a step is about 50 to 100 ns. */
bool proa_tmpl_spend_bytes(tmpl_render *r, size_t bytes);
void *proa_tmpl_alloc(tmpl_render *r, size_t count, size_t element_bytes);
bool proa_tmpl_descend(tmpl_render *r); /* one level deeper; the caller does r->depth-- */
bool proa_tmpl_emit(tmpl_render *r, tmpl_string *text);

/* template_string.c: making and taking apart strings */
tmpl_string *proa_tmpl_string_run(tmpl_render *r, const char *bytes, size_t length, tmpl_taint taint);
tmpl_string *proa_tmpl_string_copy(tmpl_render *r, const char *bytes, size_t length, tmpl_taint taint);
tmpl_string *proa_tmpl_string_scratch(tmpl_render *r, tmpl_taint taint); /* takes r->scratch's text */
tmpl_string *proa_tmpl_string_concat(tmpl_render *r, tmpl_string *a, tmpl_string *b);
tmpl_string *proa_tmpl_string_slice(tmpl_render *r, tmpl_string *s, size_t start_byte, size_t end_byte);
const char *proa_tmpl_string_bytes(tmpl_render *r, tmpl_string *s); /* NULL after a failure */
size_t proa_tmpl_string_offset(const char *bytes, size_t length, size_t character);
const char *proa_tmpl_search(const char *hay, size_t length, const char *needle, size_t needle_length);
const char *proa_tmpl_search_last(const char *s, size_t length, const char *what, size_t n);
bool proa_tmpl_string_is(const tmpl_string *s, const char *text); /* of a run */
size_t proa_tmpl_count_characters(const char *bytes, size_t length);
uint32_t proa_tmpl_character(const char *bytes, size_t left, size_t *length); /* decodes one */
size_t proa_tmpl_encode(uint32_t character, char out[4]);
bool proa_tmpl_is_space(uint32_t character);            /* as Python's str.isspace */
tmpl_taint proa_tmpl_taint_whole(const tmpl_string *s); /* what a string rebuilt from s is */

typedef struct tmpl_walk { /* over the runs of a string, in order */
    tmpl_string **stack;
    size_t count;
    bool by_origin; /* runs of one origin each, for the output */
    tmpl_string *few[16];
} tmpl_walk;
bool proa_tmpl_walk_begin(tmpl_render *r, tmpl_walk *walk, tmpl_string *s, bool by_origin);
tmpl_string *proa_tmpl_walk_next(tmpl_walk *walk);

/* template_value.c */
static inline tmpl_value tmpl_none(void)
{
    return (tmpl_value){.kind = TMPL_NONE};
}
static inline tmpl_value tmpl_bool(bool b)
{
    return (tmpl_value){.kind = TMPL_BOOL, .b = b};
}
static inline tmpl_value tmpl_int(int64_t i)
{
    return (tmpl_value){.kind = TMPL_INT, .i = i};
}
static inline tmpl_value tmpl_real(double d)
{
    return (tmpl_value){.kind = TMPL_REAL, .d = d};
}
static inline bool tmpl_is_number(const tmpl_value *v)
{
    return v->kind == TMPL_BOOL || v->kind == TMPL_INT || v->kind == TMPL_REAL;
}
static inline bool tmpl_is_integer(const tmpl_value *v) /* bool is one, in Python */
{
    return v->kind == TMPL_BOOL || v->kind == TMPL_INT;
}
static inline int64_t tmpl_integer(const tmpl_value *v)
{
    return v->kind == TMPL_BOOL ? v->b : v->i;
}
static inline bool tmpl_is_flavour(const tmpl_value *v, tmpl_flavour flavour)
{
    return v->kind == TMPL_SEQUENCE && v->q->flavour == flavour;
}
/* Stores a string that may be NULL after a failure. */
static inline bool tmpl_set_string(tmpl_value *out, tmpl_string *s)
{
    *out = (tmpl_value){.kind = TMPL_STRING, .s = s};
    return s != NULL;
}
const char *proa_tmpl_type_name(const tmpl_value *v); /* Python's */
tmpl_value proa_tmpl_undefined(const tmpl_node *origin, tmpl_kind of);
bool proa_tmpl_truth(const tmpl_value *v);
bool proa_tmpl_equal(tmpl_render *r, const tmpl_value *a, const tmpl_value *b, bool *equal);
/* -1, 0, 1, or 2 when neither is less (NaN); fails for types that Python does not order. */
bool proa_tmpl_order(tmpl_render *r, const tmpl_value *a, const tmpl_value *b, int *order);
bool proa_tmpl_contains(tmpl_render *r, const tmpl_value *container, const tmpl_value *item, bool *found);
bool proa_tmpl_from_json(tmpl_render *r, const proa_json *json, tmpl_taint taint, tmpl_value *out);
double proa_tmpl_as_real(const tmpl_value *number);

tmpl_sequence *proa_tmpl_sequence_new(tmpl_render *r, tmpl_flavour flavour, size_t count, tmpl_value *out);
tmpl_value proa_tmpl_sequence_at(const tmpl_sequence *q, size_t index);
tmpl_dict *proa_tmpl_dict_new(tmpl_render *r, size_t capacity);
bool proa_tmpl_dict_find(tmpl_render *r, const tmpl_dict *m, const tmpl_value *key, tmpl_value *value,
                         bool *found); /* fails for a key that Python cannot hash */
bool proa_tmpl_dict_set(tmpl_render *r, tmpl_dict *m, const tmpl_value *key, const tmpl_value *value);
bool proa_tmpl_dict_view(tmpl_render *r, const tmpl_dict *m, tmpl_flavour flavour, tmpl_value *out);
bool proa_tmpl_hashable(const tmpl_value *v);

/* What iterating over a value gives, as a sequence that may be indexed; consumes a generator. */
bool proa_tmpl_iterate(tmpl_render *r, const tmpl_value *v, tmpl_sequence **out);
bool proa_tmpl_length(tmpl_render *r, const tmpl_value *v, int64_t *length);

/* template_print.c: str(), repr() and json.dumps() */
bool proa_tmpl_to_string(tmpl_render *r, const tmpl_value *v, tmpl_string **out);
bool proa_tmpl_filter_tojson(tmpl_render *r, const tmpl_value *self, const tmpl_value *args, tmpl_value *out);

/* template_operator.c */
bool proa_tmpl_binary(tmpl_render *r, tmpl_token_kind op, const tmpl_value *a, const tmpl_value *b,
                      tmpl_value *out);
bool proa_tmpl_compare(tmpl_render *r, tmpl_token_kind op, const tmpl_value *a, const tmpl_value *b,
                       bool *result);
bool proa_tmpl_attribute(tmpl_render *r, const tmpl_value *object, const tmpl_string *name,
                         const tmpl_node *origin, tmpl_value *out);
bool proa_tmpl_item(tmpl_render *r, const tmpl_value *object, const tmpl_value *key, const tmpl_node *origin,
                    tmpl_value *out);
bool proa_tmpl_slice(tmpl_render *r, const tmpl_value *object, const tmpl_value bounds[3], tmpl_value *out);

/* Tables, each ended by an entry without name: template_filter.c, template_test.c, template_method.c */
const tmpl_callable *proa_tmpl_find_filter(const char *name, size_t length);
const tmpl_callable *proa_tmpl_find_test(const char *name, size_t length);
const tmpl_callable *proa_tmpl_find_method(tmpl_kind kind, tmpl_flavour flavour, const tmpl_string *name);
const tmpl_callable *proa_tmpl_find_function(const tmpl_string *name);
const tmpl_callable *proa_tmpl_find(const tmpl_callable *table, const char *name, size_t length);
bool proa_tmpl_arguments(tmpl_render *r, const tmpl_callable *callable, const tmpl_args *args,
                         tmpl_value bound[TMPL_PARAMS_MAX]);
bool proa_tmpl_apply(tmpl_render *r, const tmpl_callable *callable, const tmpl_value *self,
                     const tmpl_args *args, tmpl_value *out);
extern const tmpl_callable proa_tmpl_string_methods[];   /* template_string_method.c */
extern const tmpl_callable proa_tmpl_sequence_filters[]; /* template_filter_sequence.c */
/* The order of `keys`, ascending and stable (descending keeps equal ones in place, too); NULL after a failure. */
size_t *proa_tmpl_sort(tmpl_render *r, const tmpl_value *keys, size_t count, bool descending);

/* template_string_method.c, template_split.c and template_case.c: str's methods, some of them used by filters, too */
typedef bool tmpl_method_function(tmpl_render *r, const tmpl_value *self, const tmpl_value *args,
                                  tmpl_value *out);
tmpl_method_function proa_tmpl_strip, proa_tmpl_replace, proa_tmpl_splitlines;
tmpl_method_function proa_tmpl_str_capitalize, proa_tmpl_str_isalnum, proa_tmpl_str_isalpha,
    proa_tmpl_str_isdigit, proa_tmpl_str_islower, proa_tmpl_str_isspace, proa_tmpl_str_isupper,
    proa_tmpl_str_lower, proa_tmpl_str_partition, proa_tmpl_str_rpartition, proa_tmpl_str_rsplit,
    proa_tmpl_str_split, proa_tmpl_str_title, proa_tmpl_str_upper;
typedef enum tmpl_case {
    TMPL_CASE_UPPER,
    TMPL_CASE_LOWER,
    TMPL_CASE_CAPITAL, /* first character up, the others down */
    TMPL_CASE_TITLE,   /* as str.title(): up behind anything without case */
    TMPL_CASE_WORDS,   /* as the filter title: up behind white space and -({[< */
} tmpl_case;
bool proa_tmpl_recase(tmpl_render *r, tmpl_string *s, tmpl_case mode, tmpl_value *out);
bool proa_tmpl_is_case(tmpl_render *r, tmpl_string *s, bool upper, bool *is);
const char *proa_tmpl_need_string(tmpl_render *r, const tmpl_value *v); /* its bytes; NULL after a failure */
bool proa_tmpl_need_integer(tmpl_render *r, const tmpl_value *v, int64_t otherwise, int64_t *out);
static inline bool tmpl_is_absent(const tmpl_value *v) /* an optional argument */
{
    return v->kind == TMPL_MISSING || v->kind == TMPL_NONE;
}

/* template_eval.c */
bool proa_tmpl_eval(tmpl_render *r, const tmpl_node *n, tmpl_value *out);
bool proa_tmpl_eval_args(tmpl_render *r, const tmpl_list *list, tmpl_args *args);
bool proa_tmpl_assign(tmpl_render *r, const tmpl_node *target, const tmpl_value *value);
bool proa_tmpl_frame_set(tmpl_render *r, tmpl_frame *frame, uint32_t symbol, const tmpl_value *value);
/* `hidden` (may be NULL) are the names that the scope starts with, undefined. */
tmpl_frame *proa_tmpl_frame_new(tmpl_render *r, tmpl_frame *parent, const tmpl_list *hidden);
bool proa_tmpl_frame_begin(tmpl_render *r, tmpl_frame *frame, const tmpl_list *hidden); /* afresh */

/* template_exec.c */
typedef enum tmpl_flow { TMPL_NEXT, TMPL_FLOW_BREAK, TMPL_FLOW_CONTINUE, TMPL_ERROR } tmpl_flow;
tmpl_flow proa_tmpl_exec(tmpl_render *r, const tmpl_list *body);
bool proa_tmpl_call_macro(tmpl_render *r, tmpl_macro *macro, const tmpl_args *args, tmpl_value *out);

/* template_loop.c */
tmpl_flow proa_tmpl_exec_for(tmpl_render *r, const tmpl_node *n);
bool proa_tmpl_loop_attribute(tmpl_render *r, struct tmpl_loop *loop, const tmpl_string *name,
                              const tmpl_node *origin, tmpl_value *out);
const tmpl_callable *proa_tmpl_loop_method(const tmpl_string *name);

#endif
