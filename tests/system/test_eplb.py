"""`proa eplb` on a load that the bundled model had: what it prints, writes and draws, and what it refuses."""
import json
import pathlib
import re
import subprocess
import xml.etree.ElementTree

import pytest

from conftest import clean_environment

TOP = pathlib.Path(__file__).resolve().parents[2]
TINY = TOP / "models/tiny-r1"  # five layers, the first two dense; 32 experts in 4 groups, 4 a token
ASK = ["eval", "--limit", "6", "--disable-radix-cache", "--expert-load"]  # without the cache, the same tokens in each run
PLAN = ["--model-path", TINY, "--ep-size", 4, "--ep-num-redundant-experts", 4]


@pytest.fixture(scope="session")
def recorded(proa, tmp_path_factory):
    """The load of the model's answers to some questions."""
    path = tmp_path_factory.mktemp("load") / "load.json"
    subprocess.run([proa, *ASK, path], check=True, capture_output=True, timeout=120,
                   env=clean_environment())
    return path


def read(path):
    return json.loads(path.read_text())


def rank_loads(count, placement, ranks):
    """As the header of expert_balance.h says: copies share the load of their expert."""
    each = len(placement) // ranks
    share = [count[e] / placement.count(e) for e in placement]
    return [sum(share[r * each:(r + 1) * each]) for r in range(ranks)]


def test_recorded_load_counts_every_choice(recorded):
    count = read(recorded)["logical_count"]
    assert [len(row) for row in count] == [32] * 5
    assert sum(count[0]) == sum(count[1]) == 0
    assert sum(count[2]) == sum(count[3]) == sum(count[4]) > 0
    assert sum(count[2]) % 4 == 0


def test_passes_add_up_to_the_sum(run, recorded, tmp_path):
    passes = tmp_path / "passes.json"
    result = run(*ASK, passes, "--expert-distribution-recorder-mode", "per_pass")
    assert result.returncode == 0, result.stderr
    steps = read(passes)["logical_count"]
    assert 10 < len(steps) < 1000
    assert [[sum(step[l][e] for step in steps) for e in range(32)] for l in range(5)] == read(recorded)["logical_count"]
    assert all(sum(step[2]) == sum(step[3]) == sum(step[4]) for step in steps)
    # and both plan the same
    outputs = []
    for load in recorded, passes:
        outputs.append(tmp_path / f"{load.stem}.map")
        assert run("eplb", "--expert-load", load, "--output", outputs[-1], *PLAN).returncode == 0
    assert outputs[0].read_text() == outputs[1].read_text()


def test_plan_is_printed_as_it_is(run, recorded, tmp_path):
    output = tmp_path / "map.json"
    result = run("eplb", "--expert-load", recorded, "--output", output, *PLAN)
    assert result.returncode == 0, result.stderr
    assert "\033" not in result.stdout
    count, placement = read(recorded)["logical_count"], read(output)["physical_to_logical_map"]
    assert [len(row) for row in placement] == [36] * 5
    trivial = [p % 32 for p in range(36)]
    for layer in 2, 3, 4:
        assert set(placement[layer]) == set(range(32))
        numbers = re.search(rf"^ +{layer} .*$", result.stdout, re.M).group().replace("%", "").replace("rank", "").split()
        mean, before, hot_before, _, after, hot_after, _ = map(float, numbers[1:])
        for shown, hot, row in (before, hot_before, trivial), (after, hot_after, placement[layer]):
            loads = rank_loads(count[layer], row, 4)
            assert shown == pytest.approx(100 * sum(loads) / 4 / max(loads), abs=0.051)
            assert loads[int(hot)] == pytest.approx(max(loads))
            assert mean == pytest.approx(sum(loads) / 4, abs=0.051)
        assert after >= before
        assert after > 95


def test_placement_is_read_back_as_the_current_one(run, recorded, tmp_path):
    output = tmp_path / "map.json"
    assert run("eplb", "--expert-load", recorded, "--output", output, *PLAN).returncode == 0
    for current in output, output.read_text(), recorded:  # a path, the text itself, and a load that gives the same plan
        result = run("eplb", "--expert-load", recorded, "--init-expert-location", current, *PLAN)
        assert result.returncode == 0, result.stderr
        assert "take 1.00 of the time before" in result.stdout
    # the same from the layers with experts alone, and without the model
    short = tmp_path / "short.json"
    short.write_text(json.dumps({"physical_to_logical_map": read(output)["physical_to_logical_map"][2:]}))
    result = run("eplb", "--expert-load", recorded, "--init-expert-location", short, "--ep-size", 4,
                 "--ep-num-redundant-experts", 4, "--num-expert-group", 4)
    assert result.returncode == 0, result.stderr
    assert "take 1.00 of the time before" in result.stdout


@pytest.mark.parametrize("algorithm,nodes,stays", [("auto", 2, True), ("deepseek_hierarchical", 4, True), ("deepseek", 2, False)])
def test_hierarchical_keeps_groups_on_a_node(run, recorded, tmp_path, algorithm, nodes, stays):
    output = tmp_path / "map.json"
    result = run("eplb", "--expert-load", recorded, "--output", output, "--eplb-algorithm", algorithm, "--nnodes", nodes, *PLAN)
    assert result.returncode == 0, result.stderr
    for row in read(output)["physical_to_logical_map"][2:]:
        where = {(e // 8, p // (36 // nodes)) for p, e in enumerate(row)}
        assert (len(where) == 4) == stays


def test_picture_has_a_cell_for_each_rank_and_layer(run, recorded, tmp_path):
    svg = tmp_path / "<map>.svg"
    load = tmp_path / "a&b.json"
    load.write_text(recorded.read_text())
    assert run("eplb", "--expert-load", load, "--svg", svg, *PLAN).returncode == 0
    tree = xml.etree.ElementTree.parse(svg)
    titles = [t.text for t in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 2 * 3 * 4
    assert len([t for t in titles if t.startswith("layer 3, rank 2: ")]) == 2
    texts = "\n".join(t.text for t in tree.iter("{http://www.w3.org/2000/svg}text"))
    assert "a&b.json" in texts and "trivial: " in texts and "planned: " in texts


def test_made_up_load_depends_on_the_seed_alone(run):
    def ask(seed):
        result = run("eplb", "--skew", "zipf:1.2", "--random-seed", seed, *PLAN)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert ask(1) == ask(1) != ask(2)


BAD = [
    (["--skew", "zipf:1", "--ep-size", 5], "32 experts and 0 redundant ones are 32, which do not divide by 5 ranks: 3 redundant"),
    (["--skew", "zipf:x"], "--skew zipf:x: it must be zipf:S"),
    (["--skew", "zipf:1", "--ep-size", 4, "--nnodes", 3], "4 ranks do not divide by 3 nodes"),
    (["--skew", "zipf:1", "--eplb-algorithm", "deepseek_hierarchical", "--ep-size", 8, "--nnodes", 8], "32 experts in 4 groups on 8 nodes"),
    (["--skew", "zipf:1", "--init-expert-location", '{"physical_to_logical_map": [[0]]}'], "1 layers, where the model has 5"),
    (["--skew", "zipf:1", "--init-expert-location", "x.pt"], "x.pt: PyTorch's files are programs"),
    (["--expert-load", "/nowhere.json"], "cannot open /nowhere.json"),
    (["--expert-load", '{"physical_to_logical_map": [[0]]}'], "a placement, where a load is needed"),
    (["--expert-load", '{"logical_count": [[1, 2], [3]]}'], "logical_count[1]: 1 elements, where the first row has 2"),
    (["--expert-load", '{"logical_count": [[1, 2]]}'], "logical_count: 1 layers, where the model has 5, 3 of them with experts"),
    ([], "give --expert-load FILE"),
]


@pytest.mark.parametrize("flags,says", BAD, ids=[says[:30] for _, says in BAD])
def test_bad_input_is_explained(run, flags, says):
    result = run("eplb", "--model-path", TINY, *flags)
    assert result.returncode != 0
    assert says in result.stderr
    assert result.stdout == ""


def test_what_cannot_be_recorded_is_refused(run, tmp_path):
    result = run("eval", "--limit", 1, "--url", "http://127.0.0.1:1", "--expert-load", tmp_path / "x")
    assert result.returncode != 0 and "leave --url away" in result.stderr
    result = run("eval", "--limit", 1, "--expert-load", tmp_path / "x", "--expert-distribution-recorder-mode", "per_pass",
                 "--expert-distribution-recorder-buffer-size", 0)
    assert result.returncode != 0 and "per_pass keeps 1 step or more" in result.stderr
