# SPDX-License-Identifier: Apache-2.0
"""The tree search of TreePO (arXiv 2508.17445, section 2): continue, stop, branch, fall back.

Differences from the paper and its released code:

1. Each prompt has its own search and never waits for another prompt. The released code advances all prompts of a rank
   in lock step. Within a prompt, paths wait for each other only if the policy compares them.
2. The engine always gets exactly the tokens on the path. The released code resumes some paths from a context that
   differs from the stored one.
3. A path that resumes inside a segment splits its node and continues to the end of that segment. Boundaries therefore
   stay the same for all paths. In the released code they move, and one name can refer to different tokens.
4. When nothing can branch any more, one request crosses several boundaries. The released code stops at each.
5. Width that the open paths cannot fill falls back at once. The released code waits until no path is open
   (``start=dry``). Either way, each missing trajectory starts at a point of its own. The released code takes the
   finished paths in turn and starts min(N, missing) trajectories at one point of each, with N the divergence; the rest
   waits.
6. Each prompt yields exactly ``width`` trajectories; fewer only with a token budget or after repeated failures.
7. A path may be a conversation: after each turn, an interaction replies or ends the path.
8. The remainder of an even share goes to paths drawn at random. In the released code, the last path gets all of it.
9. ``answered_first`` puts answers first, ``answered_first_soft`` takes its weights from ``fallback.REASON_RANK``, and
   ``longer_first`` sorts. In the released code, ``finished_first_strict`` sorts answers last, ``finished_first`` has
   the weights 7 (answer), 5 (end token), 4 (depth), 3 (length) and 2 (repetition), and ``longer_first`` is a random
   order weighted by length.
10. The released ``boxed_ge_window_<k>`` (paths with an answer and at least k windows of tokens) has no equivalent.
    ``self_ended_only`` and ``min_segments`` together are similar, but admit paths that ended without an answer.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import MappingProxyType

from recipe.treepo.interaction import InteractionError
from recipe.treepo.policies import Policies, PolicyContext
from recipe.treepo.search.budgets import budget_of
from recipe.treepo.search.conversation import Conversation, ConversationStart
from recipe.treepo.search.decisions import Decisions
from recipe.treepo.search.engine import SegmentEngine
from recipe.treepo.search.failures import SearchError
from recipe.treepo.search.level_search import LevelSearch
from recipe.treepo.search.path_sampler import PathSampler
from recipe.treepo.search.path_search import PathSearch
from recipe.treepo.search.policy_calls import PolicyError
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
    policies: Policies = Policies(),  # noqa: B008  frozen
    context: PolicyContext = PolicyContext(),  # noqa: B008  frozen
    before_level: Callable[[], Awaitable[None]] | None = None,
) -> Tree:
    """Grow one prompt's tree to ``shape.width`` leaves.

    The result depends only on the prompt, the results of engine and interaction, and ``seed``. The order in which
    requests finish has no effect. Cancellation leaves no request running.

    Args:
        conversation: Start of the conversations, None for responses of one turn.
        policies: Policies of the user.
        context: The prompt and the state of the run, for policies; without tokens of the prompt.
        before_level: Function awaited before each level, for comparisons with searches that wait; requires a search by
            level.

    Raises:
        ValueError: if ``before_level`` is given to a search by path.
        SearchError: if the prompt got no trajectory, or if a failure of the interaction ends the whole prompt. The
            cause is the failure, the first of the most frequent kind.
        PolicyError: if a policy of the user fails or returns a wrong result.
    """
    by_path = shape.search is SearchKind.BY_PATH
    if by_path and before_level is not None:
        raise ValueError(f"treepo.search={SearchKind.BY_PATH} has no levels. before_level needs by_level.")
    started = time.perf_counter()
    stopping = replace(stopping, custom=policies.stopping_rule)
    text = stopping.text if stopping.needs_text else None
    tree = Tree(prompt_ids, text, keeps_text=stopping.reads_all_text, decode=stopping.decode)
    talk = Conversation(conversation, tree, stopping, seed) if conversation is not None else None
    context = replace(context, prompt_ids=tuple(prompt_ids), row=MappingProxyType(context.row))
    decisions = Decisions(tree, shape, policies, context, seed)
    sampler = PathSampler(tree, engine, shape, stopping, decisions, talk)
    try:
        search = PathSearch(sampler, seed) if by_path else LevelSearch(sampler, seed, before_level)
        if talk is not None:
            await talk.open()
        await search.run()
    except InteractionError as error:
        raise SearchError(str(error)) from error
    except BaseExceptionGroup as group:
        for wrong in group.exceptions:
            if isinstance(wrong, PolicyError):
                raise wrong from wrong.__cause__
        for failure in group.exceptions:
            if isinstance(failure, InteractionError):
                raise SearchError(str(failure)) from failure
        raise
    finally:
        if talk is not None:
            await talk.close()
    counters = tree.counters
    if not tree.leaves:
        raise sampler.failures.no_trajectory(counters.engine_calls)
    fewest = budget_of(shape.branching, shape.longest_segment).fewest(shape.width)
    count = len(tree.leaves) + counters.missing_trajectories
    assert fewest <= count <= shape.width, f"{count} trajectories instead of {fewest} to {shape.width}"
    tree.renumber()
    counters.search_seconds = time.perf_counter() - started
    return tree
