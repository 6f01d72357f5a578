# SPDX-License-Identifier: Apache-2.0
"""Cases of the sampling benchmark: samplers, shapes of trees, engine settings, and plans."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from recipe.treepo.evaluation.problem_sampler import plain_samples
from recipe.treepo.search.branching import BranchingRules
from recipe.treepo.search.fallback import FallbackRules, FallbackStart
from recipe.treepo.search.stopping import FinishReason
from recipe.treepo.settings.schema import TreePOSettings


class Arm(StrEnum):
    """Sampler of the trajectories of a prompt."""

    PLAIN = "plain"  # one request per trajectory, as in verl
    LOOPS = "loops"  # one loop per trajectory with a request per segment
    LOCK_STEP = "lock step"  # trees that wait for each other at each level, as published
    TREES = "trees"
    ALIGNED = "trees, cache blocks"  # trees whose segments end with prefix-cache blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Settings of the inference servers.

    Attributes:
        model: ``tiny``, a trained model that ends its responses; or ``random``, random weights with about equal
            probabilities of all tokens.
        ends: Share of the random model's vocabulary that ends a response.
        hidden: Hidden size of the random model.
        layers: Layers of the random model.
        block_size: Tokens per block of the prefix cache.
        max_num_seqs: Maximum number of sequences in a step.
        chunked_prefill: Whether prompts may be computed in chunks, along with decoding.
        step_tokens: Maximum number of tokens in a step, for prefill and decoding together.
        replicas: Number of inference servers.
        scheduling: ``fcfs``, first come first served; or ``priority``, deeper paths first.
    """

    model: str = "random"
    ends: float = 0.0
    hidden: int = 384
    layers: int = 4
    block_size: int = 32
    max_num_seqs: int = 256
    chunked_prefill: bool = True
    step_tokens: int = 8192
    replicas: int = 1
    scheduling: str = "fcfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A sampler with its tree, prompts and engine.

    Attributes:
        part: Part of the report.
        arm: Sampler.
        width: Trajectories per prompt.
        depth: Maximum number of segments per path.
        segment: Tokens per segment.
        roots: Children of the root.
        divergence: Children per path.
        prompts: Number of prompts.
        prompt_length: Longest random prompt in tokens; the shortest has half as many.
        in_flight: Maximum number of prompts sampled concurrently.
        spread: Whether each request of a tree may go to another replica.
        engine: Settings of the servers.
    """

    part: str
    arm: Arm = Arm.TREES
    width: int = 8
    depth: int = 7
    segment: int = 64
    roots: int = 1
    divergence: int = 2
    prompts: int = 8
    prompt_length: int = 128
    in_flight: int = 64
    spread: bool = False
    engine: Engine = field(default_factory=Engine)

    @property
    def ends(self) -> bool:
        """Whether responses can end early, at random lengths."""
        return self.engine.model == "tiny" or self.engine.ends > 0

    @property
    def response_length(self) -> int:
        """Longest response in tokens."""
        return self.depth * self.segment

    @property
    def shape(self) -> str:
        """Description of the tree."""
        return f"{self.depth} x {self.segment}, n {self.width}, root {self.roots}, divergence {self.divergence}"

    def settings(self) -> TreePOSettings:
        """Return the settings of the search.

        Raises:
            ValueError: if not all prompts in lock step start together, or for an order by depth with requests to any
                replica.
        """
        if self.spread and self.engine.scheduling == "priority":
            raise ValueError("requests that may go to any replica cannot be ordered by depth")
        ends = (FinishReason.ANSWER,) if self.engine.model == "tiny" else ()
        stopping = (*ends, FinishReason.EOS, FinishReason.LENGTH, FinishReason.DEPTH)
        tree = TreePOSettings(
            depth=self.depth,
            segment_length=self.segment,
            branching=BranchingRules(
                init_divergence=(self.roots, self.roots), divergence=(self.divergence, self.divergence)
            ),
            stopping=stopping,
            cache_block=None,
        )
        match self.arm:
            case Arm.PLAIN:
                return plain_samples(self.width, tree.retries)
            case Arm.LOOPS:
                return tree.independent(self.width)
            case Arm.LOCK_STEP:
                if self.in_flight < self.prompts:
                    raise ValueError(f"{self.prompts} prompts in lock step must be in flight together")
                return replace(tree, max_segments_per_request=1, fallback=FallbackRules(start=FallbackStart.DRY))
            case Arm.TREES:
                return tree
            case Arm.ALIGNED:
                return replace(tree, cache_block=self.engine.block_size)


# Depth, width, children of the root, and enough prompts for a busy engine. Without early ends, the trees have 39 of 56,
# 190 of 224 and 190 of 448 segments of plain samples.
SHAPES = ((7, 8, 1, 16), (14, 16, 2, 4), (7, 64, 2, 8))
SMALL = Engine(hidden=256, layers=4)
TINY = Engine(model="tiny")
# Half of the responses end within about 150 tokens.
ENDING = replace(SMALL, ends=1 / 224)


def shapes(engine: Engine, times: int = 1) -> list[Case]:
    """Return all samplers on all shapes, with ``times`` times the prompts."""
    return [
        Case(part="samplers", arm=arm, depth=depth, width=width, roots=roots, prompts=times * prompts, engine=engine)
        for depth, width, roots, prompts in SHAPES
        for arm in Arm
    ]


def quick() -> list[Case]:
    """Return the cases that take less than five minutes on two cores."""
    depth, width, roots, _ = SHAPES[0]
    shape = Case(part="samplers", depth=depth, width=width, roots=roots, prompts=3, engine=SMALL)
    ends = replace(shape, part="ends", prompts=6, engine=ENDING)
    return [replace(case, arm=arm) for case in (shape, ends) for arm in Arm]


def full() -> list[Case]:
    """Return all cases for a machine without a GPU."""
    cases = shapes(Engine())
    cases += [Case(part="ends", arm=arm, prompts=64, engine=ENDING) for arm in Arm]
    cases += [Case(part="tiny", arm=arm, depth=4, segment=32, prompts=64, engine=TINY) for arm in Arm]
    both = (Arm.PLAIN, Arm.TREES)
    cases += [
        Case(part="depth", arm=arm, depth=depth, segment=448 // depth, engine=SMALL)
        for depth in (2, 4, 7, 14, 28)
        for arm in (*both, Arm.LOOPS)
    ]
    cases += [
        Case(part="width", arm=arm, width=width, prompts=4, engine=SMALL)
        for width in (4, 8, 16, 32, 64)
        for arm in (*both, Arm.LOCK_STEP)
    ]
    cases += [
        Case(part="prompts", arm=arm, depth=4, segment=32, prompts=max(64, number), in_flight=number, engine=SMALL)
        for number in (4, 16, 64, 256)
        for arm in both
    ]
    settings = [replace(SMALL, block_size=size) for size in (32, 64, 128)] + [replace(SMALL, max_num_seqs=64)]
    cases += [
        Case(part="engine", arm=arm, engine=engine, prompts=16)
        for engine in settings
        for arm in (*both, Arm.ALIGNED)
        if arm is not Arm.ALIGNED or engine.block_size <= 64
    ]
    # A step has room for the prompts of one or two requests.
    pieces = [replace(SMALL, chunked_prefill=chunked, step_tokens=1600) for chunked in (True, False)]
    long = Case(part="chunked prefill", prompts=16, prompt_length=1024)
    cases += [replace(long, arm=arm, engine=engine) for engine in pieces for arm in both]
    crowded = [replace(SMALL, max_num_seqs=16, scheduling=scheduling) for scheduling in ("fcfs", "priority")]
    cases += [Case(part="priority", arm=arm, prompts=16, engine=engine) for engine in crowded for arm in both]
    two = Case(part="replicas", prompts=16, engine=replace(SMALL, replicas=2))
    cases += [replace(two, arm=Arm.PLAIN), two, replace(two, spread=True)]
    return cases


def gpu() -> list[Case]:
    """Return the cases for one GPU, with a model of 270 M parameters."""
    return shapes(Engine(hidden=1024, layers=24, block_size=16, max_num_seqs=1024), times=4)


PLANS = {"quick": quick, "full": full, "gpu": gpu}
