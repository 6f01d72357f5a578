# SPDX-License-Identifier: Apache-2.0
"""Router for trees, called as verl's client calls it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.treepo.verl_adapters.tree_router import TreeRouter, nearest


def router_of(*servers: str, wide: int = 2) -> TreeRouter:
    return TreeRouter({server: f"handle of {server}" for server in servers}, {"wide": wide})


def acquire(router: TreeRouter, *requests: tuple[str, str]) -> list[str]:
    """Acquire a server for each request (tree and branch); return the servers."""
    servers = []
    for tree, branch in requests:
        server, handle = router.acquire_server(tree, branch=branch)
        assert handle == f"handle of {server}"
        servers.append(server)
    return servers


def test_a_branch_belongs_to_its_nearest_ancestor_that_was_placed() -> None:
    placed = {"": "a", "1": "b", "1.0": "a", "12": "b"}
    names = {
        "": ["", "0", "0.1.2", "11", "0~1"],
        "1": ["1", "1.1", "1.10", "1!", "1?", "1~2", "1+", "1@30", "1^0", "1+.1.0"],
        "1.0": ["1.0", "1.0.1", "1.0~0.1", "1.0!!"],
        "12": ["12", "12.1"],
    }
    assert {name: nearest(name, placed) for group in names.values() for name in group} == {
        name: ancestor for ancestor, group in names.items() for name in group
    }


def test_a_narrow_tree_stays_on_one_replica_and_trees_go_where_the_fewest_requests_are() -> None:
    router = router_of("a", "b", wide=3)
    first, *more = acquire(router, ("x", "0"), ("x", "1"), ("x", "2"))
    assert more == [first] * 2
    (other,) = set("ab") - {first}
    assert acquire(router, ("y", "0"), ("z", "0"), ("z", "1")) == [other] * 3
    for _ in range(3):
        router.release_server(first, request_id="x")
    # Descendants find their prefixes where they were computed.
    assert acquire(router, ("x", "0.0"), ("y", "0.0"), ("y", "0~1")) == [first, other, other]


def test_branches_of_a_wide_tree_go_to_the_least_loaded_replica_and_their_descendants_follow() -> None:
    router = router_of("a", "b")
    home, *_ = placed = acquire(router, *(("x", str(number)) for number in range(5)))
    (other,) = set("ab") - {home}
    # From two requests on, a branch leaves for a replica with fewer requests: 2 to 0, 2 to 1, then equal.
    assert placed == [home, home, other, other, home]
    assert router.get_status()["servers"] == {home: 3, other: 2}
    for server in placed:
        router.release_server(server, request_id="x")
    assert acquire(router, ("x", "2.0"), ("x", "0.0"), ("x", "3~0"), ("x", "4.0")) == [other, home, other, home]
    # Both replicas have two requests of the tree: a further branch stays with its ancestor.
    assert acquire(router, ("x", "2.1")) == [other]
    # Now it leaves it.
    assert acquire(router, ("x", "2.2")) == [home]
    assert acquire(router, ("x", "2.2.0")) == [home]
    # A retry goes where the branch went.
    assert acquire(router, ("x", "2.2"), ("x", "2.2")) == [home] * 2


def test_requests_of_other_trees_do_not_make_a_tree_wide() -> None:
    router = router_of("a", "b")
    (home,) = acquire(router, ("x", "0"))
    router.remove_servers([*({"a", "b"} - {home})])
    acquire(router, *((f"tree {number}", "0") for number in range(9)))
    router.add_servers({"c": "handle of c"})
    assert acquire(router, ("x", "1"), ("x", "2")) == [home, "c"]


def test_a_removed_replica_loses_its_trees_to_the_others() -> None:
    router = router_of("a", "b")
    placed = acquire(router, ("x", "0"), ("x", "1"), ("x", "2"))
    home, other = placed[0], placed[2]
    router.remove_servers([home])
    assert acquire(router, ("x", "0.0"), ("x", "1.0"), ("x", "2.0")) == [other] * 3
    router.release_server(home, request_id="x")  # of a request that had begun before
    router.remove_servers([other])
    with pytest.raises(RuntimeError, match="^No available servers in load balancer$"):
        acquire(router, ("x", "0.0.0"))


def test_forgotten_trees_are_placed_anew() -> None:
    router = router_of("a", "b", wide=1)
    (home, other) = acquire(router, ("x", "0"), ("x", "1"))
    assert router.clear_sticky_cache() == {"cleared_entries": 1, "server_loads": {"a": 1, "b": 1}}
    router.release_server(home, request_id="x")
    assert acquire(router, ("x", "1.0")) == [home]
    router.release_server(other, request_id="x")
    assert acquire(router, ("x", "0.0")) == [other]  # home has one request


def test_other_clients_send_no_branch() -> None:
    router = router_of("a", "b")
    assert sorted(router.acquire_server(f"sample {number}")[0] for number in range(4)) == ["a", "a", "b", "b"]
    assert router.require_acquire_fields() == ["branch"] and router.require_release_fields() == ["request_id"]


@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_any_requests_keep_the_rule_and_the_counts(data, wide, count) -> None:
    servers = [str(number) for number in range(count)]
    router, in_flight = router_of(*servers, wide=wide), []
    where: dict[str, dict[str, str]] = {"x": {}, "y": {}}
    for _ in range(data.draw(st.integers(1, 40))):
        if in_flight and data.draw(st.booleans()):
            tree, server = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
            router.release_server(server, request_id=tree)
            continue
        loads = Counter({server: sum(other == server for _, other in in_flight) for server in servers})
        tree = data.draw(st.sampled_from("xy"))
        branches = where[tree]
        parent = data.draw(st.sampled_from(["", *branches]))
        branch = f"{parent}.{len(branches)}" if parent else str(len(branches))
        (server,) = acquire(router, (tree, branch))
        near = branches.get(parent, next(iter(branches.values()), None))
        if near is None:
            assert loads[server] == min(loads.values())
        elif server != near:
            assert in_flight.count((tree, near)) >= wide and loads[server] == min(loads.values()) < loads[near]
        else:
            assert in_flight.count((tree, near)) < wide or loads[near] == min(loads.values())
        branches[branch] = server
        in_flight.append((tree, server))
    assert router.get_status()["servers"] == {
        server: sum(other == server for _, other in in_flight) for server in servers
    }
    for tree, server in in_flight:
        router.release_server(server, request_id=tree)
    assert router.get_total_inflight() == 0
