# SPDX-License-Identifier: Apache-2.0
"""Measure cases with one setting of verl's servers; ``benchmarks/sampling_speed.py`` starts this in a new process.

The cases take turns for the job's number of repetitions. The prefix cache is emptied before each measurement. Each
result is one line, so a session that ends early keeps its results.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from benchmarks.sampling.cases import Arm, Case, Engine
from benchmarks.sampling.lock_step import LockStep, grow_in_lock_step
from recipe.treepo.search.engine import Segment, SegmentEngine
from recipe.treepo.search.statistics import TreeStatistics
from recipe.treepo.search.tree import Tree
from recipe.treepo.verl_adapters.metrics import SUMS

COUNTS = (*SUMS, "fallbacks", "overrun_tokens", "failed_calls", "busy_seconds")


class Meter:
    """Meter of the time without requests in flight, and of the summed time of all requests."""

    def __init__(self) -> None:
        self._in_flight, self._since = 0, time.perf_counter()
        self.idle_seconds = self.request_seconds = 0.0

    def change(self, by: int) -> None:
        """Count the start (1) or end (-1) of a request."""
        now = time.perf_counter()
        passed = now - self._since
        self.idle_seconds += passed if self._in_flight == 0 else 0.0
        self.request_seconds += passed * self._in_flight
        self._in_flight, self._since = self._in_flight + by, now


class MeteredEngine:
    """Engine that reports its requests in flight to a meter."""

    def __init__(self, engine: SegmentEngine, meter: Meter) -> None:
        self._engine, self._meter = engine, meter

    async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
        """See :class:`recipe.treepo.search.engine.SegmentEngine`."""
        self._meter.change(1)
        try:
            return await self._engine.extend(input_ids, max_tokens=max_tokens, branch=branch)
        finally:
            self._meter.change(-1)


async def sample(
    case: Case, prompts: Sequence[list[int]], engine_of: Any, *, ends: frozenset[int], decode: Any, seed: int
) -> dict[str, float]:
    """Sample the prompts of a case once; return counts and times."""
    settings, meter, room = case.settings(), Meter(), asyncio.Semaphore(case.in_flight)
    lock_step = LockStep(len(prompts)) if case.arm is Arm.LOCK_STEP else None
    shape = settings.shape(width=case.width, response_length=case.response_length, progress=1.0)
    stopping = settings.stopping_rules(eos_token_ids=ends, response_length=case.response_length, decode=decode)

    async def one(number: int, prompt: list[int]) -> Tree:
        async with room:
            engine = MeteredEngine(engine_of(case, prompt), meter)
            return await grow_in_lock_step(
                prompt,
                engine=engine,
                shape=shape,
                stopping=stopping,
                seed=seed * len(prompts) + number,
                lock_step=lock_step,
            )

    started = time.perf_counter()
    trees = await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))
    meter.change(0)
    seconds = time.perf_counter() - started
    total = TreeStatistics.total(map(TreeStatistics.of, trees))
    costs = {name: getattr(total, name) for name in COUNTS}
    assert costs["trajectories"] == case.width * len(prompts), "some trajectories are missing"
    assert costs["failed_calls"] == 0, "repeated requests distort the time"
    return {
        **costs,
        "prompt_tokens": sum(map(len, prompts)),
        "seconds": seconds,
        "idle_seconds": meter.idle_seconds,
        "request_seconds": meter.request_seconds,
    }


class PeakMemory:
    """Peak memory of a process since creation of this object; Linux only.

    Attributes:
        before: Memory at creation in GB.
    """

    def __init__(self, process: int | str = "self") -> None:
        self._folder = Path(f"/proc/{process}")
        (self._folder / "clear_refs").write_text("5")  # proc(5): resets the peak
        self.before = self._read("VmRSS")

    def gb(self) -> float:
        """Return the peak in GB."""
        return self._read("VmHWM")

    def _read(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith(f"{name}:")]
        return int(line.split()[1]) * 1024 / 1e9


def own_memory() -> PeakMemory:
    """Return the memory of this process, after a return of freed memory to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return PeakMemory()


def engine_memories() -> list[PeakMemory]:
    """Return the host memory of each engine process."""
    engines = []
    for process, words in named_children():
        with contextlib.suppress(OSError):  # has already ended
            if "VLLM::" in words:
                engines.append(PeakMemory(process.pid))
    return engines


def named_children() -> Iterator[tuple[psutil.Process, str]]:
    """Yield all descendants of this process, each with its name and command line."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # has already ended
            yield process, " ".join([process.name(), *process.cmdline()])


# Processes of verl's servers, by a part of their name; the rest of the sampling happens in this process.
SERVER_PROCESSES = {
    "balancer": "ray::GlobalRequestLoadBalancer",
    "server": "ray::vLLMHttpServer",
    "scheduler": "VLLM::EngineCore",
    "model": "VLLM::Worker",
}


def cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds so far of the client (this process) and of each kind of server process."""
    seconds = {"client": sum(psutil.Process().cpu_times()[:2]), **dict.fromkeys(SERVER_PROCESSES, 0.0)}
    for process, words in named_children():
        with contextlib.suppress(psutil.Error):  # has already ended
            for kind, part in SERVER_PROCESSES.items():
                seconds[kind] += sum(process.cpu_times()[:2]) if part in words else 0.0
    return seconds


# --- servers ---------------------------------------------------------------------------------------------------


def overrides(engine: Engine, job: dict[str, Any], longest: int) -> list[str]:
    """Return the servers' settings as overrides of the training configuration."""
    rollout = "actor_rollout_ref.rollout"
    return [
        *(f"platform={job['platform']}", "preset=tiny", f"actor_rollout_ref.model.path={job['model']}"),
        f"{rollout}.max_model_len={longest}",
        f"{rollout}.max_num_batched_tokens={max(longest, engine.step_tokens)}",
        f"{rollout}.max_num_seqs={engine.max_num_seqs}",
        f"{rollout}.enable_chunked_prefill={engine.chunked_prefill}",
        f"{rollout}.scheduling_policy={engine.scheduling}",
        f"++{rollout}.engine_kwargs.vllm.block_size={engine.block_size}",
        f"trainer.n_gpus_per_node={engine.replicas}",
        f"++ray_kwargs.ray_init.num_gpus={engine.replicas}",
        f"data.val_files={job['data']}",
    ]


def random_prompts(count: int, longest: int, vocabulary: int) -> list[list[int]]:
    """Return random prompts of ``longest // 2`` to ``longest`` tokens each."""
    rng = random.Random(0)
    return [[rng.randrange(vocabulary) for _ in range(rng.randint(longest // 2, longest))] for _ in range(count)]


async def measure(job: dict[str, Any]) -> None:
    """Start the servers, measure all cases of a job, and write the counts to its file."""
    from hydra import compose, initialize_config_module

    from recipe.treepo.evaluation.machine import machine
    from recipe.treepo.evaluation.problems import load_problems
    from recipe.treepo.evaluation.servers import Servers
    from recipe.treepo.main_treepo import use_plugin
    from recipe.treepo.verl_adapters.evaluation_inputs import load_model, prompt_builder, read_rows
    from recipe.treepo.verl_adapters.model_tokens import eos_token_ids
    from recipe.treepo.verl_adapters.server_engine import ServerEngine, output_params

    use_plugin()
    engine = Engine(**job["engine"])
    cases = [Case(**{**case, "arm": Arm(case["arm"]), "engine": engine}) for case in job["cases"]]
    longest = max(192, *(case.prompt_length for case in cases)) + max(case.response_length for case in cases)
    with initialize_config_module("recipe.treepo.config", version_base=None):
        settings = overrides(engine, job, longest)
        config = compose("treepo_trainer", settings)
    model = load_model(config)
    tokenizer = model.tokenizer
    ends = eos_token_ids(model) if engine.model == "tiny" else frozenset(range(round(engine.ends * len(tokenizer))))
    most = max(case.prompts for case in cases)
    if engine.model == "tiny":
        problems = load_problems(
            [job["data"]],
            partial(read_rows, config, tokenizer),
            prompt_builder(config, model),
            max_prompt_length=config.data.max_prompt_length,
            blank_truths=False,
        )
        prompts = [problem.prompt_ids for problem in problems][:most]
        assert len(prompts) == most, f"{job['data']} has {len(prompts)} problems, fewer than {most}"
    else:
        (length,) = {case.prompt_length for case in cases}
        prompts = random_prompts(most, length, len(tokenizer))
    servers = Servers(config, ends)
    await servers.start()
    sampling: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    sampling |= {"stop_token_ids": sorted(ends), "ignore_eos": engine.model == "random"}

    class DepthFirst(ServerEngine):
        def __init__(self, prompt: list[int], *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._prompt_length = len(prompt)

        async def extend(self, input_ids: Sequence[int], *, max_tokens: int, branch: str) -> Segment:
            self._priority = self._prompt_length - len(input_ids)  # vLLM schedules lower numbers first
            return await super().extend(input_ids, max_tokens=max_tokens, branch=branch)

    class Scattered(ServerEngine):
        def _routing_id(self, branch: str) -> str:
            return uuid4().hex

    def engine_of(case: Case, prompt: list[int]) -> ServerEngine:
        kind: Callable[..., ServerEngine] = ServerEngine
        if case.spread:
            kind = Scattered
        elif engine.scheduling == "priority":
            kind = partial(DepthFirst, prompt)
        independent = case.arm in (Arm.PLAIN, Arm.LOOPS)
        # Plain samples get their results as verl's own sampler does.
        output = {} if case.arm is Arm.PLAIN else output_params("vllm", ())
        return kind(servers.client, sampling | output, seed=None, priority=0, spread=independent)

    decode = partial(tokenizer.decode, skip_special_tokens=True)
    with Path(job["out"]).open("w") as stream:
        about = {"machine": machine(), "servers": [setting for setting in settings if "/" not in setting]}
        stream.write(json.dumps(about) + "\n")
        stream.flush()
        # Warm up with two prompts.
        await sample(replace(cases[0], prompts=2), prompts[:2], engine_of, ends=ends, decode=decode, seed=0)
        for repetition in range(1, job["repetitions"] + 1):
            for number, case in enumerate(cases):
                await servers.empty_cache()
                memory, engines = own_memory(), engine_memories()
                own, before = prompts[: case.prompts], cpu_seconds()
                costs = await sample(case, own, engine_of, ends=ends, decode=decode, seed=repetition)
                costs |= {f"cpu_{kind}": seconds - before[kind] for kind, seconds in cpu_seconds().items()}
                costs["searches_gb"] = max(0.0, memory.gb() - memory.before)
                costs["engine_gb"] = sum(engine.gb() for engine in engines)
                stream.write(json.dumps({"case": number, **costs}) + "\n")
                stream.flush()
                print(f"{repetition}/{job['repetitions']} {case.part}, {case.arm}, {case.shape}", flush=True)
    servers.stop()


def main() -> None:
    """Measure the job in the file named on the command line."""
    asyncio.run(measure(json.loads(Path(sys.argv[1]).read_text())))


def as_job(cases: Sequence[Case]) -> dict[str, Any]:
    """Convert cases with equal engine to a job in JSON types."""
    (engine,) = {case.engine for case in cases}
    return {"engine": asdict(engine), "cases": [asdict(case) for case in cases]}


if __name__ == "__main__":
    main()
