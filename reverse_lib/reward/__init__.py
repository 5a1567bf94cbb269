"""What a rollout earns, and who of its turns gets the credit. Pure functions of records.

score                  a trajectory -> its `Breakdown`, every component under its own name
evidence_mcc           how well labels of results agree with the truth
advantages             breakdowns of groups -> `Advantages` of every turn, and of its labels
turn_rewards, returns_to_go, group_advantages, turn_advantages     its parts: credit by turn
label_rewards, label_advantages                                    labels credited by themselves
trajectory_advantages                                              plain GRPO
CREDITS, SCALES        what `credit` and `scale` may be
"""

from reverse_lib.reward.credit import (
    CREDITS,
    SCALES,
    Advantages,
    advantages,
    group_advantages,
    label_advantages,
    label_rewards,
    returns_to_go,
    trajectory_advantages,
    turn_advantages,
    turn_rewards,
)
from reverse_lib.reward.score import Breakdown, evidence_mcc, score
