# SPDX-License-Identifier: Apache-2.0
"""Import early what the last of verl's actors need, in processes that Ray then gives them.

verl starts its actors one after the other, and each process imports torch, transformers and vLLM first. The load
balancer and the agent loops come last, when the inference servers are up, which keep one core busy for long. Ray runs a
task in a process of its own and afterwards gives it to the next actor with the same environment, imports and all.
"""

import importlib
import time

import ray

MODULES = ("verl.workers.rollout.llm_server", "recipe.treepo.rollout")


def import_early(processes: int) -> None:
    """Start so many processes that import what load balancer and agent loops will; do not wait for them."""
    for _ in range(processes):
        _import.options(num_cpus=0).remote(time.time())


@ray.remote
def _import(_: float) -> None:
    for module in MODULES:
        importlib.import_module(module)
