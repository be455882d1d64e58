"""`proa bench slice --from-json --svg`: the picture of a stored measurement, drawn without a GPU, and what is refused."""
import json
import pathlib
import xml.etree.ElementTree

import pytest

STORED = pathlib.Path(__file__).resolve().parents[1] / "data/slice_h200.json"
SVG = "{http://www.w3.org/2000/svg}"


def draw(run, path, *flags):
    result = run("bench", "slice", "--from-json", STORED, "--svg", path, *flags)
    assert result.returncode == 0, result.stderr
    tree = xml.etree.ElementTree.parse(path)
    return tree, ["".join(t.itertext()) for t in tree.iter(f"{SVG}text")]


def test_every_op_of_both_shapes_is_drawn(run, tmp_path):
    tree, texts = draw(run, tmp_path / "a.svg")
    rows = [r for r in json.loads(STORED.read_text())["rows"] if r["shape"] != "decode 1 at 4096" and not r["op"].startswith("step")]
    titles = [t.text for t in tree.iter(f"{SVG}title")]
    assert sorted(t.rsplit(": ", 1)[0] for t in titles) == sorted(r["op"] for r in rows)
    assert any(t.startswith("Roofline of one rank's share on one NVIDIA H200") for t in texts)
    assert {"4800 GB/s", "FP8 1979 TFLOP/s", "BF16 989 TFLOP/s"} <= set(texts)
    assert not list(tree.iter(f"{SVG}script"))


def test_shape_chooses(run, tmp_path):
    _, texts = draw(run, tmp_path / "a.svg", "--shape", "decode 1 at")
    heads = [t for t in texts if " ms a step" in t]
    assert len(heads) == 1 and heads[0].startswith("decode 1 at 4096: ")


BAD = [
    ("[]", "as `proa bench slice --json` writes it"),
    ('{"gpu": "H200", "rows": [', "line 1"),
    ('{"gpu": "H200", "rows": [{"shape": "s", "op": "o", "time_us": "3"}]}', 'rows[0]: "time_us" must be there and be a number'),
]


@pytest.mark.parametrize("text,says", BAD)
def test_bad_json_is_explained(run, tmp_path, text, says):
    path = tmp_path / "bad.json"
    path.write_text(text)
    result = run("bench", "slice", "--from-json", path, "--svg", tmp_path / "a.svg")
    assert result.returncode == 1
    assert says in result.stderr and "bad.json" in result.stderr
    assert not (tmp_path / "a.svg").exists()


def test_bad_flags_are_explained(run, tmp_path):
    result = run("bench", "slice", "--from-json", STORED)
    assert result.returncode == 2 and "say with --svg FILE where to draw it" in result.stderr
    result = run("bench", "slice", "--from-json", "/nowhere.json", "--svg", tmp_path / "a.svg")
    assert result.returncode == 1 and "/nowhere.json" in result.stderr
    result = run("bench", "slice", "--from-json", STORED, "--svg", tmp_path / "a.svg", "--shape", "decode 7")
    assert result.returncode == 1 and "--shape decode 7: no shape with that in its name; there are decode 1 at 4096, " in result.stderr
    result = run("bench", "slice", "--from-json", STORED, "--svg", "/nowhere/a.svg")
    assert result.returncode == 1 and "/nowhere/a.svg" in result.stderr
