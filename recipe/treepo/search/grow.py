# SPDX-License-Identifier: Apache-2.0
"""The tree search of TreePO (arXiv 2508.17445, section 2): continue, stop, branch, fall back.

Departures from the paper and its released code:

1. Prompts never wait for each other: each has its own search. The released code advances all prompts of a rank in
   lock step. Within a prompt, paths wait for each other only where the policy compares them.
2. What the engine is given is always exactly the tokens on the path; the released code resumes some paths from
   a context that differs from the one it stores.
3. A path that resumes inside a segment splits its node and goes on to the end of that segment, so that boundaries stay
   where they are for all paths; in the released code they move, and one name stands for different tokens.
4. Where nothing can branch any more, a request runs on over the boundaries; the released code stops at each.
5. Width that the open paths cannot fill falls back at once; the released code waits until no path is open.
6. Exactly as many trajectories come out as were asked for, unless the engine fails again and again.
7. A path may be a conversation: after each turn an interaction says whether and with what it goes on.
"""

import time
from collections.abc import Awaitable, Callable

from recipe.treepo.interaction import InteractionError
from recipe.treepo.search.branching import Budget
from recipe.treepo.search.conversation import Conversation, ConversationStart
from recipe.treepo.search.engine import SegmentEngine
from recipe.treepo.search.level_search import LevelSearch
from recipe.treepo.search.path_sampler import PathSampler, SearchError
from recipe.treepo.search.path_search import PathSearch
from recipe.treepo.search.shape import SearchKind, SearchShape
from recipe.treepo.search.stopping import StoppingRules
from recipe.treepo.search.tree import Tree


async def grow_tree(
    prompt_ids: list[int],
    *,
    engine: SegmentEngine,
    shape: SearchShape,
    stopping: StoppingRules,
    seed: int,
    conversation: ConversationStart | None = None,
    before_level: Callable[[], Awaitable[None]] | None = None,
) -> Tree:
    """Grow one prompt's tree until it has as many leaves as ``shape`` asks for.

    The result depends on the prompt, the engine's answers, the interaction's and ``seed`` only, not on the order in
    which requests finish. When this is cancelled, no request is left running.

    Args:
        conversation: None where a response is one turn.
        before_level: Hook awaited before each level. With a hook every request ends at the next boundary.

    Raises:
        ValueError: if a hook is given and the search has no levels.
        SearchError: if not one trajectory could be had; its cause is the last failure of the engine or the interaction.
    """
    started = time.perf_counter()
    tree = Tree(prompt_ids)
    talk = Conversation(conversation, tree, stopping, seed) if conversation is not None else None
    sampler = PathSampler(tree, engine, shape, stopping, talk)
    by_path = shape.search is SearchKind.BY_PATH
    try:
        if by_path and before_level is not None:
            raise ValueError(f"treepo.search={SearchKind.BY_PATH} has no levels, so before_level cannot be called")
        search = PathSearch(sampler, seed) if by_path else LevelSearch(sampler, seed, before_level)
        if talk is not None:
            await talk.open()
        await search.run()
    except InteractionError as failure:
        raise SearchError(str(failure)) from failure
    except BaseExceptionGroup as failures:
        failure = next((error for error in failures.exceptions if isinstance(error, InteractionError)), None)
        if failure is None:
            raise
        raise SearchError(str(failure)) from failure
    finally:
        if talk is not None:
            await talk.close()
    counters = tree.counters
    if not tree.leaves:
        raise SearchError(
            f"no trajectory could be had: {counters.given_up_paths} paths were given up after {shape.retries + 1} "
            f"requests each, or because the interaction failed; the last failure: {sampler.last_failure!r}"
        ) from sampler.last_failure
    fewest = shape.width
    if shape.branching.budget is Budget.TOTAL_TOKENS:
        fewest = min(shape.width, shape.branching.min_width or 1)
    found = len(tree.leaves) + counters.missing_trajectories
    assert fewest <= found <= shape.width, f"{found} trajectories instead of {fewest} to {shape.width}"
    tree.renumber()
    counters.search_seconds = time.perf_counter() - started
    return tree
