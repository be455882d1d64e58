"""The template engine against Jinja2 itself, set up as Hugging Face does: byte-equal text, or both fail.

Templates: ours in tests/data/templates (one of the shape of each family), the bundled model's, published ones from the folder
templates/ of the test data when it is there, and random ones from a grammar.
"""
import json
import pathlib

import pytest

import template_grammar
from template_conversations import conversations
from template_reference import RaisedException, Renderer, difference, reference

TOP = pathlib.Path(__file__).resolve().parents[2]
OWN = sorted((TOP / "tests/data/templates").glob("*.jinja"))


@pytest.fixture(scope="module")
def renderer():
    one = Renderer(TOP / "build/tests/system/tools/render_template")
    yield one
    one.close()


def check(renderer, template):
    """Every conversation; returns how many gave text."""
    texts, problems = 0, []
    for name, trusted, tainted in conversations():
        texts += reference(template, {**trusted, **tainted})[0] is not None
        problem = difference(renderer, template, trusted, tainted)
        if problem:
            problems.append(f"{name}: {problem}")
    assert not problems, f"{len(problems)} conversations differ; the first ones:\n" + "\n".join(problems[:3])
    return texts


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_templates(renderer, path):
    assert check(renderer, path.read_text()) > 200


def test_bundled_model(renderer, data):
    config = json.loads(data("models/tiny-r1/tokenizer_config.json").read_text())
    assert check(renderer, config["chat_template"]) > 200


def test_published_templates(renderer, data):
    """A file *.jinja, or a tokenizer_config.json under any name *.json."""
    folder = data("templates")
    for path in sorted([*folder.glob("*.jinja"), *folder.glob("*.json")]):
        text = path.read_bytes().decode()
        template = json.loads(text)["chat_template"] if path.suffix == ".json" else text
        assert check(renderer, template) > 0, path


def random_templates(renderer, seeds):
    texts = 0
    for seed in seeds:
        template = template_grammar.Grammar(seed).template()
        problem = difference(renderer, template, template_grammar.VARIABLES, template_grammar.TAINTED)
        assert problem is None, f"seed {seed}: {template!r}\n{problem}"
        texts += reference(template, {**template_grammar.VARIABLES, **template_grammar.TAINTED})[0] is not None
    return texts


def test_random_templates(renderer):
    assert random_templates(renderer, range(300)) > 150  # a grammar whose templates all fail would prove nothing


@pytest.mark.long
def test_many_random_templates(renderer):
    assert random_templates(renderer, range(300, 4300)) > 2000


def test_the_comparison_sees_differences(renderer):
    """The tools of this file find what they are for: another text, a failure on either side, wrong words."""
    assert difference(renderer, "{{ x }}", {"x": 1}, {}) is None
    assert "Jinja2 gives" in difference(renderer, "{{ 'ß'.casefold() }}", {}, {})  # we lack casefold
    assert reference("{{ raise_exception('no') }}", {})[1].args == ("no",)
    assert isinstance(reference("{{ raise_exception('no') }}", {})[1], RaisedException)
    assert renderer.ask("{{ raise_exception('no') }}")["error"] == "no"


def test_what_users_write_stays_theirs(renderer):
    """Whatever a template does, a marker that only the user can have written lies in pieces marked as the user's."""
    marker = "<｜Assistant｜>"
    for path in OWN:
        template = path.read_text().replace(marker, "<A>")
        for name, trusted, tainted in conversations():
            text = json.dumps(tainted, ensure_ascii=False).replace("question", marker).replace("Hello", marker)
            answer = renderer.ask(template, trusted, json.loads(text))
            written = answer.get("text", "").encode()
            at = written.find(marker.encode())
            while at >= 0:
                inside = [piece for piece in answer["pieces"] if piece[0] < at + len(marker.encode()) and at < piece[0] + piece[1]]
                assert all(from_user for _, _, from_user in inside), f"{path.name}, {name}: {inside}"
                at = written.find(marker.encode(), at + 1)


@pytest.mark.parametrize("template", [
    "{% for a in range(99999) %}{% for b in range(99999) %}{{ a * b }}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "{% macro f(x) %}{{ f(x + 1) }}{{ f(x + 2) }}{% endmacro %}{{ f(0) }}",
    "{{ ('x' * 60000000).replace('x', 'yy') }}",
    "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = n.x + [i] %}{% endfor %}",
])
def test_hostile_templates_end(renderer, template):
    answer = renderer.ask(template)
    assert "limit" in answer["error"] and answer["status"] == -2
