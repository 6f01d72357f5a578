# SPDX-License-Identifier: Apache-2.0
"""Overrides that select estimators and objectives of verl for a run with trees, for composition and training tests.

Each objective has a different estimator, a different aggregation of the loss, and independent options.
"""

ACTOR = "actor_rollout_ref.actor"
PENALTY = "reward.reward_kwargs.overlong_buffer_cfg"

OBJECTIVES = {
    "treepo": (),
    "treepo_segment": ("algorithm.adv_estimator=treepo_segment", "treepo.advantage.normalization=std"),
    "treerl": ("algorithm.adv_estimator=treerl", "treepo.shared_token_weight=once"),
    "treerpo": ("algorithm.adv_estimator=treerpo",),
    "treepo-kl_loss": (
        f"{ACTOR}.use_kl_loss=True",
        f"{ACTOR}.kl_loss_coef=0.01",
        f"{ACTOR}.loss_agg_mode=seq-mean-token-sum",
    ),
    # DAPO: groups with only right or only wrong answers are replaced without limit; the upper clip ratio is larger; the
    # last half of the response length costs up to 0.5.
    "treepo-dapo": (
        "algorithm.filter_groups.enable=True",
        "algorithm.filter_groups.metric=acc",
        f"{ACTOR}.clip_ratio_low=0.2",
        f"{ACTOR}.clip_ratio_high=0.28",
        f"{ACTOR}.loss_agg_mode=token-mean",
        "reward.reward_manager.name=dapo",
        f"{PENALTY}.enable=True",
        f"{PENALTY}.len=64",
        f"{PENALTY}.penalty_factor=0.5",
    ),
    # without the biases of length and standard deviation ("Dr. GRPO")
    "grpo-seq_mean_token_sum_norm": (
        "algorithm.adv_estimator=grpo",
        "algorithm.norm_adv_by_std_in_grpo=False",
        f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm",
        f"{ACTOR}.loss_scale_factor=128",
    ),
    "rloo-kl_in_reward": (
        "algorithm.adv_estimator=rloo",
        "algorithm.use_kl_in_reward=True",
        "algorithm.kl_ctrl.kl_coef=0.05",
    ),
    "reinforce_plus_plus_baseline-seq_mean_token_mean": (
        "algorithm.adv_estimator=reinforce_plus_plus_baseline",
        f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",
    ),
    "gae-critic": (
        "algorithm.adv_estimator=gae",
        "algorithm.lam=0.95",
        "critic.optim.lr=1e-3",
    ),
}
