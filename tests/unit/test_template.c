/* test_template.c - the template engine by tables: source and variables in, text, pieces or error out.
 *
 * What Jinja2 itself says to thousands of templates is compared by tests/system/test_template.py; here stand the cases that
 * a reader wants to see, and what Jinja2 knows nothing of: origins, limits and messages.
 */
#include "base/json.h"
#include "text/template.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct rendering {
    proa_status status;
    proa_template_output output;
    proa_error err;
} rendering;

static proa_json *json_of(const char *text)
{
    proa_error err;
    proa_json *value = text != NULL ? proa_json_parse(text, strlen(text), &err) : NULL;
    if (text != NULL && value == NULL)
        fail_msg("%s in %s", err.text, text);
    return value;
}

static rendering render(const char *source, const char *variables, const char *tainted,
                        const proa_template_limits *limits)
{
    rendering result = {0};
    proa_template *program;
    proa_json *v = json_of(variables), *t = json_of(tainted);
    result.status = proa_template_parse(source, strlen(source), &program, &result.err);
    if (result.status == PROA_OK)
        result.status = proa_template_render(program, v, t, limits, &result.output, &result.err);
    assert_int_equal(result.status, result.status == PROA_OK ? PROA_OK : result.err.status);
    proa_template_free(program);
    proa_json_free(v);
    proa_json_free(t);
    return result;
}

/* --- what is printed --- */

static const char variables_of_all[] =
    "{\"x\": 3, \"real\": 2.5, \"none_\": null, \"yes\": true, \"s\": \"Hallo\", \"u\": \"Z\xc3\xbc"
    "rich \xf0\x9f\x99\x82\","
    " \"list\": [1, \"two\", 3.0, null, true], \"words\": [\"b\", \"A\", \"c\", \"a\"],"
    " \"d\": {\"k\": \"v\", \"items\": 1, \"n\": {\"deep\": [10, 20]}},"
    " \"m\": [{\"role\": \"user\", \"n\": 1}, {\"role\": \"tool\", \"n\": 2}, {\"role\": \"user\"}]}";

static const struct {
    const char *source, *expected;
} texts[] = {
    {"", ""},
    {"plain\n", "plain"},
    {"a\r\nb\rc\n\n", "a\nb\nc\n"},
    {"{{ x }}|{{ real }}|{{ none_ }}|{{ yes }}|{{ missing }}|", "3|2.5|None|True||"},
    {"{{ list }} {{ d.n }} {{ (1,) }} {{ () }} {{ {1: 'a', none: 2} }}",
     "[1, 'two', 3.0, None, True] {'deep': [10, 20]} (1,) () {1: 'a', None: 2}"},
    {"{{ [\"it's\", 'a\"b\\'', 'x\\n\\\\\\x00\\u200b\\xe9'] }}",
     "[\"it's\", 'a\"b\\'', 'x\\n\\\\\\x00\\u200b\xc3\xa9']"},
    /* numbers */
    {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }}",
     "3 -4 2 3.5 2.0 1024 0.5"},
    {"{{ 1e16 }} {{ 1e15 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 0.0001 }} {{ 1.5e300 }} {{ -0.0 }}",
     "1e+16 1000000000000000.0 0.30000000000000004 1e-05 0.0001 1.5e+300 -0.0"},
    {"{{ 1_000 }} {{ 0x1F }} {{ true + 1 }} {{ -x ** 2 }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }}",
     "1000 31 2 9 True False"},
    {"{{ 2.5|round }} {{ 3.5|round|int }} {{ 2.675|round(2) }} {{ '12'|int + 1 }} {{ 'x'|int(7) }} {{ ' "
     "1_0.5 '|float }}",
     "2.0 4 2.67 13 7 10.5"},
    /* strings count characters */
    {"{{ u|length }} {{ u[1] }} {{ u[-1] }} {{ u[1:3] }} {{ u[::-1] }} {{ u.find('r') }} {{ u|upper }}",
     "8 \xc3\xbc \xf0\x9f\x99\x82 \xc3\xbcr \xf0\x9f\x99\x82 hcir\xc3\xbcZ 2 Z\xc3\x9cRICH \xf0\x9f\x99\x82"},
    {"{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.rsplit(none, "
     "1) }}",
     "['a', 'b', '', 'c'] ['a', 'b'] ['a', 'b c'] ['a b', 'c']"},
    {"{{ '<think>r</think>a'.split('</think>')[-1] }} {{ '\\u3000x\\u00a0'.strip() }}| {{ 'xxaxx'.strip('x') "
     "}} {{ 'ab'.replace('', '-') }}",
     "a x| a -a-b-"},
    {"{{ 'abc'.startswith(('x', 'ab')) }} {{ 'abc'.endswith('bc', 2) }} {{ 'a-b'.partition('-') }} {{ "
     "'it\\'s a'.title() }}",
     "True False ('a', '-', 'b') It'S A"},
    {"{{ 'a' 'b' \"c\" }} {{ 'a' ~ 1 ~ none ~ missing }} {{ 'ab' * 3 }} {{ 'b' in 'abc' }} {{ 'z' not in "
     "'abc' }}",
     "abc a1None ababab True True"},
    /* lists and dicts */
    {"{{ list[0] }} {{ list[-1] }} {{ list[9] is defined }} {{ list[::-2] }} {{ list[1:3] }} {{ "
     "range(5)[::2]|list }}",
     "1 True False [True, 3.0, 1] ['two', 3.0] [0, 2, 4]"},
    {"{{ d.k }} {{ d['k'] }} {{ d.n.deep[1] }} {{ d['items'] }} {{ d.get('z', 'no') }} {{ d.get('z') }} {{ "
     "d.nope is defined }}",
     "v v 20 1 no None False"},
    {"{% for k, v in d.n.items() %}{{ k }}={{ v }};{% endfor %}{{ d.keys()|list }}{{ 'k' in d }}",
     "deep=[10, 20];['k', 'items', 'n']True"},
    {"{{ {(1, 2): 'a'}[1, 2] }}", "a"},
    {"{{ [1] + [2] }} {{ (1,) + (2,) }} {{ [1, 2] == [1, 2.0] }} {{ {'a': 1} == {'a': 1} }} {{ [1, 'a'] < "
     "[1, 'b'] }}",
     "[1, 2] (1, 2) True True True"},
    {"{{ words|sort|join(',') }} {{ words|sort(true, true)|join }} {{ ['a', 'A', 'b']|unique|list }} {{ [3, "
     "1]|min }} {{ []|max }}",
     "A,a,b,c cbaA ['a', 'b'] 1 "},
    {"{{ m|map(attribute='role')|join('+') }} {{ m|selectattr('n')|map(attribute='n')|sum }} {{ "
     "m|rejectattr('role', 'equalto', 'user')|list|length }}",
     "user+tool+user 3 1"},
    {"{{ {'b': 1, 'a': 2}|dictsort }} {{ {'b': 1}|items|list }} {{ 'abc'|list }} {{ 'abc'|first }}{{ "
     "'abc'|last }}",
     "[('a', 2), ('b', 1)] [('b', 1)] ['a', 'b', 'c'] ac"},
    {"{{ [0, 1, '', 'x']|select|list }} {{ [1, 2, 3]|select('odd')|list }} {{ ['a', 'b']|map('upper')|list "
     "}} {{ []|map('upper') is true }}",
     "[1, 'x'] [1, 3] ['A', 'B'] False"},
    /* JSON */
    {"{{ d|tojson }}", "{\"k\": \"v\", \"items\": 1, \"n\": {\"deep\": [10, 20]}}"},
    {"{{ {'a': [1, {}], 'b': []}|tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"},
    {"{{ {'b': '\xc3\xa9<>&\\'\"\\n\\x01', 'a': 1.0}|tojson(sort_keys=true) }}",
     "{\"a\": 1.0, \"b\": \"\xc3\xa9<>&'\\\"\\n\\u0001\"}"},
    {"{{ ['\xc3\xa9\xf0\x9f\x99\x82', 1e20]|tojson(ensure_ascii=true, separators=(',', ':')) }}",
     "[\"\\u00e9\\ud83d\\ude42\",1e+20]"},
    {"{{ {1: none, true: 2, none: 3}|tojson }}", "{\"1\": 2, \"null\": 3}"},
    /* tests */
    {"{{ x is defined }} {{ y is defined }} {{ none_ is none }} {{ s is string }} {{ d is mapping }} {{ list "
     "is sequence }} {{ x is number }}",
     "True False True True True True True"},
    {"{{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ x is not none }} {{ 'a' is in ['a'] }} {{ yes is true }} {{ "
     "1 is true }} {{ 'a' is eq 'a' }}",
     "True True True True True False True"},
    /* conditions */
    {"{{ 'a' if x > 2 else 'b' }}{{ 'a' if x > 5 }}{{ none_ or 'c' }}{{ 0 and 'd' }}{{ not x }}", "ac0False"},
    {"{% if x == 1 %}1{% elif x == 3 %}3{% else %}?{% endif %}", "3"},
    {"{{ missing|default('d') }}{{ ''|default('d') }}{{ ''|d('d', true) }}", "dd"},
    /* loops */
    {"{% for i in 'abc' %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last "
     "}}{{ loop.length }} {% endfor %}",
     "103TrueFalse3 212FalseFalse3 321FalseTrue3 "},
    {"{% for i in [1, 2, 3, 4] if i is even %}{{ i }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem "
     "}};{% else %}none{% endfor %}",
     "224;422;"},
    {"{% for i in [] %}x{% else %}empty{% endfor %}{% for i in missing %}x{% else %}!{% endfor %}", "empty!"},
    {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ "
     "i }}{% endfor %}",
     "013"},
    {"{% for i in [1, 2] %}{% break %}{% else %}else{% endfor %}", "else"}, /* as Jinja compiles it */
    {"{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% set p, q = 'xy' %}{{ q }}{{ p "
     "}}",
     "123yx"},
    {"{% for i in [1, 1, 2] %}{{ loop.cycle('a', 'b') }}{{ loop.changed(i) }} {% endfor %}",
     "aTrue bFalse aTrue "},
    /* scopes */
    {"{% set a = 1 %}{% for i in [1, 2] %}{{ a }}{% set a = 5 %}{{ a }}{% endfor %}{{ a }}", "15151"},
    {"{% set ns = namespace(n=0, t='') %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% set ns.t = ns.t ~ "
     "i %}{% endfor %}{{ ns.n }}{{ ns.t }}{{ ns.z is defined }}",
     "312False"},
    {"{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}", "<Namespace {'x': <Namespace {...}>}>"},
    {"{% if true %}{% set a = 1 %}{% endif %}{{ a }}", "1"},
    {"{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}", "1"},
    {"{% set a %}  x{{ x }} {% endset %}[{{ a }}]{% set b | trim | upper %} q {% endset %}[{{ b }}]",
     "[  x3 ][Q]"},
    {"{% filter upper %}a{{ s }}{% endfilter %}", "AHALLO"},
    {"{% for i in [1] %}{{ x }}{% endfor %}{% set x = 1 %}{{ x }}",
     "1"}, /* the template owns x, before it sets it */
    {"{% for i in [1] %}{{ x }}{% endfor %}{% if true %}{% set x = 1 %}{% endif %}{{ x }}",
     "31"}, /* perhaps it does not */
    {"{{ x }}{% for i in [1] %}{{ x }}{% endfor %}{% set x = 1 %}{{ x }}", "331"},
    {"{% for i in [1, 2] %}{% filter upper %}{{ x }}{% endfilter %}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
     "31323"},
    {"{% if x == 4 %}{{ x|nope }}{% endif %}{{ [x is defined] }}", "[True]"}, /* unknown, but not used */
    /* macros */
    {"{% macro f(a, b='B', c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ f(1) }}{{ f(1, c=2) }}{{ f(*[1, 2], "
     "**{'c': 3}) }}{{ f() }}",
     "1B1;1B2;123;B;"},
    {"{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, z=2) }}", "(1,){'z': 2}"},
    {"{% macro f(n) %}{% if n %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "321"},
    {"{% macro f(n) %}<{{ caller(n) }}>{% endmacro %}{% call(v) f(7) %}v={{ v }}{% endcall %}", "<v=7>"},
    /* white space */
    {"a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"},
    {"a\n  {%+ if true %}\nb{% endif +%}\nc", "a\n  b\nc"},
    {"a  {%- if true -%}  \n b  {{- x -}}  c {%- endif %}\n\n", "ab3c"},
    {"a {# c #} b\n  {# c #}\nc{#- c -#} d", "a  b\ncd"},
    {" {% raw %} {{ x }} {%- endraw %} {% raw -%}  {% {% endraw -%}  .", " {{ x }} {% ."},
    {"{{ '}}' }}{{ {'a': {'b': 1}}.a.b }}{{ '%}' }}{# }} #}", "}}1%}"},
    {"{% generation %}{% set g = 1 %}g{{ g }}{% endgeneration %}{{ g }}", "g1"},
    {"{{ strftime_now is defined }}{{ range is defined }}{{ namespace(a=1).a }}{{ dict(a=1, b=2) }}",
     "FalseTrue1{'a': 1, 'b': 2}"},
    {"{% print x, s %}", "3Hallo"},
};

static void templates_print_what_jinja_prints(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        rendering r = render(texts[i].source, variables_of_all, NULL, NULL);
        if (r.status != PROA_OK)
            fail_msg("%s: %s", texts[i].source, r.err.text);
        if (strcmp(proa_buf_text(&r.output.text), texts[i].expected) != 0)
            fail_msg("%s\ngives    %s\nexpected %s", texts[i].source, r.output.text.data, texts[i].expected);
        proa_template_output_free(&r.output);
    }
}

/* --- errors --- */

static const struct {
    const char *source;
    proa_status status;
    const char *text; /* part of the message */
} errors[] = {
    {"a\n {{ x", PROA_ERR_INVALID, "line 2, column 6: expected '}}', found end of template"},
    {"{% if x %}", PROA_ERR_INVALID, "'{% endif %}' is missing"},
    {"{% endif %}", PROA_ERR_INVALID, "column 4: unknown tag 'endif'"},
    {"{% include 'x' %}", PROA_ERR_UNSUPPORTED, "'{% include %}' is not supported"},
    {"x{{ x|nope }}", PROA_ERR_UNSUPPORTED, "line 1, column 7: there is no filter named 'nope' here"},
    {"{{ x is nope }}", PROA_ERR_UNSUPPORTED, "no test named 'nope'"},
    {"{{ 'abc }}", PROA_ERR_INVALID, "column 4: this string has no end"},
    {"{# abc", PROA_ERR_INVALID, "comment has no end"},
    {"{% raw %} abc", PROA_ERR_INVALID, "raw block has no end"},
    {"{{ (1] }}", PROA_ERR_INVALID, "bracket does not match"},
    {"{{ a $ b }}", PROA_ERR_INVALID, "unexpected character"},
    {"{{ 99999999999999999999 }}", PROA_ERR_INVALID, "does not fit 64 bits"},
    {"{% set 1 = 2 %}", PROA_ERR_INVALID, "cannot assign"},
    {"{% break %}", PROA_ERR_INVALID, "'break' stands outside of a loop"},
    {"{% for i in x %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", PROA_ERR_INVALID,
     "outside of a loop"},
    {"{% for i in x recursive %}{% endfor %}", PROA_ERR_UNSUPPORTED, "recursive loops are not supported"},
    {"{{ 'a'.format(1) }}", PROA_ERR_UNSUPPORTED, "'format' is not supported"},
    {"{{ '%s' % x }}", PROA_ERR_UNSUPPORTED, "formatting a string"},
    {"\xff", PROA_ERR_INVALID, "byte 0 is not UTF-8"},
    {"{{ missing.x }}", PROA_ERR_INVALID, "column 11: 'missing' is undefined"},
    {"{{ d.nope.x }}", PROA_ERR_INVALID, "'dict object' has no attribute 'nope'"},
    {"{{ missing + 'x' }}", PROA_ERR_INVALID, "'missing' is undefined"},
    {"\n{{ 'a' + 1 }}", PROA_ERR_INVALID, "line 2, column 8: '+' cannot be applied to str and int"},
    {"{{ 1 < 'a' }}", PROA_ERR_INVALID, "cannot tell which of int and str is less"},
    {"{% for i in 5 %}{% endfor %}", PROA_ERR_INVALID, "'int' object is not iterable"},
    {"{{ 1 / 0 }}", PROA_ERR_INVALID, "division by zero"},
    {"{{ 2 ** 64 }}", PROA_ERR_INVALID, "does not fit 64 bits"},
    {"{{ [1].append(2) }}", PROA_ERR_INVALID, "has no attribute 'append'"}, /* nothing changes a value */
    {"{% set d.k = 1 %}", PROA_ERR_INVALID, "cannot set an attribute of dict"},
    {"{% set a, b = [1] %}", PROA_ERR_INVALID, "1 values cannot be assigned to 2 names"},
    {"{{ x() }}", PROA_ERR_INVALID, "'int' object cannot be called"},
    {"{{ [[]]|tojson(indent=[]) }}", PROA_ERR_INVALID, "indent must be"},
    {"{{ missing|tojson }}", PROA_ERR_INVALID, "Undefined cannot be written as JSON"},
    {"{{ {[]: 1} }}", PROA_ERR_INVALID, "unhashable type: 'list'"},
    {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", PROA_ERR_INVALID,
     "macro 'f' takes at most 1 arguments, 2 were given"},
    {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", PROA_ERR_INVALID,
     "macro 'f' was given a keyword argument"},
    {"{{ 'a'|replace('b') }}", PROA_ERR_INVALID, "'replace' needs an argument 'new'"},
    {"{{ range(1, 2, 0) }}", PROA_ERR_INVALID, "step must not be 0"},
};

static void errors_name_place_and_cause(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        rendering r = render(errors[i].source, variables_of_all, NULL, NULL);
        if (r.status != errors[i].status || strstr(r.err.text, errors[i].text) == NULL)
            fail_msg("%s\ngives    %d %s\nexpected %d %s", errors[i].source, r.status, r.err.text,
                     errors[i].status, errors[i].text);
        proa_template_output_free(&r.output);
    }
}

static void raise_exception_gives_its_own_words(void **state)
{
    (void)state;
    rendering r = render("a{{ raise_exception('Roles must ' ~ 'alternate!') }}", NULL, NULL, NULL);
    assert_int_equal(r.status, PROA_ERR_INVALID);
    assert_string_equal(r.err.text, "Roles must alternate!");
    proa_template_output_free(&r.output);
}

static void the_time_is_what_the_caller_says(void **state)
{
    (void)state;
    rendering r =
        render("{{ strftime_now('%Y-%m-%d %H:%M') }}", "{\"strftime_now\": 1735732805}", NULL, NULL);
    assert_string_equal(proa_buf_text(&r.output.text), "2025-01-01 12:00");
    proa_template_output_free(&r.output);
}

/* --- origins --- */

/* Pieces as text: [trusted]<tainted>. */
static void pieces_of(const proa_template_output *o, proa_buf *out)
{
    size_t at = 0;
    for (size_t i = 0; i < o->piece_count; i++) {
        assert_int_equal(o->pieces[i].start, at);
        assert_true(o->pieces[i].length > 0);
        assert_true(i == 0 || o->pieces[i].from_user != o->pieces[i - 1].from_user);
        proa_buf_append_char(out, o->pieces[i].from_user ? '<' : '[');
        proa_buf_append(out, o->text.data + at, o->pieces[i].length);
        proa_buf_append_char(out, o->pieces[i].from_user ? '>' : ']');
        at += o->pieces[i].length;
    }
    assert_int_equal(at, o->text.length);
}

static const struct {
    const char *source, *expected;
} origins[] = {
    {"a{{ t }}b{{ u }}", "[a]<T>[bU]"},
    {"{{ 'a' + t + u ~ t }}", "[a]<T>[U]<T>"},
    {"{{ t + t }}{{ t }}", "<TTT>"},
    {"{{ m[0].role }}{{ m[0]|length }}{{ m[0].n + 1 }}", "<user>[22]"},
    {"{{ ('a' + t + 'b')|upper }}", "<ATB>"},     /* rebuilt: all of it */
    {"{{ ('a' + t + 'b')[0] }}", "<a>"},          /* ... */
    {"{{ ('a' + t + 'b').strip('b') }}", "<aT>"}, /* ... */
    {"{{ u.replace('U', t) }}", "<T>"},           /* ... */
    {"{{ ('-' + t)|replace('T', u) }}", "<-U>"},  /* ... */
    {"{{ [u, t]|join(', ') }}", "[U, ]<T>"},      /* joined: the parts stay apart */
    {"{{ ','.join(['x', t]) }}", "[x,]<T>"},      /* ... */
    {"{{ (t + u) * 2 }}", "<T>[U]<T>[U]"},        /* ... */
    {"{{ ('a\n' + t)|indent(1) }}",
     "<a>[\n ]<T>"}, /* lines are cut out of the text, what is between is not */
    {"{{ m|tojson }}{{ [1, u]|tojson }}", "<[{\"role\": \"user\", \"n\": 1}]>[[1, \"U\"]]"},
    {"{{ [t] }}{{ [u] }}", "<['T']>[['U']]"},
    {"{% set x %}a{{ t }}{% endset %}{{ x }}{% macro f(y) %}({{ y }}){% endmacro %}{{ f(t) }}",
     "[a]<T>[(]<T>[)]"},
    {"{% set ns = namespace(s='') %}{% for i in m %}{% set ns.s = ns.s + i.role + u %}{% endfor %}{{ ns.s }}",
     "<user>[U]"},
    {"{{ {'user': '<|user|>'}[m[0].role] }}", "[<|user|>]"}, /* chosen by the user, written by the template */
    {"{% for c in t %}{{ c }}{% endfor %}{% for k in m[0] %}{{ k }}{% endfor %}", "<Trolen>"},
    {"{{ both }}", "<user's>"}, /* a name in both: the user's value, marked as his */
};

static void every_piece_knows_its_origin(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof origins / sizeof origins[0]; i++) {
        rendering r =
            render(origins[i].source, "{\"u\": \"U\", \"both\": \"ours\"}",
                   "{\"t\": \"T\", \"both\": \"user's\", \"m\": [{\"role\": \"user\", \"n\": 1}]}", NULL);
        proa_buf pieces = {0};
        if (r.status != PROA_OK)
            fail_msg("%s: %s", origins[i].source, r.err.text);
        pieces_of(&r.output, &pieces);
        if (strcmp(proa_buf_text(&pieces), origins[i].expected) != 0)
            fail_msg("%s\ngives    %s\nexpected %s", origins[i].source, pieces.data, origins[i].expected);
        proa_buf_free(&pieces);
        proa_template_output_free(&r.output);
    }
}

/* --- limits --- */

static const struct {
    const char *source, *text;
} hostile[] = {
    {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "steps"},
    {"{{ 'a' * 100000000000 }}", "longer than the limit"},
    {"{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor "
     "%}",
     "longer than the limit"},
    {"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
     "limit of"},
    {"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ "
     "ns.x }}",
     "limit of"},
    {"{% set ns = namespace(x=1) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
     "nests deeper"},
    {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests deeper"},
    {"{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}", "nests deeper"},
    {"{{ [1] * 10000000000000 }}", "limit of"},
    {"{{ range(10000000000) }}", "more than 100000"},
    {"{% for i in range(100000) %}{{ 'abcdefghijklmnopqrstuvwxyz' * 100 }}{% endfor %}", "limit of"},
    {"{% set a = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in a + 'c' %}{% endif %}{% endfor %}",
     "limit of"},
    {"{{ ('a' * 900000).replace('a', 'b' * 900000) }}", "limit of"},
    {"{{ ('a' * 900000)|list|map('upper')|list|sort|join }}", "limit of"},
};

static void hostile_templates_stop_early(void **state)
{
    (void)state;
    proa_template_limits limits = {.steps_max = 1000000, .output_bytes_max = 1 << 20};
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        rendering r = render(hostile[i].source, NULL, NULL, &limits);
        if (r.status != PROA_ERR_TOO_LONG || strstr(r.err.text, hostile[i].text) == NULL)
            fail_msg("%s\ngives %d %s", hostile[i].source, r.status, r.err.text);
        proa_template_output_free(&r.output);
    }
}

static void nesting_is_bounded_in_the_parser(void **state)
{
    static const char *const pieces[] = {"(",  "[", "{1:", "not ", "-", "{% if x %}", "x if x else ",
                                         "x[", "f("};
    (void)state;
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        proa_buf source = {0};
        bool block = pieces[i][1] == '%';
        proa_buf_append_text(&source, block ? "" : "{{ ");
        for (int n = 0; n < 100000; n++)
            proa_buf_append_text(&source, pieces[i]);
        rendering r = render(source.data, NULL, NULL, NULL);
        if (r.status != PROA_ERR_TOO_LONG || strstr(r.err.text, "deeper than") == NULL)
            fail_msg("%s...: %d %s", pieces[i], r.status, r.err.text);
        proa_buf_free(&source);
    }
}

static void long_flat_templates_are_fine(void **state)
{
    (void)state;
    proa_buf source = {0};
    for (int i = 0; i < 20000; i++)
        proa_buf_append_format(&source, "{%% set v%d = %d %%}{{ v%d }}{%% if v%d %%},{%% endif %%}", i, i, i,
                               i);
    rendering r = render(source.data, NULL, NULL, &(proa_template_limits){.steps_max = 100000000});
    assert_int_equal(r.status, PROA_OK);
    assert_true(r.output.text.length > 100000);
    proa_template_output_free(&r.output);
    proa_buf_free(&source);
}

/* A conversation grows the system prompt piece by piece: that must stay linear in time and memory. */
static void appending_in_a_loop_is_linear(void **state)
{
    (void)state;
    rendering r = render("{% set ns = namespace(t='') %}{% for i in range(50000) %}{% set ns.t = ns.t + s + "
                         "',' %}{% endfor %}{{ ns.t }}",
                         NULL, "{\"s\": \"twenty-three characters\"}",
                         &(proa_template_limits){.output_bytes_max = 2 << 20});
    assert_int_equal(r.status, PROA_OK);
    assert_int_equal(r.output.text.length, 50000 * 24); /* 23 and the comma */
    assert_int_equal(r.output.piece_count, 100000);
    proa_template_output_free(&r.output);
}

static void output_can_be_used_again(void **state)
{
    (void)state;
    proa_template *program;
    proa_template_output output = {0};
    proa_json *variables = json_of("{\"x\": [1, 2]}");
    assert_int_equal(proa_template_parse("{% for i in x %}{{ i }}{% endfor %}", 35, &program, NULL), PROA_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(proa_template_render(program, variables, NULL, NULL, &output, NULL), PROA_OK);
        assert_string_equal(proa_buf_text(&output.text), "12");
        assert_int_equal(output.piece_count, 1);
    }
    proa_template_output_free(&output);
    proa_template_free(program);
    proa_template_free(NULL);
    proa_json_free(variables);
    assert_int_equal(proa_template_parse("{{", 2, &program, NULL), PROA_ERR_INVALID);
    assert_null(program);
}

/* Whatever the budget, a rendering ends with all or nothing: as if each step were the one that fails. */
static void every_step_may_be_the_last(void **state)
{
    static const char source[] = "{% macro f(a, b='q') %}{{ a|upper }}{{ b }}{{ caller() if caller }}{% "
                                 "endmacro %}{% set ns = namespace(t='') %}"
                                 "{% for i in m[::-1] if i.role is string %}{% set ns.t = ns.t ~ "
                                 "i.role|title ~ loop.length %}{{ f(i.role) }}"
                                 "{% set u %}{{ loop.last }}{{ i|tojson(indent=1) }}{% endset %}{{ "
                                 "u|replace('e', 'E')|indent }}{% endfor %}"
                                 "{% call f(1) %}{{ ns.t.split('1')|map('trim')|join('-') }}{% endcall %}{{ "
                                 "{'b': [1.5, none], 'a': m}|dictsort }}"
                                 "{% filter trim %} {{ m|selectattr('role', 'in', ['a', 'user'])|list|length "
                                 "}} {% endfilter %}{{ ns.t[1::2] }}";
    proa_template *program;
    proa_json *tainted =
        json_of("{\"m\": [{\"role\": \"user\", \"x\": [1, {\"y\": null}]}, {\"role\": \"a b\"}, {}]}");
    proa_template_output output = {0};
    (void)state;
    assert_int_equal(proa_template_parse(source, sizeof source - 1, &program, NULL), PROA_OK);
    proa_status status = PROA_ERR_TOO_LONG;
    int steps = 0;
    while (status != PROA_OK && steps < 10000) {
        status = proa_template_render(program, NULL, tainted, &(proa_template_limits){.steps_max = ++steps},
                                      &output, NULL);
        assert_true(status == PROA_OK || status == PROA_ERR_TOO_LONG);
        assert_true((status == PROA_OK) == (output.text.length > 0));
    }
    assert_in_range(steps, 100, 9999);
    proa_status before = PROA_ERR_TOO_LONG;
    for (int depth = 1; depth < 20; depth++, before = status) {
        proa_template_limits limits = {.depth_max = depth};
        status = proa_template_render(program, NULL, tainted, &limits, &output, NULL);
        assert_int_equal(status, depth < 4                         ? PROA_ERR_TOO_LONG
                                 : depth > 15 || before == PROA_OK ? PROA_OK
                                                                   : status);
    }
    proa_template_output_free(&output);
    proa_template_free(program);
    proa_json_free(tainted);
}

static void *render_often(void *argument)
{
    proa_json *variables = json_of("{\"x\": [1, 2, {\"a\": \"b\"}]}");
    proa_template_output output = {0};
    for (int i = 0; i < 200; i++) {
        proa_status status = proa_template_render(argument, variables, NULL, NULL, &output, NULL);
        if (status != PROA_OK || strcmp(output.text.data, "12{\"a\": \"b\"}!ABC") != 0)
            abort();
    }
    proa_template_output_free(&output);
    proa_json_free(variables);
    return NULL;
}

static void threads_share_a_template(void **state)
{
    static const char source[] = "{% for i in x %}{{ i|tojson }}{% endfor %}{{ '!' ~ 'abc'|upper }}";
    proa_template *program;
    pthread_t threads[3];
    (void)state;
    assert_int_equal(proa_template_parse(source, sizeof source - 1, &program, NULL), PROA_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, render_often, program), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    proa_template_free(program);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_print_what_jinja_prints),
        cmocka_unit_test(errors_name_place_and_cause),
        cmocka_unit_test(raise_exception_gives_its_own_words),
        cmocka_unit_test(the_time_is_what_the_caller_says),
        cmocka_unit_test(every_piece_knows_its_origin),
        cmocka_unit_test(hostile_templates_stop_early),
        cmocka_unit_test(nesting_is_bounded_in_the_parser),
        cmocka_unit_test(long_flat_templates_are_fine),
        cmocka_unit_test(appending_in_a_loop_is_linear),
        cmocka_unit_test(output_can_be_used_again),
        cmocka_unit_test(every_step_may_be_the_last),
        cmocka_unit_test(threads_share_a_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
