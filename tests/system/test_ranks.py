"""A node's rank processes: their parent, and their links to each other (tools/ranklab.c, which has both and no model)."""
import os
import pathlib
import re
import signal
import time

import pytest

from cluster import wait_for
from conftest import BUILD
from places import Loopback, children_of

RANKLAB = BUILD / "tests" / "system" / "tools" / "ranklab"


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Node:
    """A running ranklab: the parent of `count` ranks."""

    def __init__(self, path, *words, name="node", count=8, place=None):
        self.place = place
        self.process = (place or Loopback()).popen(name, [RANKLAB, "--count", count, *words], path / f"{name}.log")

    def log(self):
        return self.process.log()

    def pids(self):
        """The latest process of each rank."""
        return {int(r): int(p) for r, p in re.findall(r"^rank (\d+) pid (\d+) ", self.log(), re.M)}

    def all_pids(self):
        return [int(p) for p in re.findall(r"^rank \d+ pid (\d+) ", self.log(), re.M)]

    def lives_of(self, rank):
        return len(re.findall(rf"^rank {rank} ready$", self.log(), re.M))

    def wait_until_ready(self, seconds=60):
        wait_for(lambda: "all ready" in self.log() or not self.process.alive, seconds, f"all ranks are ready:\n{self.log()}")
        assert self.process.alive, self.log()
        return self

    def expect_end(self, status, seconds=20):
        """It ends with that status, and leaves nothing behind."""
        assert self.process.wait(seconds) == status, self.log()
        self.expect_nothing_left()

    def expect_nothing_left(self):
        if self.place:  # a host of a lab, which has process numbers of its own, and takes all its processes with it
            return
        wait_for(lambda: not any(lives(p) for p in self.all_pids()), 5, f"no rank is left of {self.all_pids()}")


@pytest.fixture
def node(tmp_path):
    """node("--restart", "off", count=4, name="node") starts one; whatever is left at the end is killed."""
    assert RANKLAB.is_file(), f"{RANKLAB} is not built: run `make`"
    nodes = []

    def start(*words, **more):
        nodes.append(Node(tmp_path, *words, **more))
        return nodes[-1]

    yield start
    for n in nodes:
        n.process.end()
    for n in nodes:
        n.expect_nothing_left()


# --- the parent ---

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_all_ranks(node, number):
    n = node("--careless", 1).wait_until_ready()
    assert sorted(n.pids()) == list(range(8)) and sorted(children_of(n.process.pid)) == sorted(n.pids().values())
    n.process.kill(number)
    n.expect_end(0)
    assert n.log().count(f"signal {int(number)}\n") == 7


def test_a_killed_rank_is_started_again(node):
    n = node("--backoff", "0.3").wait_until_ready()
    before = n.pids()
    killed = time.monotonic()
    os.kill(before[3], signal.SIGKILL)
    wait_for(lambda: n.lives_of(3) == 2, 20, "rank 3 is ready again")
    assert time.monotonic() - killed >= 0.3
    assert "rank 3 was ended by signal 9 (Killed): starting it again in 0.3 s" in n.log()
    after = n.pids()
    assert after[3] != before[3] and {r: p for r, p in after.items() if r != 3} == {r: p for r, p in before.items() if r != 3}
    assert all(lives(p) for p in after.values())
    n.process.kill(signal.SIGTERM)
    n.expect_end(0)


def test_the_backoff_doubles(node):
    n = node("--backoff", "0.1", "--exit", "1:7", count=2).wait_until_ready()
    wait_for(lambda: n.lives_of(1) == 4, 30, "rank 1 has had four lives")
    assert re.findall(r"rank 1 ended with status 7: starting it again in ([\d.]+) s", n.log())[:3] == ["0.1", "0.2", "0.4"]
    assert n.lives_of(0) == 1
    n.process.kill(signal.SIGTERM)
    n.process.wait(20)


def test_a_killed_parent_takes_all_with_it(node):
    n = node().wait_until_ready()
    n.process.kill(signal.SIGKILL)
    n.process.wait(5)
    n.expect_nothing_left()


def test_a_dead_parent_leaves_no_stubborn_rank(node):
    n = node("--stubborn", 2).wait_until_ready()
    n.process.kill(signal.SIGSEGV)
    n.process.wait(5)
    n.expect_nothing_left()


def test_without_restart_the_others_go_on(node):
    n = node("--restart", "off", "--exit", "5:3").wait_until_ready()
    wait_for(lambda: "rank 5 ended with status 3: the others go on without it" in n.log(), 10, "the end of rank 5 is reported")
    os.kill(n.pids()[6], signal.SIGKILL)
    wait_for(lambda: "rank 6 was ended by signal 9" in n.log(), 10, "the end of rank 6 is reported")
    assert sorted(r for r, p in n.pids().items() if lives(p)) == [0, 1, 2, 3, 4, 7]
    assert len(children_of(n.process.pid)) == 6, "a zombie is left"
    n.process.kill(signal.SIGTERM)
    n.expect_end(3)


def test_the_last_ranks_end_is_the_parents(node):
    n = node("--restart", "off", count=1).wait_until_ready()
    os.kill(n.pids()[0], signal.SIGKILL)
    n.expect_end(128 + signal.SIGKILL)


@pytest.mark.parametrize("restart", ["on", "off"])
def test_a_rank_that_cannot_start_ends_the_worker(node, restart):
    """It has said why, and would say it again."""
    n = node("--restart", restart, "--exit-early", "5:3")
    n.expect_end(3)
    assert "rank 5 ended with status 3 before it was ready: stopping the other ranks" in n.log()
    assert "all ready" not in n.log()


def test_a_rank_that_does_not_heed_is_killed(node):
    n = node("--shutdown", "0.1", "--stubborn", 2, count=4).wait_until_ready()
    asked = time.monotonic()
    n.process.kill(signal.SIGTERM)
    n.expect_end(128 + signal.SIGKILL)
    assert 5 <= time.monotonic() - asked < 8 and "has not ended: killed" in n.log()


def test_a_second_signal_shortens_the_wait(node):
    n = node("--shutdown", "600", "--stubborn", 2, count=4).wait_until_ready()
    n.process.kill(signal.SIGTERM)
    wait_for(lambda: "rank 2 signal 15" in n.log(), 10, "rank 2 has its signal")
    n.process.kill(signal.SIGTERM)
    n.expect_end(128 + signal.SIGKILL)
    assert n.log().count("rank 2 signal 15") == 2


def test_ranks_share_the_cores(node):
    cores = int(re.search(r"cores (\d+)", one_rank(node)).group(1))
    n = node(count=cores + 1, name="crowded").wait_until_ready()
    assert f"{cores + 1} ranks on {cores} cores: none is bound" in n.log()
    shares = re.findall(r"^rank \d+ pid \d+ cores (\d+) words (\d+)$", n.log(), re.M)
    assert {int(c) for c, _ in shares} == {cores}
    if cores > 1:
        m = node(count=cores, name="even").wait_until_ready()
        even = re.findall(r"^rank \d+ pid \d+ cores (\d+) words (\d+)$", m.log(), re.M)
        assert {int(c) for c, _ in even} == {1}
        assert int(shares[0][1]) == int(even[0][1]) + 1  # crowded ones are told so


def one_rank(node):
    return node(count=1, name="one").wait_until_ready().log()


def test_sixty_four_ranks(node):
    n = node(count=64).wait_until_ready()
    assert len(children_of(n.process.pid)) == 64
    for victim in (0, 17, 63):
        os.kill(n.pids()[victim], signal.SIGKILL)
    wait_for(lambda: [n.lives_of(r) for r in (0, 17, 63)] == [2, 2, 2], 30, "the killed ones are back")
    n.process.kill(signal.SIGTERM)
    n.expect_end(0)


# --- the links ---

def linked(n, ranks):
    """Of each of those ranks' latest process, the ranks that it says it is linked to are the others."""
    for rank in ranks:
        if peers_of(n, rank) != {r for r in ranks if r != rank}:
            return False
    return True


def peers_of(n, rank):
    own = n.log().rpartition(f"\nrank {rank} pid ")[2]
    peers = set()
    for what, peer in re.findall(rf"^rank {rank} (up|down) (\d+) ", own, re.M):
        (peers.add if what == "up" else peers.discard)(int(peer))
    return peers


def mesh_address():
    return f"127.0.0.1:{23000 + os.getpid() % 5000}"


@pytest.mark.parametrize("victim", [0, 3, 7])
def test_a_rank_that_is_started_again_is_linked_again(node, victim):
    n = node("--mesh", mesh_address(), "--backoff", "0.2").wait_until_ready()
    assert linked(n, range(8))
    os.kill(n.pids()[victim], signal.SIGKILL)
    wait_for(lambda: n.lives_of(victim) == 2 and linked(n, range(8)), 30, f"rank {victim} is linked again:\n{n.log()}")
    assert all(n.lives_of(r) == 1 for r in range(8) if r != victim)
    n.process.kill(signal.SIGTERM)
    n.expect_end(0)


def test_a_rank_that_stalls_is_seen(node):
    """Within the links' 2.5 s of silence; it is the same process that comes back."""
    n = node("--mesh", mesh_address(), count=4).wait_until_ready()
    os.kill(n.pids()[2], signal.SIGSTOP)
    stopped = time.monotonic()
    wait_for(lambda: all(2 not in peers_of(n, r) for r in (0, 1, 3)), 10, "all others have seen it")
    assert 2 < time.monotonic() - stopped < 5
    assert all(peers_of(n, r) == {0, 1, 3} - {r} for r in (0, 1, 3))
    os.kill(n.pids()[2], signal.SIGCONT)
    wait_for(lambda: linked(n, range(4)), 20, f"it is back:\n{n.log()}")
    assert n.log().count("the same process") >= 3 and n.lives_of(2) == 1


def test_nodes_find_each_other(node):
    """The second one is late; the first says whom it waits for. Then the first one is lost, and returns."""
    address = mesh_address()
    first = node("--mesh", address, "--first", 0, "--world", 8, count=4, name="first")
    wait_for(lambda: "rank 0 mesh: waiting for ranks 4-7 of 8 at " + address in first.log(), 20, "rank 0 says whom it waits for")
    second = node("--mesh", address, "--first", 4, "--world", 8, count=4, name="second").wait_until_ready()
    first.wait_until_ready()
    first.process.kill(signal.SIGKILL)
    first.process.wait(5)
    wait_for(lambda: linked(second, range(4, 8)), 10, "the second node's ranks have seen it")
    again = node("--mesh", address, "--first", 0, "--world", 8, count=4, name="again").wait_until_ready()
    wait_for(lambda: all(peers_of(second, r) == set(range(8)) - {r} for r in range(4, 8)), 20, "all are linked again")
    for n in (again, second):
        n.process.kill(signal.SIGTERM)
        n.expect_end(0)


def test_a_network_that_is_cut_and_heals(node, lab):
    """Ranks on two hosts: each side sees the other go within the links' silence, and come back as the same processes."""
    hosts = lab(2)
    words = ["--mesh", f"{hosts.host(0).address}:29500", "--key", "0123456789abcdef", "--world", 4]
    a = node(*words, "--first", 0, count=2, name="a", place=hosts.host(0))
    b = node(*words, "--first", 2, count=2, name="b", place=hosts.host(1))
    sides = [(n.wait_until_ready(), r) for n, r in ((a, 0), (a, 1), (b, 2), (b, 3))]
    assert all(peers_of(n, r) == {0, 1, 2, 3} - {r} for n, r in sides)
    hosts.partition(0, 1)
    cut = time.monotonic()
    wait_for(lambda: all(peers_of(n, r) == {r ^ 1} for n, r in sides), 10, "each side has only itself")
    assert 2 < time.monotonic() - cut < 5
    time.sleep(1)
    hosts.heal()
    wait_for(lambda: all(peers_of(n, r) == {0, 1, 2, 3} - {r} for n, r in sides), 10, f"all are linked again:\n{a.log()}\n{b.log()}")
    assert all(n.lives_of(r) == 1 for n, r in sides)
    for n in (a, b):
        n.process.kill(signal.SIGTERM)
        assert n.process.wait(20) == 0, n.log()


def test_a_rendezvous_that_fails_ends_the_worker(node):
    n = node("--mesh", mesh_address(), "--world", 8, "--dist-timeout", "2", count=3)
    n.expect_end(1)
    # a rank that starts late on a busy machine may be missing too
    assert re.search(r"have not found each other: waiting for ranks ([12], )?[1-3]-7 of 8 at 127\.0\.0\.1:", n.log()), n.log()


@pytest.mark.long
def test_sixty_four_linked_ranks(node):
    n = node("--mesh", mesh_address(), count=64).wait_until_ready(120)
    wait_for(lambda: linked(n, range(64)), 60, "2016 links are up")
    os.kill(n.pids()[40], signal.SIGKILL)
    wait_for(lambda: n.lives_of(40) == 2 and linked(n, range(64)), 60, "rank 40 is linked again")
    n.process.kill(signal.SIGTERM)
    n.expect_end(0, 60)
