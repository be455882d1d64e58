"""docs/guides: what they say to type works and prints what they say (guide_docs.py), with etcd and nats-server, on a host a node. In `make test` with
a node and two ranks for each worker; with --long with the nodes and ranks that the page has."""
import collections
import re

import pytest

import guide_docs
import guide_messages
import slurm
from conftest import TOP

PAGES = sorted(page for page, scale in guide_docs.SCALES if scale == "quick")
LARGE = sorted(page for page, scale in guide_docs.SCALES if scale == "full")


@pytest.mark.parametrize("page", PAGES)
def test_followed_with_few_ranks(proa, tmp_path, lab, page):
    follow(page, "quick", lab, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("page", LARGE)
def test_followed_as_it_stands(proa, tmp_path, lab, page):
    follow(page, "full", lab, tmp_path)


@pytest.mark.long
def test_followed_with_slurm(proa, tmp_path, lab):
    """The part of the GB200 page that submits a job; with all its nodes and ranks: test_slurm_cluster.py."""
    if why := slurm.missing():
        pytest.skip(why)
    hosts = lab(guide_docs.SCALES["gb200", "quick"].nodes, seconds=1200)
    with slurm.Slurm(hosts, tmp_path / "slurm") as cluster:
        guide_docs.Reader("gb200", "quick", hosts, tmp_path, more_environment=cluster.environment).follow(slurm=True)
        assert not [command for of_host in cluster.processes().values() for _, command in of_host if "proa" in command]


def follow(page, scale, lab, folder):
    reader = guide_docs.Reader(page, scale, lab(guide_docs.SCALES[page, scale].nodes, seconds=1200), folder)
    reader.follow()
    for log in folder.glob("node*/*.log"):
        lines = log.read_text().splitlines()
        idle = collections.Counter(re.findall(r"--\S+ has nothing to do here", "\n".join(lines)))
        assert not [flag for flag, times in idle.items() if times > 1], f"{log}: said more than once"
        assert not [line for line in lines if line.startswith("proa: ") and line.endswith(" ")], log


def test_every_page_is_followed():
    with_commands = {page.stem for page in guide_docs.GUIDES.glob("*.md") if guide_docs.blocks_of(page)}
    assert with_commands == {guide_docs.page_of(page).stem for page in PAGES}


def test_every_block_is_typed_by_some_test():
    for page in guide_docs.GUIDES.glob("*.md"):
        for block in guide_docs.blocks_of(page):
            assert block.run_by is None or (TOP / block.run_by).is_file(), f"{page}:{block.line}: {block.run_by} is not there"
            assert block.expected is None or any(line.strip(". ") for line in block.expected), f"{page}:{block.line}: expects nothing"


@pytest.mark.parametrize("expected, printed, missing", [
    (["rank 3 is back after 2.19 s"], "rank 12 is back after 0.4 s\n", None),
    (["a 1", "b 2"], "b 1\na 1\n", "b 2"),
    (["a ...", "...", "c"], "a whole line\nb\nc\n", None),
    (['{"content":"1351","n":7}'], '{"content":"1352","n":7}\n', '{"content":"1351","n":7}'),
    (['{"content":"1351","n":7}'], '{"content":"1351","n":8}\n', None),
    (['  ttft   1.5   ms'], "ttft 22.75 ms\n", None),
    (["=32= ranks"], "31 ranks\n", "=32= ranks"),
    (["0 errors"], "no errors\n", "0 errors"),
])
def test_comparing(expected, printed, missing):
    assert guide_docs.first_missing(expected, printed) == missing


def test_counts_of_ranks_are_exact():
    ranks = {"prefill": 2, "decode": 3}
    assert guide_docs.with_counts(' 32 "component":"backend"', "any", ranks) == ' =3= "component":"backend"'
    assert guide_docs.with_counts("rank 5 ranks: all 32 ranks step together (epoch 1)", "prefill", ranks) == \
        "rank 5 ranks: all =2= ranks step together (epoch 1)"


def test_quoted_messages_are_the_programs():
    known = guide_messages.literals()
    quoted = guide_messages.quoted_messages(guide_docs.GUIDES / "troubleshooting.md")
    assert len(quoted) > 30
    strange = [m for m in quoted if guide_messages.share_from_source(m, known) < guide_messages.COVERED_MIN]
    assert not strange, "no such message in src/"
    for made_up in ("this flag is bad: do something else", "unknown flag --x: would you like --y?", "no worker exists: launch one with "):
        assert guide_messages.share_from_source(made_up, known) < guide_messages.COVERED_MIN
