"""The paper's claims: verdicts follow the intervals, and the table says what would decide an open one."""

import numpy as np
import pandas as pd
import pytest

from reverse_lib.evaluation import CACHED, DIRECT, LIVE, METRICS, markdown, replicate
from reverse_lib.evaluation import claims as replication
from reverse_lib.evaluation.claims import CLAIMS, FAILS, HOLDS, UNDECIDED, Claim
from reverse_lib.profiles import FULL, START, VARIANTS, get_profile
from reverse_lib.training import ablations


def run(variant, seed, km, reward=0.5):
    """Answers to len(km) photos, each so far off."""
    blank = dict.fromkeys(METRICS, 0.0) | {"pred_country": "", "country": "", "end": "answered"}
    rows = [blank | {"photo_id": f"p{i}", "km": float(one), "reward": reward} for i, one in enumerate(km)]
    return pd.DataFrame(rows).assign(variant=variant, seed=seed)


def near(n, right):
    """`right` of n photos within 25 km."""
    return [1.0] * right + [900.0] * (n - right)


def judged(before, after, **claim):
    runs = pd.concat([*before, *after])
    rule = Claim("says", "paper", "within_25km", before[0]["variant"].iloc[0], after[0]["variant"].iloc[0], **claim)
    (row,) = replicate(runs, [rule]).to_dict("records")
    return row


def test_a_clear_rise_holds_a_clear_fall_does_not_and_a_tie_is_undecided():
    low, high = [run(START, 0, near(60, 10))], [run(FULL, 0, near(60, 40))]
    assert judged(low, high)["verdict"] == HOLDS and judged(low, high)["value"] == pytest.approx(0.5)
    assert judged(low, high, rises=False)["verdict"] == FAILS
    assert judged([run(START, 0, near(60, 40))], [run(FULL, 0, near(60, 10))])["verdict"] == FAILS
    tie = judged(low, [run(FULL, 0, near(60, 11))])
    assert tie["verdict"] == UNDECIDED and tie["low"] <= 0 <= tie["high"]
    nothing = judged(low, [run(FULL, 0, near(60, 10))])
    assert nothing["verdict"] == UNDECIDED and np.isnan(nothing["needed"])


def test_the_photos_that_would_decide_it_do():
    rng = np.random.default_rng(0)

    def pair(n):
        first = rng.random(n) < 0.4
        second = np.where(rng.random(n) < 0.16, ~first, first) | (rng.random(n) < 0.03)
        return [run(START, 0, np.where(first, 1, 900))], [run(FULL, 0, np.where(second, 1, 900))]

    small = judged(*pair(80))
    assert small["verdict"] == UNDECIDED and small["needed"] > 80
    # the same photos again and again: the difference stays, its interval shrinks
    times = int(np.ceil(1.2 * small["needed"] / 80))
    rng = np.random.default_rng(0)
    before, after = pair(80)
    again = [
        pd.concat([one[0]] * times).assign(photo_id=[f"p{i}" for i in range(80 * times)]) for one in (before, after)
    ]
    assert judged([again[0]], [again[1]])["low"] * judged([again[0]], [again[1]])["high"] > 0


def test_seeds_are_averaged_and_a_checkpoint_that_was_only_asked_counts_once():
    before = [run(START, seed, near(40, 10)) for seed in range(3)]
    after = [run(FULL, seed, near(40, 10 + 5 * seed)) for seed in range(3)]
    row = judged(before, after)
    assert row["value"] == pytest.approx(5 / 40) and (row["n"], row["seeds"]) == (40, 3)
    asked = judged([run(DIRECT, 0, near(40, 0))], before[:1])
    assert asked["seeds"] == 1 and asked["verdict"] == HOLDS


def test_the_claims_are_about_variants_that_exist_and_what_was_not_run_is_left_out():
    known = {*VARIANTS, DIRECT, LIVE, CACHED}
    for claim in CLAIMS:
        assert {claim.before, claim.after} <= known and claim.metric in METRICS
    assert len({claim.says for claim in CLAIMS}) == len(CLAIMS)
    assert replicate(pd.concat([run(FULL, 0, near(10, 5))])).empty
    two = replicate(pd.concat([run(FULL, 0, near(20, 9)), run("no tools", 0, near(20, 0))]))
    assert two["says"].tolist() == ["all tools place more than none"]


def test_the_reference_run_trains_what_the_claims_compare():
    compared = {name for claim in CLAIMS for name in (claim.before, claim.after)}
    made = set(ablations.choose(get_profile("reference").ablation.variants))
    assert compared - set(replication.ASKED_ONCE) == made


def test_the_table_reads_in_points_and_names_what_would_decide():
    runs = pd.concat([run(START, 0, near(60, 10)), run(FULL, 0, near(60, 11)), run("no tools", 0, near(60, 0), 0.1)])
    text = markdown(replicate(runs))
    head, _, *rows = text.strip().splitlines()
    assert head.count("|") == 6 and all(row.count("|") == 6 for row in rows)
    (rl,) = (row for row in rows if "RL places more" in row)
    assert "+1.7 points (" in rl and "| 60 × 1 |" in rl and "undecided at this size; about" in rl
    (none,) = (row for row in rows if "than none" in row)
    assert none.endswith("| holds |") and "paper" in none


@pytest.mark.parametrize(("number", "shown"), [(99.2, 100), (101, 110), (1234, 1300), (38, 38), (10_001, 11_000)])
def test_the_number_of_photos_is_rounded_up_to_two_digits(number, shown):
    assert replication._rounded(number) == shown


def test_the_untrained_variants_are_known():
    assert not ablations.VARIANTS[START].trained and ablations.VARIANTS[FULL].trained
