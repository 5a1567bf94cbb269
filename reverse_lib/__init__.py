"""The workbench for agentic image geo-localization.

Modules in the order data flows: geo, trajectory, photos, search, cache, world, environment, rewards,
teacher, policy, pretrain, sft, grpo, evaluation, plots, maps, profiles. A module imports only from
modules above it; everything down to rewards works without torch.
"""

__version__ = "0.1.0"
