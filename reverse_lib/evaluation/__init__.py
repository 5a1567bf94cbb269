"""evaluation"""

from reverse_lib.evaluation.claims import CACHED, DIRECT, LIVE, effects, markdown, replicate
from reverse_lib.evaluation.evaluate import evaluate, narrate, service_failed, to_frame
from reverse_lib.evaluation.failures import CAUSES, causes, count
from reverse_lib.evaluation.metrics import HALF_CIRCUMFERENCE_KM, METRICS, compare, summarize, to_json
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
