"""reward"""

from reverse_lib.reward.credit import (
    CREDITS,
    SCALES,
    assistant_turns,
    group_advantages,
    label_advantages,
    label_rewards,
    label_tokens,
    returns_to_go,
    spread,
    trajectory_advantages,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.reward.score import Breakdown, evidence_mcc, score
