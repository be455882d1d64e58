"""`proa bench transfer`: every way, geometry and table is there, and the figures agree with each other."""
import json

import pytest

LAYERS_AND_ROW = {"tiny-r1": (5, 2 * (128 + 32)), "R1": (61, 2 * (512 + 64))}


@pytest.mark.parametrize("way", ["local", pytest.param("ucx", marks=pytest.mark.long)])
def test_rows(run, tmp_path, way):
    file = tmp_path / "transfer.json"
    result = run("bench", "transfer", "--shape", way, "--json", file, timeout=120)
    assert result.returncode == 0, result.stderr
    rows = json.loads(file.read_text())["rows"]
    ways = {row["way"] for row in rows}
    assert ways == ({"local"} if way == "local" else {"ucx", "ucx, tcp"})
    assert len(rows) == len(ways) * len(LAYERS_AND_ROW) * 5
    for row in rows:
        layers, row_bytes = LAYERS_AND_ROW[row["rows"]]
        assert row["bytes"] == layers * row_bytes * row["tokens"]
        assert row["pieces"] == layers * (row["tokens"] // 64 if row["scattered"] else 1)
        assert row["time_us"] > 0 and row["bound_us"] > 0
        assert row["path"]
    assert {row["path"] for row in rows if row["way"] == "ucx, tcp"} <= {"tcp/lo"}


def test_unknown_way(run):
    result = run("bench", "transfer", "--shape", "pigeon")
    assert result.returncode != 0 and "pigeon" in result.stderr
