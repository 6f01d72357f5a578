# SPDX-License-Identifier: Apache-2.0
"""Router plugin of verl that divides wide trees among replicas.

verl's router (``verl/workers/rollout/router.py``) keeps all requests with one id on one replica, for a tree its first.
Few wide trees then leave other replicas idle. Here a tree stays on its first replica until ``wide`` of its requests are
in flight there. A further request goes to the replica with the fewest, which computes its prefix once more. What
continues its branch follows it, and finds its prefix in the cache.
"""

import random
import re
from collections import Counter
from collections.abc import Container, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from verl.workers.rollout.router import GlobalRequestLoadBalancer


@dataclass(slots=True)
class Route:
    """Replicas of a tree.

    Attributes:
        servers: Server of each branch that was placed; the branch "" is the tree's first server.
        in_flight: Requests in flight by server.
    """

    servers: dict[str, str] = field(default_factory=dict)
    in_flight: Counter[str] = field(default_factory=Counter)


def nearest(branch: str, placed: Container[str]) -> str:
    """Return the nearest ancestor of a branch among those placed, itself included; "" if there is none."""
    while branch and branch not in placed:
        branch = re.sub(r"([^0-9]?[0-9]+|[^0-9])$", "", branch)
    return branch


class TreeRouter(GlobalRequestLoadBalancer):
    """Router for trees; plain requests go to the replica with the fewest requests, as with verl's."""

    def __init__(self, servers: dict[str, Any], config: dict[str, Any]) -> None:
        """Make the router.

        Args:
            servers: Handles by server id.
            config: The file ``rollout.router_config_path``, with ``wide``.
        """
        super().__init__(servers)
        self._wide: int = config["wide"]
        # verl's cache of the ids seen last, which clear_sticky_cache() empties.
        self._routes: MutableMapping[str | None, Route] = self._request_id_to_server

    def acquire_server(self, request_id: str, branch: str = "") -> tuple[str, Any]:
        """Return id and handle of the server for a request of a tree.

        Args:
            request_id: Id of the tree.
            branch: Name of the branch.

        Raises:
            RuntimeError: if there is no server.
        """
        if not self._inflight_requests:
            raise RuntimeError("No available servers in load balancer")
        route = self._routes.get(request_id)
        if route is None:
            route = self._routes[request_id] = Route()
        placed = nearest(branch, route.servers)
        server_id = route.servers.get(placed, "")
        if server_id not in self._inflight_requests:  # a new tree, or the server has gone
            route.servers[placed] = server_id = self._least_loaded()
        elif placed != branch and route.in_flight[server_id] >= self._wide:
            other = self._least_loaded()
            if self._inflight_requests[other] < self._inflight_requests[server_id]:
                route.servers[branch] = server_id = other
        route.in_flight[server_id] += 1
        self._inflight_requests[server_id] += 1
        return server_id, self._servers[server_id]

    def _least_loaded(self) -> str:
        loads: dict[str, int] = self._inflight_requests
        least = min(loads.values())
        return random.choice([server for server, load in loads.items() if load == least])

    def release_server(self, server_id: str, request_id: str | None = None) -> None:
        """Count the end of a request of a tree."""
        super().release_server(server_id)
        if (route := self._routes.get(request_id)) is not None and route.in_flight[server_id] > 0:
            route.in_flight[server_id] -= 1

    def require_acquire_fields(self) -> list[str]:
        """Return the fields of :meth:`acquire_server` besides the id."""
        return ["branch"]

    def require_release_fields(self) -> list[str]:
        """Return the fields of :meth:`release_server` besides the server."""
        return ["request_id"]
