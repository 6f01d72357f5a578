# SPDX-License-Identifier: Apache-2.0
"""Check trees of random conversations with random settings against a second implementation of the rules."""

from contextlib import contextmanager
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from helpers.example_counts import examples
from helpers.scripted_conversation import CLOSING, PROMPT, QUESTION, Chancy, FakeTokens, encode, sizes, talk
from helpers.scripted_engine import EOS, ScriptedEngine, decode
from helpers.searches import brute_force_box, check_width, pieces_of_call, searches
from recipe.treepo.interaction import ConversationRules, OnError, Reply, Steps
from recipe.treepo.search import SearchError
from recipe.treepo.search.branching import Budget
from recipe.treepo.search.node import ROOT
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.stopping import MODEL_ENDED, FinishReason, RepetitionUnit
from recipe.treepo.search.tree import Tree


@st.composite
def conversations(draw):
    search = {**draw(searches()), "cache_block": None}  # not available in conversations
    more = draw(st.integers(0, 60))
    search["response_length"] += more
    if search["budget"] is Budget.TOTAL_TOKENS:
        search["total_tokens"] += more * search["min_width"]
    rules = ConversationRules(
        turn_length=draw(st.none() | st.integers(1, 12)),
        max_turns=draw(st.none() | st.integers(1, 4)),
        steps=draw(st.sampled_from(Steps)),
        on_error=draw(st.sampled_from([OnError.DROP, OnError.DROP, OnError.END, OnError.FAIL])),
    )
    takes_back = draw(st.sampled_from([0, 0, 1]))
    if takes_back and rules.steps is Steps.PER_BRANCH:
        search["min_length"] = 0  # another branch's template may shorten the turn after a branch has ended
    interaction = {
        "end_rate": draw(st.sampled_from([0.0, 0.3])),
        "fail_rate": draw(st.sampled_from([0.0, 0.0, 0.15])),
        "goes_on": draw(st.booleans()),
        "copies": draw(st.sampled_from(["deepcopy", "snapshot", "replay"])),
    }
    return search, rules, takes_back, interaction


engines = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 100),
        "end_rate": st.sampled_from([0.05, 0.3, 0.7]),
        "repeat_rate": st.sampled_from([0.0, 0.7]),
        "fail_rate": st.sampled_from([0.0, 0.0, 0.15]),
    }
)


@contextmanager
def checked_after_every_change():
    def checking(name):
        original = getattr(Tree, name)

        def changed(self, *arguments, **options):
            result = original(self, *arguments, **options)
            self.check()
            return result

        return patch.object(Tree, name, changed)

    with checking("add"), checking("finish"), checking("trim"), checking("split"):
        yield


def record(tree: Tree) -> list[tuple]:
    return [
        (n.key, n.parent, n.segment, n.reply, n.finish_reason, n.finish_detail, n.dropped, n.turn_over, n.depth)
        for n in tree.nodes
    ]


def grown(engine, interaction, tokens, search, rules) -> Tree | None:
    try:
        tree = talk(engine, interaction, tokens=tokens, rules=rules, **search)
    except SearchError as error:
        assert engine.fail_rate > 0 or interaction.fail_rate > 0 or tokens.takes_back, error
        tree = None
    assert interaction.faults == []
    assert interaction.open == []
    assert interaction.closed > 0 and interaction.running == engine.running == 0
    return tree


@examples(short=120, long=300)
@given(conversations(), engines, st.integers(1, 100))
def test_every_conversation_keeps_the_invariants(conversation, text, jitter):
    search, rules, takes_back, chances = conversation
    engine, interaction = ScriptedEngine(**text), Chancy(**chances)
    with checked_after_every_change():
        tree = grown(engine, interaction, FakeTokens(takes_back=takes_back), search, rules)

    # The order in which requests and calls finish does not change the tree.
    again, other = ScriptedEngine(**text, jitter=jitter), Chancy(**chances, jitter=jitter)
    twin = grown(again, other, FakeTokens(takes_back=takes_back, jitter=jitter), search, rules)
    assert (twin is None) == (tree is None)
    if tree is None:
        return
    assert record(twin) == record(tree)
    assert again.calls == engine.calls
    assert other.outcomes.keys() == interaction.outcomes.keys()
    assert {key: vars(taken) for key, taken in other.contexts.items()} == {
        key: vars(taken) for key, taken in interaction.contexts.items()
    }

    tree.check()
    check_width(tree, search, engine)
    oracle = Oracle(tree, search, rules, takes_back, interaction)
    oracle.check_calls(engine)
    oracle.check_tokens()
    oracle.check_contexts()
    oracle.check_ends()
    oracle.check_counters()


def test_a_level_that_pays_for_no_whole_turn_has_one_all_the_same():
    budget = {"budget": Budget.LEVEL_TOKENS, "level_tokens": 50}
    tree = talk(ScriptedEngine(end_rate=0.3), Chancy(), **sizes(width=3, **budget))
    assert len(tree.leaves) == 3


class Oracle:
    """Expected properties of a finished tree, derived from the recorded calls and results."""

    def __init__(self, tree, search, rules, takes_back, interaction) -> None:
        self.tree, self.search, self.rules, self.takes_back = tree, search, rules, takes_back
        self.contexts, self.outcomes = interaction.contexts, interaction.outcomes
        self.per_branch = rules.steps is Steps.PER_BRANCH
        self.template_failures = 0

    # --- reading the tree ------------------------------------------------------------------------------------------

    def turns(self, node: int) -> list[list[int]]:
        """Return the turns on a path as generated, the last one up to ``node``."""
        turns: list[list[int]] = [[]]
        for on_path in self.tree.path(node).nodes:
            if on_path.reply is None:
                turns[-1] = [*turns[-1], *on_path.segment.token_ids]
                if on_path.turn_over:
                    original = self.contexts["check_finished", on_path.key].token_ids
                    lost = original[len(turns[-1]) :]
                    assert original[: len(turns[-1])] == turns[-1] and len(lost) <= self.takes_back
                    assert all(token in EOS for token in lost)
                    turns[-1] = original
            else:
                turns.append([])
        return turns

    def depth(self, node: int) -> int:
        """Return the number of complete segments at ``node``; the last segment of its turn may be incomplete."""
        *before, last = [len(turn) for turn in self.turns(node)]
        length = self.search["segment_length"]
        return sum(-(-turn // length) for turn in before) + last // length

    def started_segments(self, node: int) -> int:
        return sum(-(-len(turn) // self.search["segment_length"]) for turn in self.turns(node))

    def written(self, node):
        return node if node.reply is None else self.tree.nodes[node.parent]

    # --- claims ----------------------------------------------------------------------------------------------------

    def check_calls(self, engine: ScriptedEngine) -> None:
        """Check that each call got exactly prompt and path, and each returned token is kept once or cut off."""
        node_of = {node.key: node for node in self.tree.nodes}
        stored = decoded = 0
        for branch, (input_ids, max_tokens, output) in engine.calls.items():
            pieces = pieces_of_call(node_of, branch, set(engine.calls))
            above, path = pieces[0].parent, []
            while above != ROOT:
                path[:0] = self.tree.nodes[above].segment.token_ids
                above = self.tree.nodes[above].parent
            assert input_ids == PROMPT + path
            kept = [token for piece in pieces for token in piece.segment.token_ids]
            assert kept == output[: len(kept)]
            assert max_tokens <= self.search["response_length"] - len(path)
            stored, decoded = stored + len(kept), decoded + len(output)
        counters = self.tree.counters
        assert stored == sum(len(node.segment.token_ids) for node in self.tree.nodes if node.reply is None)
        assert (counters.decoded_tokens, counters.overrun_tokens) == (decoded, decoded - stored)
        assert counters.engine_calls == len(engine.calls)

    def check_tokens(self) -> None:
        for node in self.tree.nodes[1:]:
            assert node.depth == self.started_segments(node.index)
            if node.reply is not None and node.reply.messages:
                above = self.tree.nodes[node.parent]
                closed = above.segment.token_ids[-1] in EOS or self.takes_back
                assert list(node.segment.token_ids) == [CLOSING] * (not closed) + encode(node.reply.messages)
                assert node.end < self.search["response_length"]
            if self.rules.turn_length is not None:
                assert len(self.turns(node.index)[-1]) <= self.rules.turn_length
        for leaf in self.tree.leaves:
            tokens = self.tree.path(leaf).response_ids
            mask, logprobs = self.tree.path(leaf).response_mask, self.tree.path(leaf).logprobs
            assert len(tokens) == self.tree.nodes[leaf].end <= self.search["response_length"]
            assert mask == [int(token < CLOSING) for token in tokens]
            assert [logprob for logprob, trained in zip(logprobs, mask, strict=True) if not trained] == [0.0] * (
                mask.count(0)
            )
            assert all(logprob < 0.0 for logprob, trained in zip(logprobs, mask, strict=True) if trained)

    def check_contexts(self) -> None:
        node_of = {node.key: node for node in self.tree.nodes}
        for (method, name), taken in self.contexts.items():
            if method == "step" and self.per_branch:
                if (reply := node_of.get(f"{name}+")) is None:
                    continue  # abandoned branch
                node = self.tree.nodes[reply.parent]
            else:
                node = node_of[name]
            assert taken.node == name
            turns = self.turns(node.index)
            messages = list(QUESTION)
            replies = [on_path.reply for on_path in self.tree.path(node.index).nodes if on_path.reply]
            for number, reply in enumerate(replies):
                messages += [{"role": "assistant", "content": decode(turns[number])}, *reply.messages]
            assert taken.messages == [*messages, {"role": "assistant", "content": decode(turns[-1])}]
            assert (taken.token_ids, taken.text, taken.turn) == (turns[-1], decode(turns[-1]), len(turns))
            before = self.tree.path(node.index).response_ids[: self.tree.path(node.index).turn_start]
            assert taken.response == decode([*before, *turns[-1]])
            depth = self.started_segments(node.index)
            limits = [self.search["depth"] - depth]
            if self.rules.max_turns is not None:
                limits.append(self.rules.max_turns - len(turns))
            assert (taken.depth, taken.turns_left) == (depth, min(limits))
            assert taken.tokens_left == self.search["response_length"] - self.length(node)
            assert taken.cut_off == (self.reasons(node) == [])

    def length(self, node) -> int:
        """Return the response tokens up to the end of the turn at ``node``, before a template removed some."""
        return self.tree.path(node.index).turn_start + len(self.turns(node.index)[-1])

    def reasons(self, node) -> list[FinishReason]:
        """Return the rules that apply at the end of the generated text, in their order."""
        turn, search = self.turns(node.index)[-1], self.search
        text = decode(turn)
        repetition = search["repetition"]
        unit = turn if repetition.unit is RepetitionUnit.TOKENS else text
        windows = [tuple(unit[i : i + repetition.window]) for i in range(len(unit) - repetition.window + 1)]
        ended = turn[-1] in EOS
        applies = {
            FinishReason.ANSWER: brute_force_box(text) and (ended or not search["answer_needs_eos"]),
            FinishReason.EOS: ended,
            FinishReason.STOP: any(string in text for string in search["stop_strings"]),
            FinishReason.LENGTH: self.length(node) >= search["response_length"],
            FinishReason.DEPTH: self.depth(node.index) >= search["depth"],
            FinishReason.REPETITION: any(windows.count(window) >= repetition.count for window in windows),
        }
        return [reason for reason in search["order"] if applies[reason]]

    def check_ends(self) -> None:
        for node in self.tree.nodes[1:]:
            if node.finish_reason is None and (node.partial or node.reply is not None):
                continue
            written = self.written(node)
            full = self.rules.turn_length is not None and (len(self.turns(written.index)[-1]) == self.rules.turn_length)
            reasons = self.reasons(written)
            if not reasons and not full:
                assert not written.turn_over and node.finish_reason is None
                continue
            reason = reasons[0] if reasons else FinishReason.LENGTH
            asks = not reasons or reason in MODEL_ENDED
            assert written.turn_over == asks
            # The path continues after a node from which branches begin, so the node has no reason of its own.
            expected = self.end_of_turn(node, written, reason) if asks else (reason, "")
            if expected is None:
                assert node.finish_reason is None
                continue
            assert (node.finish_reason, node.finish_detail) == expected or self.failed(node, expected)
            if node.dropped and node.finish_reason is not FinishReason.ERROR:
                assert node.end < self.search["min_length"]

    def failed(self, node, expected) -> bool:
        """Return whether the node ended as required after a failure; other tests check the message."""
        if expected != (FinishReason.ERROR, ""):
            return False
        assert node.finish_reason is FinishReason.ERROR
        if self.rules.on_error is OnError.DROP:
            return node.dropped
        return "Chancy" in node.finish_detail and "prompt 7" in node.finish_detail

    def end_of_turn(self, node, written, reason) -> tuple[FinishReason, str] | None:
        """Return why the path ends after a turn, None if it does not."""
        checked = self.outcomes["check_finished", written.key]
        if isinstance(checked, Exception):
            return FinishReason.ERROR, ""
        if checked is not None:
            return (FinishReason.INTERACTION if reason in MODEL_ENDED else FinishReason.LENGTH), checked
        turns = self.turns(written.index)
        if self.length(written) >= self.search["response_length"]:
            return FinishReason.LENGTH, ""
        if self.started_segments(written.index) >= self.search["depth"]:
            return FinishReason.DEPTH, ""
        if self.rules.max_turns is not None and len(turns) >= self.rules.max_turns:
            return FinishReason.TURNS, ""
        if self.per_branch and node is written:
            return None
        answer = self.outcomes["step", node.key.removesuffix("+")]
        if isinstance(answer, Exception):
            return FinishReason.ERROR, ""
        if answer is None:
            return reason, ""
        added = encode(answer.messages if isinstance(answer, Reply) else answer)
        closed = turns[-1][-1] in EOS
        taken_back = self.takes_back * closed
        closing = not closed and not self.takes_back
        if self.length(written) - taken_back + closing + len(added) >= self.search["response_length"]:
            return FinishReason.LENGTH, ""
        trimmed = self.tree.path(written.index).turn_start + len(turns[-1]) - written.end
        if taken_back and len(written.segment.token_ids) + trimmed == 1:
            self.template_failures += 1
            return FinishReason.ERROR, ""
        return None

    def check_counters(self) -> None:
        counters, outcomes = self.tree.counters, self.outcomes
        raised = sum(isinstance(outcome, Exception) for outcome in outcomes.values())
        steps = [outcome for (method, _), outcome in outcomes.items() if method == "step"]
        assert counters.steps == sum(not isinstance(outcome, Exception) for outcome in steps)
        if not self.takes_back:
            assert counters.failed_steps == raised
        statistics = TreeStatistics.of(self.tree)
        assert statistics.trajectories == len(self.tree.leaves)
        assert statistics.trajectories == sum(statistics.finish_reasons.values())
