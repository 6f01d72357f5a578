# SPDX-License-Identifier: Apache-2.0
"""Cost and shape of finished trees, named and added up in one place."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from recipe.treepo.search.counters import SearchCounters, known_sum
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.search.tree import Tree


@dataclass(slots=True, kw_only=True)
class TreeStatistics(SearchCounters):
    """Cost and shape of one tree, or of several together (:meth:`total`).

    Attributes:
        trajectories: Number of leaves.
        unique_tokens: Response tokens of the trajectories; shared tokens count once.
        total_tokens: Response tokens of the trajectories; shared tokens count once per trajectory.
        depth_sum: Segments of all trajectories, summed.
        depth_max: Segments of the deepest trajectory.
        children: Number of nodes with a parent; replies do not count as nodes.
        parents: Number of nodes with children.
        finish_reasons: Number of trajectories by finish reason.
        finish_details: Number of trajectories by the interaction's own word for the reason; error texts are left out.
    """

    trajectories: int = 0
    unique_tokens: int = 0
    total_tokens: int = 0
    depth_sum: int = 0
    depth_max: int = 0
    children: int = 0
    parents: int = 0
    finish_reasons: dict[str, int] = field(default_factory=dict)
    finish_details: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Tree) -> "TreeStatistics":
        """Return the statistics of a finished tree."""
        leaves = [tree.nodes[leaf] for leaf in tree.leaves]
        on_paths = {node.index: node for leaf in tree.leaves for node in tree.path(leaf).nodes}
        generated = (node for node in tree.nodes[1:] if node.is_generated)
        children = Counter(tree.path(node.parent).last_generated.index for node in generated)
        no_errors = (leaf for leaf in leaves if leaf.finish_reason is not FinishReason.ERROR)
        return cls(
            **{counter.name: getattr(tree.counters, counter.name) for counter in fields(SearchCounters)},
            trajectories=len(leaves),
            unique_tokens=sum(len(node.segment.token_ids) for node in on_paths.values()),
            total_tokens=sum(leaf.end for leaf in leaves),
            depth_sum=sum(leaf.depth for leaf in leaves),
            depth_max=max((leaf.depth for leaf in leaves), default=0),
            children=children.total(),
            parents=len(children),
            finish_reasons=dict(Counter(str(leaf.finish_reason) for leaf in leaves)),
            finish_details=dict(Counter(leaf.finish_detail for leaf in no_errors if leaf.finish_detail)),
        )

    @classmethod
    def of_plain_sample(
        cls, *, prompt_tokens: int, cached_tokens: int | None, response_tokens: int
    ) -> "TreeStatistics":
        """Return the statistics of one sample of verl's own sampler: one request, no sharing."""
        sample = cls(
            engine_calls=1,
            decoded_tokens=response_tokens,
            trajectories=1,
            unique_tokens=response_tokens,
            total_tokens=response_tokens,
        )
        sample.count_input(prompt_tokens, cached_tokens)
        return sample

    @classmethod
    def total(cls, statistics: Iterable["TreeStatistics"]) -> "TreeStatistics":
        """Return the sums over several trees, and the largest depth; a number that one tree lacks is None."""
        total = cls()
        for one in statistics:
            for name in (item.name for item in fields(cls)):
                before, value = getattr(total, name), getattr(one, name)
                if name == "depth_max":
                    setattr(total, name, max(before, value))
                elif isinstance(value, dict):
                    setattr(total, name, dict(Counter(before) + Counter(value)))
                else:
                    setattr(total, name, known_sum(before, value))
        return total
