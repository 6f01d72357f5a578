# SPDX-License-Identifier: Apache-2.0
"""The help pages of the entry points, except for the parts from ``config/``."""

from recipe.treepo.command_line.arguments import TREEPO, OwnGroup
from recipe.treepo.command_line.help_text import HelpPage
from recipe.treepo.evaluation import settings as evaluation

EVALUATION = OwnGroup("evaluation", evaluation.KEYS, (evaluation.ARMS,), evaluation.SEE)

TRAIN = "python -m recipe.treepo.main_treepo"
TRAINING_PAGE = HelpPage(
    purpose="Train a language model with verl, tree-structured rollouts and tree advantages (TreePO).",
    usage=f"{TRAIN} [--dry-run [--full]] [GROUP=NAME ...] [KEY=VALUE ...]",
    about="""\
KEY is a key of verl's ppo_trainer or a key below. All keys are checked before Ray or a model starts.
bash scripts/run_treepo_qwen0.5b.sh prepares environment and data first. It takes the same arguments.""",
    group=TREEPO,
    choices={"platform": "gpu", "preset": "none", "tree": "none"},
    columns=2,
    examples=(
        (f"{TRAIN} platform=cpu preset=tiny --dry-run", "the settings of the embedded run"),
        (
            f"{TRAIN} preset=gpu data.train_files=train.parquet data.val_files=val.parquet",
            "Qwen2.5-0.5B on your own data, made with python -m recipe.treepo.data_prep",
        ),
        (
            f"{TRAIN} preset=gpu tree=ms_swift_d5_k3 algorithm.adv_estimator=grpo",
            "GRPO on trees",
        ),
    ),
)

EVALUATE = "python -m recipe.treepo.main_eval"
SAMPLING = "\\\n      data.val_files=val.parquet actor_rollout_ref.rollout.val_kwargs.temperature=1"
EVALUATION_PAGE = HelpPage(
    purpose="Evaluate a model without training: accuracy and cost of plain samples and of trees.",
    usage=f"{EVALUATE} [--dry-run [--full]] evaluation.out_dir=DIR [GROUP=NAME ...] [KEY=VALUE ...]",
    about=f"""\
KEY is a key of a training run ({TRAIN} --help) or a key below.
Model: actor_rollout_ref.model.path; problems: data.val_files. All keys are checked before Ray or a model starts.
The same command resumes an interrupted evaluation. bash scripts/evaluate_qwen0.5b.sh prepares environment and data
first. It takes the same arguments.""",
    group=EVALUATION,
    choices={"evaluation": "compare", "platform": "gpu", "preset": "none", "tree": "none"},
    columns=1,
    examples=(
        (
            f"{EVALUATE} evaluation.out_dir=out platform=cpu preset=tiny --dry-run",
            "the settings of the embedded evaluation",
        ),
        (
            f"{EVALUATE} evaluation.out_dir=out preset=gpu evaluation.n=16 {SAMPLING}",
            "16 plain samples and a tree of 16 trajectories for each problem",
        ),
        (
            f"{EVALUATE} evaluation.out_dir=out preset=gpu evaluation=scaling {SAMPLING}",
            "accuracy against decoded tokens, for trees of several widths",
        ),
    ),
)
