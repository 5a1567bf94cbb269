"""Which results of a search were evidence: labels in two steps, each with its method, and how well methods agree.

First what the teacher says in the turn after the search: its `<useful>` list ("declared"), or else the results that its
reasoning cites as [2] ("cited"). For searches about which it says nothing, a judge that is shown results and truth
("judge"). What differs from the paper's code: each label says where it comes from, a judge's answer is read strictly
and a broken one leaves the search unlabelled, and agreement is measured, against the miniature world's truth too.

    rows = label(annotation.trajectories, judge=from_environment(temperature=0), file="outputs/mine/judged.jsonl")
    agreement_table({"cited": cited(rows), "judge": judged(rows, judge), "world": carried(rows)})
"""

import copy
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed

import pandas as pd

from reverse_lib.annotation.teachers import AnnotationStopped
from reverse_lib.environment import NO_TURNS, AgentError, AgentRefused, assistant_message, text_block
from reverse_lib.profiles import FAILURES_IN_A_ROW
from reverse_lib.search import TEXT
from reverse_lib.trajectory import SEARCH_TOOLS, Journal, Observation, Trajectory, Turn, cited_indices, parse_turn

Flags = tuple[bool, ...]  # for each result shown, whether it is useful
Labels = dict[tuple[int, int], Flags]  # by the place of a trajectory in its list (from 0) and the turn (from 1)

JUDGE_PROMPT = """\
A photo was taken at a place that you are told. An agent that did not know the place searched the web for it. Say \
which of the results were evidence: a result is useful if it is about that very place and helps to locate it. A page \
about another place of the same name is not; neither is a shop or a restaurant that only bears the name, nor a page \
that says nothing about where the place is.
Think inside <think></think> if you like. Then write the numbers of the useful results as a JSON list, once: \
<useful>[1, 3]</useful>, or <useful>[]</useful> if there is none."""
AGAIN = "That could not be read. Write the numbers from 1 to {n} as a JSON list, once: <useful>[1, 3]</useful>"
TRUTH = "The photo was taken here: "


def searches(trajectory: Trajectory) -> dict[int, Observation]:
    """Each search that brought results, by the turn (from 1) that made it."""
    return {
        turn: call
        for turn, step in enumerate(trajectory.steps, start=1)
        if (call := step.observation) and call.tool in SEARCH_TOOLS and call.status == "ok" and call.results
    }


def as_flags(useful: Iterable[int], n: int) -> Flags:
    """1-based positions of useful results as a flag for each of `n` results."""
    positions = set(useful)
    return tuple(i in positions for i in range(1, n + 1))


def declared(trajectories: Sequence[Trajectory]) -> Labels:
    """What the turn after each search lists as `<useful>`; a search without a readable list is not labelled."""
    return {
        key: as_flags(turn.useful, len(search.results))
        for key, search, turn in _every_search(trajectories)
        if turn and turn.useful is not None
    }


def cited(trajectories: Sequence[Trajectory], after: str = "") -> Labels:
    """What the reasoning in the turn after each search cites; where it cites nothing, the search is not labelled.

    Args:
        trajectories: Of any agent.
        after: Only what follows the first of these words counts, such as " Use ": what a teacher cites may be what it
            rejects.
    """
    labels: Labels = {}
    for key, search, turn in _every_search(trajectories):
        think, n = (turn.think if turn else None) or "", len(search.results)
        if positions := cited_indices(think.partition(after)[2] if after else think, n):
            labels[key] = as_flags(positions, n)
    return labels


def carried(trajectories: Sequence[Trajectory]) -> Labels:
    """The labels that the results themselves carry."""
    return {
        key: as_flags(search.useful, len(search.results))
        for key, search, _ in _every_search(trajectories)
        if search.labelled
    }


def judged(
    trajectories: Sequence[Trajectory],
    judge: Callable,
    file: str | os.PathLike[str] | None = None,
    only: set[tuple[int, int]] | None = None,
) -> Labels:
    """What a judge says that sees results and truth: one request a search, a second one where it can't be read.

    Args:
        trajectories: Those without a known place are not judged.
        judge: An agent as `environment.rollout` takes it, such as a `models.Endpoint`, then asked without tools.
        file: A `.jsonl` file that keeps each verdict at once; what it holds is not asked again.
        only: The searches to judge, as keys of `Labels`; all when None.

    Returns:
        The labels; a search whose verdict could not be read twice, or that the endpoint refuses, has none.

    Raises:
        AnnotationStopped: The endpoint failed, or refused search after search (`profiles.FAILURES_IN_A_ROW`); verdicts
            so far are in the file, if there is one.
    """
    judge = judge.without_tools() if hasattr(judge, "without_tools") else judge
    name = str(getattr(judge, "name", "") or type(judge).__name__)
    questions = {
        key: (_question(trajectories[key[0]], search), len(search.results))
        for key, search, _ in _every_search(trajectories)
        if trajectories[key[0]].lat is not None and (only is None or key in only)
    }
    by_digest = {_digest(question): (question, n) for question, n in questions.values()}
    journal = Journal(file) if file is not None else None
    verdicts = {row["asked"]: row["useful"] for row in journal.rows if row["judge"] == name} if journal else {}
    waiting = {digest: asked for digest, asked in by_digest.items() if digest not in verdicts}
    for digest, useful in _ask_all(judge, waiting):
        verdicts[digest] = useful
        if journal is not None:
            journal.append({"judge": name, "asked": digest, "useful": useful})
    answers = {key: (verdicts.get(_digest(question)), n) for key, (question, n) in questions.items()}
    return {key: as_flags(useful, n) for key, (useful, n) in answers.items() if useful is not None}


def label(
    trajectories: Sequence[Trajectory], judge: Callable | None = None, file: str | os.PathLike[str] | None = None
) -> list[Trajectory]:
    """Copies of trajectories in which every search is labelled that anyone can label.

    Labels that results already carry stay. Elsewhere what the teacher lists counts, else what it cites, else the judge.

    Args:
        trajectories: As annotated.
        judge: Asked about searches that nothing else labels, see `judged`; None leaves them unlabelled.
        file: Keeps the judge's verdicts.

    Returns:
        The copies. Each labelled search names its method in `label_method`, "world" where the labels came with the
        results; addresses of useful results of text searches are added to `evidence`.
    """
    unlabelled = {key for key, search, _ in _every_search(trajectories) if not search.labelled}
    labels = {key: ("cited", flags) for key, flags in cited(trajectories).items()}
    labels |= {key: ("declared", flags) for key, flags in declared(trajectories).items()}
    if judge is not None:
        verdicts = judged(trajectories, judge, file, unlabelled - labels.keys())
        labels |= {key: ("judge", flags) for key, flags in verdicts.items()}
    copies = copy.deepcopy(list(trajectories))
    for place, turn in sorted(unlabelled & labels.keys()):
        set_labels(copies[place], turn, *labels[place, turn])
    for observation in itertools.chain.from_iterable(trajectory.observations for trajectory in copies):
        if observation.labelled:
            observation.label_method = observation.label_method or "world"
    return copies


def set_labels(trajectory: Trajectory, turn: int, method: str, flags: Flags) -> None:
    """Labels the search of a turn; addresses of its useful results, if it searched for text, join `evidence`."""
    search = trajectory.steps[turn - 1].observation
    search.labelled, search.label_method = True, method
    for result, flag in zip(search.results, flags, strict=True):
        result["useful"] = flag
    if search.tool == TEXT:
        useful = [result["url"] for result in search.results if result["useful"] and result.get("url")]
        trajectory.evidence = list(dict.fromkeys([*trajectory.evidence, *useful]))


def agreement(labels: Labels, reference: Labels) -> dict[str, float]:
    """Compares two labellings of the same trajectories on the searches that both label.

    Returns:
        precision: of the results that `labels` calls useful, the share that the reference does; recall: of those that
        the reference calls useful, the share that `labels` does; kappa: Cohen's, agreement beyond what chance would
        bring, given how often each says "useful", 1 is full; n: results that both label; covered: of the searches that
        the reference labels, the share that `labels` does. NaN where a denominator is zero.

    Raises:
        ValueError: A search has another number of results in each: they are not of the same trajectories.
    """
    from sklearn.metrics import cohen_kappa_score, precision_score, recall_score  # takes a second

    shared = sorted(labels.keys() & reference.keys())
    for key in shared:
        if len(labels[key]) != len(reference[key]):
            counts = f"{len(labels[key])} and {len(reference[key])}"
            raise ValueError(f"search {key}: {counts} results; compare labels of the same trajectories")
    ours, theirs = ([flag for key in shared for flag in flags[key]] for flags in (labels, reference))  # (n,)
    return {
        "precision": precision_score(theirs, ours, zero_division=math.nan) if ours else math.nan,
        "recall": recall_score(theirs, ours, zero_division=math.nan) if ours else math.nan,
        "kappa": cohen_kappa_score(ours, theirs) if len({*ours, *theirs}) > 1 else math.nan,
        "n": len(ours),
        "covered": len(shared) / len(reference) if reference else math.nan,
    }


def agreement_table(labels: Mapping[str, Labels]) -> pd.DataFrame:
    """Every labelling against every one named after it, so name the truth last.

    Returns:
        Index (labels, against); the columns that `agreement` names.
    """
    pairs = list(itertools.combinations(labels, 2))
    index = pd.MultiIndex.from_tuples(pairs, names=["labels", "against"])
    rows = [agreement(labels[name], labels[other]) for name, other in pairs]
    return pd.DataFrame(rows, index, ["precision", "recall", "kappa", "n", "covered"])


def _every_search(
    trajectories: Sequence[Trajectory],
) -> Iterator[tuple[tuple[int, int], Observation, Turn | None]]:
    """Each search that brought results: its key in `Labels`, itself, and the turn after it, if there is one."""
    for place, trajectory in enumerate(trajectories):
        following = [*trajectory.turns()[1:], None]
        for turn, search in searches(trajectory).items():
            yield (place, turn), search, following[turn - 1]


def _question(trajectory: Trajectory, search: Observation) -> str:
    truth = f"{trajectory.country or 'unknown country'}, {trajectory.city or 'unknown city'}"
    asked = json.dumps(search.arguments, ensure_ascii=False)
    results = search.text.removesuffix(NO_TURNS).rstrip("\n")
    return f"{TRUTH}{truth}, {trajectory.lat:.4f}, {trajectory.lon:.4f}\n{search.tool}: {asked}\nResults:\n{results}"


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:16]


def _ask_all(judge: Callable, questions: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, list[int] | None]]:
    """Verdicts by digest as they come in; after a failure nothing more is asked, and what is under way comes in."""
    refused, failure = 0, None
    pool = ThreadPoolExecutor(getattr(judge, "concurrency", 1))
    try:
        futures = {pool.submit(_verdict, judge, *question): digest for digest, question in questions.items()}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
                refused = 0
            except AgentError as error:
                refused = refused + 1 if isinstance(error, AgentRefused) else FAILURES_IN_A_ROW
                if refused >= FAILURES_IN_A_ROW:
                    failure = failure or error
                    for other in futures:
                        other.cancel()
            except CancelledError:
                continue
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if failure is not None:
        stopped = f"{failure}. Verdicts so far are kept, where a file was given; run it again"
        raise AnnotationStopped(stopped) from failure


def _verdict(judge: Callable, question: str, n: int) -> list[int] | None:
    """Positions called useful; None if the answer could not be read, twice."""
    messages = [
        {"role": role, "content": [text_block(text)]} for role, text in (("system", JUDGE_PROMPT), ("user", question))
    ]
    for _ in range(2):
        (reply,) = judge([messages])
        text = reply if isinstance(reply, str) else reply.text
        useful = parse_turn(text).useful
        if useful is not None and all(position <= n for position in useful):
            return useful
        again = {"role": "user", "content": [text_block(AGAIN.format(n=n))]}
        messages = [*messages, assistant_message(text), again]
    return None
