"""Random small templates: a grammar over what chat templates use, well typed most of the time.

Left out are things whose text Python does not define (addresses of objects) or that we say we lack.
"""

import random

STRINGS = ["", "a", "user", "Hello World", "  pad  ", "x\\ny\\n", "</think>", "a,b,,c", "Zürich", "日本語", "ÀÉ", "1", "-7",
           " 3.5 ", "it's", 'say \\"hi\\"', "🙂🙃", "\\t tab", "\\u3000wide\\u3000", "true", "null", "x" * 30]
NAMES = ["messages", "tools", "m", "x", "y", "ns", "text", "number", "real", "flag", "nothing", "missing", "nested",
         "add_generation_prompt", "bos_token", "words"]
TAINTED = {
    "messages": [
        {"role": "system", "content": "Be <brief> & kind."},
        {"role": "user", "content": " Was ist 2+2?\n\n"},
        {"role": "assistant", "content": "<think>hm</think>\n\n4", "reasoning_content": "hm", "tool_calls": []},
        {"role": "user", "content": "日本語 🙂 tool", "name": "Zoë"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, 2.5, null]}'}},
                        {"id": "c1", "type": "function", "function": {"name": "g", "arguments": {"b": True}}}]},
        {"role": "tool", "content": "42", "tool_call_id": "c0"},
        {"role": "tool", "content": ""},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d 'q'", "parameters": {
        "type": "object", "properties": {"a": {"type": "array", "items": {"type": "number"}}}, "required": ["a"]}}}],
    "text": " some <User> text\r\nwith lines\n\n and 'quotes' ",
    "nested": {"b": [1, [2, {"c": "d"}], 1e300, 0.1, -0.0, 1e16, 1.5e-7], "a": {"x": None, "y": True}, "items": 5},
    "words": ["b", "B", "a", "", "c", "a", "É"],
    "missing_key": 1,
}
VARIABLES = {"bos_token": "<bos>", "add_generation_prompt": True, "number": 7, "real": 2.5, "flag": False,
             "nothing": None, "x": "outer"}


class Grammar:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.loops = 0
        self.macros = []
        self.sets = 0

    def pick(self, *options):
        return self.r.choice(options)

    # --- expressions, by the type they are meant to have ---

    def string(self, d):
        if d <= 0:
            return self.pick("'" + self.r.choice(STRINGS).replace("'", "\\'") + "'", '"%s"' % self.r.choice(STRINGS),
                             "text", "bos_token", "messages[1].content", "messages[0]['role']", "x")
        s, n = self.string, self.number
        return self.pick(
            lambda: f"{s(d - 1)} + {s(d - 1)}",
            lambda: f"{s(d - 1)} ~ {self.any(d - 1)} ~ {s(d - 1)}",
            lambda: f"{s(d - 1)}|{self.text_filter(d - 1)}",
            lambda: f"({s(d - 1)}).{self.text_method(d - 1)}",
            lambda: f"{self.any(d - 1)}|tojson{self.pick('', '()', '(indent=2)', '(indent=0)', '(ensure_ascii=true)', '(sort_keys=true)')}",
            lambda: f"{self.plain(d - 1)}|string",
            lambda: f"({s(d - 1)})[{self.bound()}:{self.bound()}{self.pick('', '', ':', ':-1', ':2', ':-2')}]",
            lambda: f"({s(d - 1)})[{n(0)}]",
            lambda: f"{self.list(d - 1)}|join{self.pick('', '(', )}".rstrip("(") if self.r.random() < 0.3
            else f"{self.list(d - 1)}|join({s(0)})",
            lambda: f"({s(d - 1)}).split({self.pick('', s(0), s(0) + ', 1')})[{self.pick('0', '-1', '1')}]",
            lambda: f"{s(d - 1)} if {self.bool(d - 1)} else {s(d - 1)}",
            lambda: f"({s(d - 1)}) * {self.pick('2', '0', '-1', 'number')}",
            lambda: f"{self.dict(d - 1)}.get({s(0)}, {s(0)})",
            lambda: f"{self.pick('m', 'messages[2]', 'messages[4]')}.{self.pick('role', 'content', 'name', 'reasoning_content')}",
            lambda: f"{self.pick('m', 'messages[-1]')}['{self.pick('role', 'content', 'nope')}']|default({s(0)}{self.pick('', ', true')})",
            lambda: f"strftime_now('%d %b %Y')",
            lambda: self.call(d),
        )()

    def call(self, d):
        if not self.macros:
            return self.string(d - 1)
        name, count = self.r.choice(self.macros)
        arguments = [self.any(d - 1) for _ in range(self.r.randint(0, count))]
        if self.r.random() < 0.2:
            arguments.append("p0=" + self.string(0))
        return f"{name}({', '.join(arguments)})"

    def text_filter(self, d):
        return self.pick(
            "trim", "upper", "lower", "title", "capitalize", "trim('x ')", "reverse", "length|string", "first", "last",
            f"replace({self.string(0)}, {self.string(0)})", f"replace('a', {self.string(0)}, 1)", "string", "list|join('-')",
            "indent", "indent(2, true)", "indent(3, false, true)", "indent('> ', first=true)", "int|string", "float|string",
            f"default({self.string(0)})", f"d({self.string(0)}, true)", "int(5)|string", "tojson")

    def text_method(self, d):
        return self.pick(
            "strip()", "lstrip()", "rstrip()", "strip('xa ')", "rstrip('\\n')", "upper()", "lower()", "title()", "capitalize()",
            f"replace({self.string(0)}, {self.string(0)})", f"replace('', {self.string(0)}, 3)", f"split({self.string(0)})|join('|')",
            "split()|join('_')", "rsplit(' ', 1)|last", "splitlines()|join('$')", "splitlines(true)|last", "removeprefix('a')",
            "removesuffix('d')", "partition(' ')[2]", "rpartition('a')|join('~')", f"join({self.list(0)})")

    def number(self, d):
        if d <= 0:
            return self.pick("0", "1", "2", "-1", "3", "10", "number", "real", "2.5", "0.1", "1e3", "true", "1_000")
        n = self.number
        return self.pick(
            lambda: f"({n(d - 1)} {self.pick('+', '-', '*', '/', '//', '%')} {n(d - 1)})",
            lambda: f"({n(d - 1)}) ** {self.pick('2', '0', '3', '-1')}",
            lambda: f"-{n(d - 1)}", lambda: f"+{n(0)}",
            lambda: f"{self.plain(d - 1)}|length", lambda: f"{self.string(d - 1)}|count",
            lambda: f"{self.any(d - 1)}|int", lambda: f"{self.string(d - 1)}|float", lambda: f"{n(d - 1)}|abs",
            lambda: f"{n(d - 1)}|round{self.pick('', '(1)', '(2)', '|int')}", lambda: f"{n(d - 1)}|round({self.pick('0', '1')}, '{self.pick('ceil', 'floor')}')",
            lambda: f"({self.string(d - 1)}).{self.pick('find', 'rfind', 'count')}({self.string(0)})",
            lambda: f"{self.pick('loop.index', 'loop.index0', 'loop.length', 'loop.revindex', 'loop.revindex0', 'loop.depth')}" if self.loops else n(0),
            lambda: f"[{n(0)}, {n(0)}, {n(0)}]|{self.pick('sum', 'min', 'max', 'first', 'last')}",
            lambda: f"nested.b[{self.bound() or 0}]",
        )()

    def bound(self):
        return self.pick("", "0", "1", "2", "-1", "-3", "100", "-100", "none", "number")

    def bool(self, d):
        if d <= 0:
            return self.pick("true", "false", "flag", "add_generation_prompt", "nothing", "missing", "x is defined", "not flag",
                             *(["loop.first", "loop.last", "loop.previtem is defined", "loop.nextitem is undefined"] if self.loops else []))
        b, a = self.bool, self.any
        return self.pick(
            lambda: f"{b(d - 1)} {self.pick('and', 'or')} {b(d - 1)}", lambda: f"not {b(d - 1)}", lambda: f"({b(d - 1)})",
            lambda: f"{self.number(d - 1)} {self.pick('<', '<=', '>', '>=', '==', '!=')} {self.number(d - 1)}",
            lambda: f"{self.number(0)} < {self.number(0)} {self.pick('<', '==', '>=')} {self.number(0)}",
            lambda: f"{self.string(d - 1)} {self.pick('<', '>=', '==', '!=', 'in', 'not in')} {self.string(d - 1)}",
            lambda: f"{a(d - 1)} {self.pick('in', 'not in')} {self.list(d - 1)}", lambda: f"{self.string(0)} in {self.dict(d - 1)}",
            lambda: f"{a(d - 1)} {self.pick('==', '!=')} {a(d - 1)}",
            lambda: f"{a(d - 1)} is {self.pick('', 'not ')}{self.test(d - 1)}",
            lambda: f"{self.pick('m', 'messages[0]', 'messages[4]')}.{self.pick('tool_calls', 'content', 'role', 'nope', 'items')} is {self.pick('', 'not ')}{self.pick('defined', 'none', 'string', 'sequence', 'iterable')}",
            lambda: f"({self.string(d - 1)}).{self.pick('startswith', 'endswith')}({self.string(0)})",
            lambda: f"({self.string(d - 1)}).{self.pick('isspace', 'isupper', 'islower')}()",
            lambda: f"loop.changed({a(0)})" if self.loops else "true",
        )()

    def test(self, d):
        return self.pick("defined", "undefined", "none", "string", "mapping", "sequence", "iterable", "number", "boolean", "true",
                         "false", "integer", "float", "lower", "upper", f"in {self.list(0)}", f"equalto {self.string(0)}",
                         f"eq({self.number(0)})", f"ne({self.number(0)})", "odd", "even", "divisibleby 2", f"sameas {self.pick('none', 'true')}",
                         f"lt({self.number(0)})", "filter", "test")

    def list(self, d):
        if d <= 0:
            return self.pick("[]", "[1, 2, 3]", "words", "messages", "['a', 'b']", "(1, 'x')", "range(4)", "[none, true, 2.0]", "nested.b",
                             "tools", "['b', 'a', 'C']", "missing")
        l = self.list
        return self.pick(
            lambda: f"[{self.any(d - 1)}, {self.any(d - 1)}]", lambda: f"({self.any(d - 1)},)", lambda: f"{l(d - 1)} + {l(d - 1)}",
            lambda: f"({l(d - 1)})[{self.bound()}:{self.bound()}{self.pick('', ':-1', ':2')}]", lambda: f"{l(d - 1)}|list",
            lambda: f"{l(d - 1)}|reverse|list", lambda: f"{l(d - 1)}|map('{self.pick('string', 'upper', 'length', 'tojson', 'trim', 'default')}')|list",
            lambda: f"messages|map(attribute='{self.pick('role', 'content', 'nope')}'{self.pick('', ', default=1')})|list",
            lambda: f"messages|{self.pick('selectattr', 'rejectattr')}('{self.pick('role', 'tool_calls', 'content')}'{self.pick('', chr(44) + ' ' + repr('equalto') + ', ' + repr('user'), ', ' + repr('defined'), ', ' + repr('none'))})|list",
            lambda: f"{l(d - 1)}|{self.pick('select', 'reject')}({self.pick('', repr('string'), repr('number'), repr('none'), repr('in') + ', words')})|list",
            lambda: f"words|{self.pick('sort', 'sort(reverse=true)', 'sort(case_sensitive=true)', 'unique|list', 'unique(true)|list')}",
            lambda: f"{l(d - 1)}|sort", lambda: f"messages|sort(attribute='role')|map(attribute='role')|list", lambda: f"({self.string(d - 1)}).split({self.string(0)})",
            lambda: f"{self.dict(d - 1)}|{self.pick('list', 'items|list', 'dictsort', 'dictsort(true)', 'dictsort(false, ' + repr('value') + ')')}",
            lambda: f"{self.dict(d - 1)}.{self.pick('items()', 'keys()', 'values()')}{self.pick('', '|list')}",
            lambda: f"range({self.number(0)}, {self.number(0)}{self.pick('', ', 2', ', -1')})|list",
            lambda: f"({l(d - 1)}) * {self.pick('2', '0')}", lambda: f"{self.string(d - 1)}|list",
        )()

    def dict(self, d):
        if d <= 0:
            return self.pick("{}", "{'a': 1, 'b': 'x'}", "messages[0]", "nested", "nested.a", "dict(a=1, z=none)", "{1: 2, none: 3, true: 4}")
        return self.pick(lambda: "{%s: %s, 'k': %s}" % (self.string(0), self.any(d - 1), self.any(d - 1)), lambda: "messages[4].tool_calls[0].function",
                         lambda: f"dict({self.dict(d - 1)}, a={self.any(d - 1)})", lambda: "tools[0].function.parameters")()

    def plain(self, d):
        return self.pick(self.string, self.number, self.bool, self.list, self.dict)(d)

    def any(self, d):
        if self.r.random() < 0.12:
            return self.pick(*NAMES, "none", "missing.x", "nothing.x", "loop.index", "x.y", "[][0]", "{}['a']", "(1 if false)") if self.r.random() < 0.5 else self.pick(*NAMES[:5], "none", "text")
        return self.plain(d)

    # --- statements ---

    def space(self):
        return self.r.choice(["", "", "", " ", "\n", "  \n", "\n    ", "text", " a b ", "\t", "\u3000", "{ }", "%}", "\r\n", "#"])

    def tag(self, inside):
        return "{%" + self.r.choice(["-", "", "", "+"]) + " " + inside + " " + self.r.choice(["-", "", "", "", "+"]) + "%}"

    def out(self, d):
        expression = self.any(d) if self.r.random() < 0.5 else self.string(d)
        return "{{" + self.r.choice(["-", "", ""]) + " " + expression + " " + self.r.choice(["-", "", ""]) + "}}"

    def body(self, d, n=3):
        return "".join(self.space() + self.statement(d) for _ in range(self.r.randint(1, n))) + self.space()

    def loop(self, d):
        over = self.r.random()
        self.loops += 1
        target = self.pick("m", "m", "x", "i")
        iterable = self.pick("messages", "messages", "messages[::-1]", "messages[1:]", "tools", "words", None, None, "nested|items", "messages|selectattr('content')")
        if iterable is None:
            iterable = self.list(d - 1)
        if over < 0.2:
            target, iterable = "k, v", f"{self.dict(d - 1)}.items()"
        condition = f" if {self.bool(1)}" if self.r.random() < 0.25 else ""
        inner = self.body(d - 1)
        if self.r.random() < 0.15:
            inner += self.tag(f"if {self.bool(1)}") + self.tag(self.pick("break", "continue")) + self.tag("endif") + self.space()
        self.loops -= 1
        otherwise = self.tag("else") + self.body(d - 1, 1) if self.r.random() < 0.2 else ""
        return self.tag(f"for {target} in {iterable}{condition}") + inner + otherwise + self.tag("endfor")

    def branch(self, d):
        text = self.tag(f"if {self.bool(2)}") + self.body(d - 1)
        if self.r.random() < 0.3:
            text += self.tag(f"elif {self.bool(2)}") + self.body(d - 1, 1)
        if self.r.random() < 0.4:
            text += self.tag("else") + self.body(d - 1, 1)
        return text + self.tag("endif")

    def macro(self, d):
        name, count = f"f{len(self.macros)}", self.r.randint(0, 3)
        parameters = [f"p{i}" + ("" if i < count - 1 else self.pick("", f"={self.string(0)}")) for i in range(count)]
        loops, self.loops = self.loops, 0
        inner = "".join(self.out(1).replace("'a'", f"p{i}") + "{{ p%d }}" % i for i in range(count)) + self.body(d - 1, 2)
        self.loops = loops
        if self.r.random() < 0.2:
            inner += "{{ caller() if caller is defined }}"
        self.macros.append((name, count))
        return self.tag(f"macro {name}({', '.join(parameters)})") + inner + self.tag("endmacro")

    def statement(self, d):
        if d <= 0:
            return self.out(2)
        return self.pick(
            lambda: self.out(3), lambda: self.out(3), lambda: self.out(2), lambda: self.loop(d), lambda: self.loop(d), lambda: self.branch(d),
            lambda: self.branch(d), lambda: self.tag(f"set {self.pick('x', 'y', 'm', 'text', 'ns')} = {self.any(2)}"),
            lambda: self.tag("set ns = namespace(a=%s, b=1)" % self.any(1)),
            lambda: self.tag(f"set ns = namespace(a='')") + self.tag(f"set ns.{self.pick('a', 'c')} = {self.any(2)}") + "{{ ns.a }}{{ ns.c }}",
            lambda: self.tag(f"set x, y = {self.pick('1, 2', self.list(1))}"),
            lambda: self.tag(f"set x{self.pick('', ' | upper', ' | trim')}") + self.body(d - 1, 1) + self.tag("endset"),
            lambda: self.macro(d) if not self.loops else self.out(1), lambda: self.out(2) if not self.macros else "{{ " + self.call(2) + " }}",
            lambda: self.tag(f"with x = {self.any(1)}, y = x") + self.body(d - 1, 1) + self.tag("endwith"),
            lambda: self.tag(f"filter {self.pick('upper', 'trim', 'replace(%s, %s)' % (self.string(0), self.string(0)), 'indent')}") + self.body(d - 1, 1) + self.tag("endfilter"),
            lambda: "{#" + self.pick("", "-", "+") + self.pick(" note ", "\n two\n lines ", " {{ no }} ") + self.pick("", "-") + "#}",
            lambda: "{{ (" + self.string(2) + ")" + self.pick("|e", "|safe", "|escape") + " }}",
            lambda: self.tag("generation") + self.body(d - 1, 1) + self.tag("endgeneration"),
            lambda: "{% raw %}" + self.pick("{{ x }}", " {% if %} ", "a\n") + "{% endraw " + self.pick("", "-") + "%}",
            lambda: self.tag(f"if {self.bool(1)}") + "{{ raise_exception(" + self.string(1) + ") }}" + self.tag("endif"),
            lambda: self.tag(f"call {self.r.choice(self.macros)[0]}()") + self.body(d - 1, 1) + self.tag("endcall") if self.macros else self.out(1),
        )()

    def template(self):
        return self.body(self.r.randint(1, 3), 4)
