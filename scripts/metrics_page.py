# SPDX-License-Identifier: Apache-2.0
"""Write ``docs/reference/metrics.md``: ``python scripts/metrics_page.py``.

Units and meanings are beside the code that computes the metrics. Neither that code nor this file imports verl.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from recipe.treepo.evaluation.markdown import table
from recipe.treepo.verl_adapters.constant_metrics import CONVERSATION, FAILURES, ONE_UPDATE, SCORES
from recipe.treepo.verl_adapters.metrics import CONVERSATIONS, OTHERS, RATIOS, SUMS, TREES
from recipe.treepo.verl_adapters.outcome_metrics import OUTCOMES

PAGE = Path(__file__).parents[1] / "docs/reference/metrics.md"
Described = Mapping[str, tuple[str, str]]

HEAD = """\
# Metrics

Each training step logs these metrics to every tracker of `trainer.logger` ([trackers](../how_to/trackers.md)). All
numbers are for one batch; a prompt that failed as a whole is in none of them. A word in capitals stands for the part of
a name that varies.

Written by `python scripts/metrics_page.py`; do not edit.
"""
# Title, text and metrics of each section; names are below treepo/.
SECTIONS: tuple[tuple[str, str, Described], ...] = (
    (
        "Sampling cost",
        "For trees and plain samples. Counts are sums over the batch.",
        SUMS | RATIOS,
    ),
    ("Tree shape and search", "For trees only. Counts are sums over the batch.", TREES),
    ("Conversations", "For trees with `treepo.interaction` only. Counts are sums over the batch.", CONVERSATIONS),
    ("Outcomes", "Those by depth are for trees only.", OUTCOMES),
)
VERL: Described = {
    "critic/score/mean": ("reward", "Mean score of the trajectories"),
    "critic/rewards/mean": ("reward", "The same, less the KL penalty if `algorithm.use_kl_in_reward=true`"),
    "critic/advantages/mean": ("advantage", "Mean advantage of the trained tokens"),
    "actor/entropy": ("nats", "Entropy of the policy, aggregated over the trained tokens"),
    "training/rollout_probs_diff_max": (
        "probability",
        "Largest difference between the engine's and the actor's probability of a trained token; needs "
        "`actor_rollout_ref.rollout.calculate_log_probs=true`",
    ),
    "response_length/mean": ("tokens", "Mean length of a response"),
    "timing_s/step": ("seconds", "Wall time of the step"),
    "perf/throughput": ("tokens/s", "Tokens of all trajectories per second and GPU; shared tokens count in each"),
    "val-core/SOURCE/acc/mean@N": (
        "share",
        "Validation: mean `acc` of the N samples per prompt; `reward` in place of `acc` if the reward function returns "
        "no `acc`",
    ),
    "val-aux/SOURCE/reward_timeout/mean@N": (
        "share",
        "Validation: answers whose check ran out of time; likewise `reward_boxed`, `reward_too_long`, `reward_crash`",
    ),
}


def metrics_page() -> str:
    """Return the page with one table per group of metrics."""
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for title, text, metrics in SECTIONS:
        yield from _section(title, text, {f"treepo/{name}": about for name, about in metrics.items()})
    yield from _section("Dumps and packed training", "For `treepo.dump.dir` and `treepo.packed_training=true`.", OTHERS)
    yield from _section(
        "verl's metrics to watch", "verl logs many more; these show whether a run is sound and learns.", VERL
    )
    yield from _not_logged()


def _section(title: str, text: str, metrics: Described) -> Iterator[str]:
    rows = ((f"`{name}`", unit, meaning) for name, (unit, meaning) in metrics.items())
    yield f"## {title}\n\n{text}\n"
    yield table(("metric", "unit", "meaning"), rows)
    yield ""


def _not_logged() -> Iterator[str]:
    yield "## Metrics left out while 0\n"
    yield "Under the condition beside it, a metric is logged only if it is not 0.\n"
    rows = (
        ("`treepo/finish/REASON`", "`treepo.stopping` lacks this rule"),
        (_names(*(f"treepo/{name}" for name in CONVERSATION)), "no conversations"),
        ("`treepo/finish/custom`", "no `treepo.stopping_rules.custom`"),
        ("`treepo/pruned_paths`", "no `treepo.branching.custom` and no threshold in `treepo.score`"),
        (_names(*(f"treepo/{name}" for name in SCORES)), "no `treepo.score.custom`"),
        ("`treepo/dropped_paths`", "`treepo.min_response_length=0`"),
        ("`global_seqlen/minmax_diff`", "one rank"),
        (_names(*ONE_UPDATE), "the trainer is `sync` and updates the policy once per step"),
        ("`training/off_policy/trajectory_staleness/...`", "the trainer is `sync`"),
        (_names(*(f"val-aux/SOURCE/{name}/..." for name in FAILURES)), "always, except for the mean"),
    )
    yield table(("metric", "condition"), rows)
    yield ""


def _names(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(metrics_page(), encoding="utf-8")
