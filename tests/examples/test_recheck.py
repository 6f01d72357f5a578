# SPDX-License-Identifier: Apache-2.0
"""Example conversation: examples/recheck.py, loaded as in a run."""

from helpers.paths import ROOT
from helpers.scripted_conversation import Turns, sizes, talk
from helpers.scripted_engine import EOS
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import InteractionSettings
from recipe.treepo.verl_adapters.user_code import interaction_class
from tiny import conversations as tiny_conversations

FILE = str(ROOT / "examples/recheck.py")
Recheck = interaction_class(InteractionSettings(path=FILE, name="Recheck"))
ROW = {"data_source": "test", "reward_model": {"ground_truth": "5"}}


def turn(text: str) -> list[int]:
    return [*text.encode(), EOS[0]]


def conversation(*turns: str, **options: str) -> tuple[list[str], FinishReason, str, int]:
    """Return the replies to a model that writes these turns, finish reason and detail, and the number of turns."""
    tree = talk(Turns(*map(turn, turns)), Recheck(**options), sample=ROW, **sizes(width=1, depth=4))
    (leaf,) = tree.leaves
    asked = [reply.messages for reply in tree.path(leaf).replies]
    assert all(message["role"] == "user" for (message,) in asked)
    node = tree.nodes[leaf]
    return [message["content"] for (message,) in asked], node.finish_reason, node.finish_detail, node.depth


def test_a_wrong_answer_is_checked_again_and_the_last_turn_is_final():
    again, final = tiny_conversations.CHECK_AGAIN, tiny_conversations.FINAL_ANSWER  # of the tiny model's training data
    wrong, right = "\\boxed{4}", "it is \\boxed{5}"
    assert conversation(wrong) == ([again, again, final], FinishReason.DEPTH, "", 4)
    assert conversation(right) == ([], FinishReason.INTERACTION, "right", 1)
    assert conversation(wrong, wrong, right) == ([again, again], FinishReason.INTERACTION, "right", 3)
    assert conversation(wrong, wrong, wrong, right) == ([again, again, final], FinishReason.INTERACTION, "right", 4)
    # The reward of the whole response takes the last box, or a number if there is no box.
    assert conversation(wrong, "it is 5", right) == ([again, again], FinishReason.INTERACTION, "right", 3)
    assert conversation("it is 4", "it is 5") == ([again], FinishReason.INTERACTION, "right", 2)
    assert conversation(wrong, check_again="no", final_answer="last")[0] == ["no", "no", "last"]
