"""Jinja2 as Hugging Face sets it up for chat templates, and our renderer beside it."""

import functools
import json
import os
import subprocess
from datetime import datetime, timezone

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = 1735732805  # what strftime_now sees: 2025-01-01 12:00:05


class RaisedException(Exception):
    """What raise_exception() raised; its message must reach the client as it is."""


class Generation(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %} marks text for training; when rendering it is only text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message):
    raise RaisedException(message)


def _strftime(pattern):
    return datetime.fromtimestamp(NOW, timezone.utc).strftime(pattern)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise
    env.globals["strftime_now"] = _strftime
    return env


compiled = functools.lru_cache(64)(environment().from_string)


def reference(template, variables):
    """(text, None) or (None, exception)."""
    try:
        return compiled(template).render(**variables), None
    except Exception as error:  # whatever Python raises inside a template is a failure of the template
        return None, error


class Renderer:
    """Our renderer: one process that answers line by line."""

    def __init__(self, program):
        assert program.is_file(), f"{program} is not built: run `make`"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, template, variables=None, tainted=None, limits=None):
        request = {"template": template, "variables": {"strftime_now": NOW, **(variables or {})}}
        request["tainted"] = tainted or {}
        request["limits"] = limits or {}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the renderer died ({self.process.wait()}) on {template!r}"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0


def pieces_cover(answer):
    """The pieces lie side by side, cover the text and alternate."""
    at, last = 0, None
    for start, length, from_user in answer["pieces"]:
        if start != at or length <= 0 or from_user == last:
            return False
        at, last = start + length, from_user
    return at == len(answer["text"].encode())


def difference(renderer, template, variables, tainted):
    """None when both give the same text or both fail; else a description."""
    expected, error = reference(template, {**variables, **tainted})
    answer = renderer.ask(template, variables, tainted)
    if " object at 0x" in (expected or str(error)):
        return None  # an address: no text of its own
    if expected is None and "error" in answer:
        if isinstance(error, RaisedException) and answer["error"] != str(error)[:900]:
            return f"raise_exception said {error!s}, we say {answer['error']}"
        return None
    if expected is None:
        return f"Jinja2 fails ({type(error).__name__}: {error}), we give {answer['text']!r}"
    if "error" in answer:
        return f"we fail ({answer['error']}), Jinja2 gives {expected!r}"
    if answer["text"] != expected:
        at = len(os.path.commonprefix([answer["text"], expected]))
        here = slice(max(0, at - 100), at + 200)
        return f"from character {at} on,\nwe give      {answer['text'][here]!r},\nJinja2 gives {expected[here]!r}"
    if not pieces_cover(answer):
        return f"pieces {answer['pieces']} do not cover {answer['text']!r}"
    return None
