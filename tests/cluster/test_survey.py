"""What nodes answer, and what is made of it; where trials fit, what never fits, what is waited for."""

from __future__ import annotations

import http.server
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.execution.placement import Cluster, Resources, lanes, waiting, workers_on
from cluster.execution.session import _knock, _refused
from cluster.execution.survey import Needs, Node, _judged, _look, check, versions
from cluster.results.store import Store
from denoise_core.errors import UserError

NODE = Node("one", "id", "10.0.0.1", {"CPU": 4.0})


def answer(**changes: Any) -> dict[str, Any]:
    return {**_look(Needs()), **changes}


def judged(seen: dict[str, Any], sent: float = 0.0) -> Node:
    now = time.time()
    return _judged(NODE, seen, sent or now, max(now, sent))


def test_a_node_like_this_one_is_ready(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    node = judged(_look(Needs(store.location, (str(tmp_path),))))
    assert node.problems == () and check([node]) == []
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"store.json"}, "the probe stayed"


@pytest.mark.parametrize("package", ["Python", "ray", "torch", "numpy"])
@pytest.mark.parametrize("other", ["0.0.1", "not installed"])
def test_other_versions_are_refused_with_both(package: str, other: str) -> None:
    mine = versions()
    node = judged(answer(versions={**mine, package: other}))
    with pytest.raises(UserError, match="The node one has ") as caught:
        check([node])
    assert f"{package} {other}, this program has {package} {mine[package]}" in str(caught.value)


def test_a_build_for_gpus_is_the_same_version() -> None:
    assert all("+" not in version for version in versions().values())


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        (Needs("/nowhere/store"), "does not see the store /nowhere/store: pass --store with a folder that all"),
        (Needs(None, ("/nowhere/images",)), "does not have the folder /nowhere/images: put the images at the same"),
    ],
)
def test_what_a_node_does_not_see(needs: Needs, told: str) -> None:
    with pytest.raises(UserError, match="The node") as caught:
        check([judged(_look(needs))])
    assert told in str(caught.value)


def test_a_node_that_leaves_or_is_silent_stops_nothing() -> None:
    leaving = Node("two", "id2", "10.0.0.2", {}, draining=True, problems=("broken",))
    silent = Node("three", "id3", "10.0.0.3", {}, silent=True)
    told = check([judged(answer()), leaving, silent])
    assert len(told) == 2 and "about to leave" in told[0] and "may be lost" in told[1]


def test_clocks_and_disks_are_told() -> None:
    told = check([judged(answer(clock=time.time() - 300, free_disk=10**9))])
    assert len(told) == 2 and "300 s slow" in told[0] and "only 1.0 GB left" in told[1]
    assert check([judged(answer(clock=time.time() - 5), sent=time.time() - 10)]) == [], "it may have waited its turn"


# ---- addresses ----


def test_a_dashboard_is_not_the_head() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="answers a web server, perhaps the cluster's dashboard"):
            _knock(f"127.0.0.1:{server.server_address[1]}")
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ray://head:10001", "through Ray Client .* a study would end with its connection"),
        ("http://head:8265", "is not the address of a cluster's head"),
        ("head", "is no address of a Ray cluster"),
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_addresses_that_are_none(address: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        _knock(address)


def test_other_versions_of_a_cluster_are_told_both() -> None:
    text = (
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
        "This process on 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    told = _refused("head:6379", RuntimeError(text))
    assert "runs Ray 2.59.0 and Python 3.12.1, this program Ray 2.60.0 and Python 3.11.7: install the same" in told


# ---- placement ----


def cluster(*nodes: dict[str, float], free: dict[str, float] | None = None, **more: Any) -> Cluster:
    return Cluster(nodes, free or {}, **more)


@pytest.mark.parametrize(
    ("node", "resources", "count"),
    [
        ({"CPU": 4.0}, Resources(1, 1, 0), 4),
        ({"CPU": 4.0}, Resources(2, 3, 0), 2),
        ({"CPU": 8.0, "GPU": 2.0}, Resources(1, 1, 0.5), 4),
        ({"CPU": 8.0, "GPU": 2.0}, Resources(1, 1, 0.4), 4),  # two of each GPU, and a rest that is of no use
        ({"CPU": 3.0, "GPU": 2.0}, Resources(1, 1, 0.25), 3),
        ({"CPU": 8.0, "GPU": 1.0}, Resources(1, 1, 2), 0),
    ],
)
def test_workers_that_a_node_holds(node: dict[str, float], resources: Resources, count: int) -> None:
    assert workers_on(node, resources) == count


def test_trials_spread_over_nodes() -> None:
    two = cluster({"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 0.0})
    assert lanes(Resources(2, 2, 0), None, two) == (1, "") and lanes(Resources(1, 1, 0), 1, two) == (1, "")


def test_what_never_fits_is_refused_even_on_a_cluster_that_may_grow() -> None:
    with pytest.raises(UserError, match="which holds 0 such worker"):
        lanes(Resources(1, 8, 0), 4, cluster({"CPU": 4.0}), may_grow=True)
    with pytest.raises(UserError, match="say with --max-concurrent how many"):
        lanes(Resources(1, 1, 1), None, cluster({"CPU": 0.0}), may_grow=True)
    with pytest.raises(UserError, match="a worker takes whole GPUs or a part of one"):
        lanes(Resources(1, 1, 1.5), None, cluster({"CPU": 4.0, "GPU": 4.0}))


def test_a_cluster_that_may_grow_is_asked_for_more() -> None:
    count, note = lanes(Resources(1, 1, 1), 6, cluster({"CPU": 0.0}), may_grow=True)
    assert count == 6 and "holds 0 trial(s) at a time now" in note
    assert lanes(Resources(1, 1, 0), 6, cluster({"CPU": 2.0}), may_grow=True)[0] == 6
    assert lanes(Resources(1, 1, 0), 6, cluster({"CPU": 2.0}))[0] == 2
    most = {"CPU": 64.0, "GPU": 8.0}
    assert lanes(Resources(1, 1, 1), None, cluster({"CPU": 0.0}, most=most))[0] == 8


def test_waiting_says_what_is_in_use() -> None:
    resources = Resources(1, 1, 1)
    busy = cluster({"CPU": 4.0, "GPU": 2.0}, free={"CPU": 3.0}, queued=True)
    assert "0 of 2 GPU are free" in waiting(resources, busy) and "CPU are free" not in waiting(resources, busy)
    assert waiting(resources, cluster({"CPU": 4.0, "GPU": 2.0}, free={"CPU": 3.0})) == ""  # our own hold them
    assert waiting(resources, cluster({"CPU": 4.0}, free={"CPU": 1.0, "GPU": 1.0}, queued=True)) == ""
