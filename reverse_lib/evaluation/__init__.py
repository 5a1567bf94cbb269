"""Measuring agents: run one over photos, put numbers with intervals on its answers, say why they fail and how sure.

Running an agent:
    evaluate         an agent over photos, with a folder that survives a stop: a row a photo
    to_frame         the same table from trajectories that are there already
    service_failed   photos that say nothing of the agent, since a service failed

Figures:
    METRICS          the names of all of them
    summarize        each with its 95 % interval
    compare          what changed between two runs on the same photos, and whether that can be told
    to_json          a summary as JSON
    published        what others report on the public benchmarks

Stages of training side by side:
    find_stages      the checkpoints of a profile, in the order of training
    load_stage       one of them as an agent
    evaluate_stage   its answers to the test photos
    side_by_side     summaries as one table to read
    where_it_fails   accuracy by what there was to find
    last_stage       the one that is shown in detail
    examples         its best, median and worst trajectory
    describe         what there was to find in photos of the world
    TEACHER, TEST_SPLITS    the key of the upper reference, the splits that are judged on

Why answers are wrong:
    causes           one cause a photo
    count_causes     their shares at each stage, with intervals
    CAUSES           what each is called

How sure an agent is:
    sample_runs      several answers a photo
    combine          one answer out of them, with its spread
    calibrate        a radius from validation photos
    coverage         whether it keeps its promise
    risk_coverage    how often it is wrong when only the surest answers are given
    limit_for        the radius up to which to answer
    abstain          what is left when it answers no further

The paper's claims:
    replicate        each claim with a difference and a verdict
    markdown         that table for a page
    effects          every way of training against one
    DIRECT, LIVE, CACHED    runs that are no variants of training
"""

from reverse_lib.evaluation.claims import CACHED, DIRECT, LIVE, effects, markdown, replicate
from reverse_lib.evaluation.evaluate import evaluate, service_failed, to_frame
from reverse_lib.evaluation.failures import CAUSES, causes, count_causes
from reverse_lib.evaluation.metrics import METRICS, compare, summarize, to_json
from reverse_lib.evaluation.published import published
from reverse_lib.evaluation.stages import (
    TEACHER,
    TEST_SPLITS,
    describe,
    evaluate_stage,
    examples,
    find_stages,
    last_stage,
    load_stage,
    side_by_side,
    where_it_fails,
)
from reverse_lib.evaluation.uncertainty import (
    abstain,
    calibrate,
    combine,
    coverage,
    limit_for,
    risk_coverage,
    sample_runs,
)
