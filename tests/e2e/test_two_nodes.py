# SPDX-License-Identifier: Apache-2.0
"""Training on a Ray cluster of two nodes, here two raylets of one machine that know nothing of the driver's shell."""

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from helpers.training_run import BATCH, LENGTHS, WIDTH, dumped_trees, dumps, few_steps, run_in
from recipe.treepo.console.metric_tail import parse_record

NODE = {"num_cpus": 8, "num_gpus": 1}
JOINED = ("ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null", "trainer.nnodes=2")


SCRIPT = ("bash", "scripts/run_treepo_qwen0.5b.sh")


def metrics_file(folder: Path) -> Path:
    """Return verl's file of metrics, whose name on a joined cluster is verl's (``console_files.py``)."""
    found = [path for path in (folder / "logs").glob("*/*.jsonl") if path.parent.name != "ray"]
    return found[0] if found else folder / "none"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with monkeypatch.context() as shell:
        for name in list(os.environ):
            if name.startswith(("TREEPO", "VERL", "PYTHONPATH")):
                shell.delenv(name)
        nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        nodes.add_node(**NODE)
    yield nodes
    nodes.shutdown()


def test_two_nodes_train_with_a_replica_and_a_rank_on_each(cluster):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        joined = (f"+ray_kwargs.ray_init.address={cluster.address}", *JOINED)
        short = ("trainer.total_training_steps=2", "trainer.save_freq=-1")
        run_in(folder, *SCRIPT, *few_steps(folder), *joined, *short, *LENGTHS, *dumps(folder))
        records = [parse_record(line) for line in metrics_file(folder).read_text().splitlines()]
        steps = [record.metrics for record in records if record is not None]
        trees, log = dumped_trees(folder), (folder / "logs/console.log").read_text(errors="replace")
    assert len(steps) == 2 and len(trees) == 2 * BATCH
    assert [step["treepo/trained_trajectories"] for step in steps] == [BATCH * WIDTH] * 2
    # Only the plugin, loaded in the workers, makes the engines packed.
    assert all(0 < step["actor/packing/unique_over_total"] < 1 for step in steps)
    for role in ("vLLMHttpServer", "WorkerDict"):
        assert len(set(re.findall(rf"\({role} pid=(\d+)", log))) == 2, role


@pytest.mark.slow
def test_a_lost_node_ends_the_run_with_its_cause(cluster):
    with tempfile.TemporaryDirectory() as name:
        folder, lost = Path(name), threading.Event()

        def lose() -> None:
            while not (metrics_file(folder).exists() and metrics_file(folder).read_text()):
                if lost.wait(0.5):
                    return
            cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
            lost.set()

        thread = threading.Thread(target=lose)
        thread.start()
        overrides = (f"+ray_kwargs.ray_init.address={cluster.address}", *JOINED, "trainer.total_training_steps=200")
        try:
            with pytest.raises(AssertionError) as failed:
                run_in(folder, *SCRIPT, *few_steps(folder), *overrides)
            assert lost.is_set() and re.search(r"error: .*its node has died\.$", str(failed.value)), failed.value
        finally:
            lost.set()
            thread.join()
