"""Which results of a search were evidence: labels in two steps, each with its method, and how well methods agree.

First what the teacher says in the turn after the search: its `<useful>` list ("declared"), or else the results that its
reasoning cites as [2] ("cited"). For searches about which it says nothing, a judge that is shown results and truth
("judge"). What differs from the paper's code: each label says where it comes from, a judge's answer is read strictly
and a broken one leaves the search unlabelled, and agreement is measured, against the miniature world's truth too.

    rows = label(annotation.trajectories, judge=from_environment(temperature=0), file="outputs/mine/judged.jsonl")
    agreement_table({"cited": cited(rows), "judge": judged(rows, judge), "world": known(rows)})
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reverse_lib.annotation.teachers import AnnotationStopped
from reverse_lib.environment import NO_TURNS, AgentError, AgentRefused, assistant_message, text_block
from reverse_lib.trajectory import SEARCH_TOOLS, Journal, Observation, Step, Trajectory, Turn, cited_indices, parse_turn

METHODS = ("declared", "cited", "judge", "world")
Search = tuple[int, int]  # place of a trajectory in its list, place of the step that searched
Labels = dict[Search, tuple[bool, ...]]  # for each result shown, whether it is useful

JUDGE_PROMPT = """\
A photo was taken at a place that you are told. An agent that did not know the place searched the web for it. Say \
which of the results were evidence: a result is useful if it is about that very place and helps to locate it. A page \
about another place of the same name is not; neither is a shop or a restaurant that only bears the name, nor a page \
that says nothing about where the place is.
Think inside <think></think> if you like. Then write the numbers of the useful results as a JSON list, once: \
<useful>[1, 3]</useful>, or <useful>[]</useful> if there is none."""
AGAIN = "That could not be read. Write the numbers from 1 to {n} as a JSON list, once: <useful>[1, 3]</useful>"
TRUTH = "The photo was taken here: "


def declared(trajectories: Sequence[Trajectory]) -> Labels:
    """What the turn after each search lists as `<useful>`; a search without a readable list is not labelled."""
    return {
        key: tuple(i in turn.useful for i in range(1, len(seen.results) + 1))
        for key, seen, turn in _searches(trajectories)
        if turn is not None and turn.useful is not None
    }


def cited(trajectories: Sequence[Trajectory], after: str = "") -> Labels:
    """What the reasoning in the turn after each search cites; where it cites nothing, the search is not labelled.

    Args:
        trajectories: Of any agent.
        after: Only what follows the first of these words counts, such as " Use ": what a teacher cites may be what it
            rejects.
    """
    found: Labels = {}
    for key, seen, turn in _searches(trajectories):
        think = turn.think if turn is not None and turn.think else ""
        n = len(seen.results)
        positions = cited_indices(think.partition(after)[2] if after else think, n)
        if positions:
            found[key] = tuple(i in positions for i in range(1, n + 1))
    return found


def known(trajectories: Sequence[Trajectory], method: str | None = None) -> Labels:
    """The labels that the results themselves carry; with `method`, only those made so."""
    return {
        key: tuple(i in seen.useful for i in range(1, len(seen.results) + 1))
        for key, seen, _ in _searches(trajectories)
        if seen.labelled and method in (None, seen.label_method)
    }


def judged(
    trajectories: Sequence[Trajectory],
    judge: Callable,
    file: str | os.PathLike[str] | None = None,
    only: set[Search] | None = None,
    in_a_row: int = 5,
    progress: Callable[[int], object] | None = None,
) -> Labels:
    """What a judge says that sees results and truth: one request a search, a second one where it can't be read.

    Args:
        trajectories: Those without a known place are not judged.
        judge: An agent (conversations -> texts), such as an `endpoint.Endpoint`, which is then asked without tools.
        file: A `.jsonl` file that keeps each verdict at once; what it holds is not asked again.
        only: The searches to judge; all when None.
        in_a_row: So many refusals of the endpoint in a row stop the run.
        progress: Called with the number of searches that were just judged.

    Returns:
        The labels; a search whose verdict could not be read twice, or that the endpoint refuses, has none.

    Raises:
        AnnotationStopped: The endpoint failed; verdicts so far are in the file, if there is one.
    """
    judge = judge.without_tools() if hasattr(judge, "without_tools") else judge
    name = str(getattr(judge, "name", "") or type(judge).__name__)
    asked: dict[Search, tuple[str, int]] = {
        key: (_question(trajectories[key[0]], seen), len(seen.results))
        for key, seen, _ in _searches(trajectories)
        if trajectories[key[0]].lat is not None and (only is None or key in only)
    }
    journal = Journal(file) if file is not None else None
    verdicts = {row["asked"]: row["useful"] for row in journal.rows if row["judge"] == name} if journal else {}
    questions = {_digest(question): (question, n) for question, n in asked.values()}
    waiting = {key: value for key, value in questions.items() if key not in verdicts}
    for key, positions in _ask_all(judge, waiting, in_a_row):
        verdicts[key] = positions
        if journal is not None:
            journal.append({"judge": name, "asked": key, "useful": positions})
        if progress is not None:
            progress(1)
    answers = {key: (verdicts.get(_digest(question)), n) for key, (question, n) in asked.items()}
    return {
        key: tuple(i in positions for i in range(1, n + 1))
        for key, (positions, n) in answers.items()
        if positions is not None
    }


def label(
    trajectories: Sequence[Trajectory],
    judge: Callable | None = None,
    methods: Sequence[str] = ("declared", "cited"),
    file: str | os.PathLike[str] | None = None,
    known_as: str = "world",
    progress: Callable[[int], object] | None = None,
) -> list[Trajectory]:
    """Copies of trajectories in which every search is labelled that anyone can label.

    Args:
        trajectories: As annotated. Labels that their results already carry stay.
        judge: Asked about searches that no other method labels, see `judged`; None leaves them unlabelled.
        methods: Of what the teacher itself says, the first one that says something counts; "declared", "cited".
        file: Keeps the judge's verdicts.
        known_as: The method of labels that came with the results and have none yet.
        progress: See `judged`.

    Returns:
        The copies. Each labelled search names its method in `label_method`; addresses of useful results of text
        searches are added to `evidence`.

    Raises:
        ValueError: A method is unknown.
    """
    readings = {"declared": declared, "cited": cited}
    if unknown := [method for method in methods if method not in readings]:
        raise ValueError(f"label: no method {unknown[0]!r} to read a turn; choose from {', '.join(readings)}")
    missing = {key for key, seen, _ in _searches(trajectories) if not seen.labelled}
    made: dict[Search, tuple[str, tuple[bool, ...]]] = {}
    for method in methods:
        found = readings[method](trajectories)
        made |= {key: (method, found[key]) for key in missing - made.keys() if key in found}
    if judge is not None:
        verdicts = judged(trajectories, judge, file, missing - made.keys(), progress=progress)
        made |= {key: ("judge", flags) for key, flags in verdicts.items()}
    return [_labelled(row, place, made, known_as) for place, row in enumerate(trajectories)]


@dataclass(frozen=True)
class Agreement:
    """How far labels agree with others, over results.

    Attributes:
        precision: Of the results they call useful, the share that the others do.
        recall: Of the results the others call useful, the share that they do.
        kappa: Cohen's: agreement beyond what chance would bring, given how often each says "useful"; 1 is full.
        n: Results that both label.
    """

    precision: float
    recall: float
    kappa: float
    n: int


def agreement(labels: Labels, reference: Labels) -> Agreement:
    """Compares two labellings of the same trajectories on the searches that both label.

    Kappa: https://en.wikipedia.org/wiki/Cohen%27s_kappa

    Returns:
        Precision, recall, kappa (NaN where a denominator is zero) and n.

    Raises:
        ValueError: A search has another number of results in each: they are not of the same trajectories.
    """
    shared = sorted(labels.keys() & reference.keys())
    for key in shared:
        if len(labels[key]) != len(reference[key]):
            counts = f"{len(labels[key])} and {len(reference[key])}"
            raise ValueError(f"search {key}: {counts} results; compare labels of the same trajectories")
    ours, theirs = (
        np.array([flag for key in shared for flag in one[key]], bool) for one in (labels, reference)
    )  # (n,)
    n, hits = len(ours), int((ours & theirs).sum())
    observed = _share(int((ours == theirs).sum()), n)
    a, b = _share(int(ours.sum()), n), _share(int(theirs.sum()), n)
    by_chance = a * b + (1 - a) * (1 - b)
    kappa = (observed - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan
    return Agreement(_share(hits, int(ours.sum())), _share(hits, int(theirs.sum())), kappa, n)


def agreement_table(labels: Mapping[str, Labels]) -> pd.DataFrame:
    """Every labelling against every one named after it, so name the truth last.

    Returns:
        Index (labels, against); columns precision, recall, kappa, n, covered (share of the searches labelled by
        `against` that `labels` labels too).
    """
    rows = {
        (one, other): dataclasses.asdict(agreement(labels[one], labels[other]))
        | {"covered": _share(len(labels[one].keys() & labels[other].keys()), len(labels[other]))}
        for one, other in itertools.combinations(labels, 2)
    }
    index = pd.MultiIndex.from_tuples(rows, names=["labels", "against"])
    return pd.DataFrame(rows.values(), index, ["precision", "recall", "kappa", "n", "covered"])


def _searches(trajectories: Sequence[Trajectory]) -> Iterator[tuple[Search, Observation, Turn | None]]:
    """Every search that brought results: its key, what came back, and the turn after it."""
    for place, trajectory in enumerate(trajectories):
        turns = [*trajectory.turns(), None]
        for number, step in enumerate(trajectory.steps):
            seen = step.observation
            if seen is not None and seen.tool in SEARCH_TOOLS and seen.status == "ok" and seen.results:
                yield (place, number), seen, turns[number + 1]


def _question(trajectory: Trajectory, seen: Observation) -> str:
    truth = f"{trajectory.country or 'unknown country'}, {trajectory.city or 'unknown city'}"
    asked = json.dumps(seen.arguments, ensure_ascii=False)
    results = seen.text.removesuffix(NO_TURNS).rstrip("\n")
    return f"{TRUTH}{truth}, {trajectory.lat:.4f}, {trajectory.lon:.4f}\n{seen.tool}: {asked}\nResults:\n{results}"


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:16]


def _ask_all(
    judge: Callable, questions: Mapping[str, tuple[str, int]], in_a_row: int
) -> Iterator[tuple[str, list[int] | None]]:
    """Verdicts by digest as they come in; after a failure nothing more is asked, and what is under way comes in."""
    refused, failure = 0, None
    pool = ThreadPoolExecutor(getattr(judge, "concurrency", 1))
    try:
        futures = {pool.submit(_verdict, judge, *question): key for key, question in questions.items()}
        for future in as_completed(futures):
            if future.cancelled():
                continue
            error = future.exception()
            refused = refused + 1 if isinstance(error, AgentRefused) else 0
            if error is None:
                yield futures[future], future.result()
            elif not isinstance(error, AgentRefused) or refused >= in_a_row:
                failure = failure or error
                for other in futures:
                    other.cancel()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if isinstance(failure, AgentError):
        raise AnnotationStopped(
            f"{failure}. Verdicts so far are kept, where a file was given; run it again"
        ) from failure
    if failure is not None:
        raise failure


def _verdict(judge: Callable, question: str, n: int) -> list[int] | None:
    """Positions called useful; None if the answer could not be read, twice."""
    system, user = (
        {"role": role, "content": [text_block(text)]} for role, text in (("system", JUDGE_PROMPT), ("user", question))
    )
    messages = [system, user]
    for _ in range(2):
        (reply,) = judge([messages])
        text = reply if isinstance(reply, str) else reply.text
        useful = parse_turn(text).useful
        if useful is not None and all(position <= n for position in useful):
            return useful
        again = {"role": "user", "content": [text_block(AGAIN.format(n=n))]}
        messages = [*messages, assistant_message(text), again]
    return None


def _labelled(
    trajectory: Trajectory, place: int, made: Mapping[Search, tuple[str, tuple[bool, ...]]], known_as: str
) -> Trajectory:
    steps, evidence = [], dict.fromkeys(trajectory.evidence)
    for number, step in enumerate(trajectory.steps):
        seen = step.observation
        if (place, number) in made:
            method, flags = made[place, number]
            results = [result | {"useful": flag} for result, flag in zip(seen.results, flags, strict=True)]
            seen = dataclasses.replace(seen, results=results, labelled=True, label_method=method)
            if seen.tool == "text_search_tool":
                evidence |= dict.fromkeys(result["url"] for result in results if result["useful"] and result.get("url"))
        elif seen is not None and seen.labelled and not seen.label_method:
            seen = dataclasses.replace(seen, label_method=known_as)
        steps.append(Step(step.text, seen))
    return dataclasses.replace(trajectory, steps=steps, evidence=list(evidence), extra=dict(trajectory.extra))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
