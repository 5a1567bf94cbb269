"""Evaluating an agent: a row a photo, and a folder in which nothing is asked twice, mixed or lost at a kill."""

import dataclasses
import json
import math
import os
import signal
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from environment_fakes import FakeSearch, call_text
from environment_fakes import photo as make_photo

from reverse_lib.environment import FULL, TINY, Reply
from reverse_lib.evaluation import causes, evaluate, service_failed, summarize, to_frame
from reverse_lib.profiles import Budgets
from reverse_lib.trajectory import load_trajectories

PHOTOS = [replace(make_photo(f"p{i:02}"), regions=((0, 0, 9, 9),)) for i in range(12)]


@dataclass
class Agent:
    """Searches once, then answers Valencia; remembers whom it saw, and can be stopped before it sees a photo."""

    temperature: float = 0.0
    name: str = "agent"
    stops_at: str = ""
    query: str = "town"

    def __post_init__(self):
        self.seen = []

    def respond_for(self, photo_ids, conversations):
        if self.stops_at in photo_ids:
            self.stop()
        self.seen += photo_ids
        searched = [any(message["role"] == "tool" for message in talk) for talk in conversations]
        call = call_text("text_search_tool", query=self.query)
        answer = "<think>Sure.</think><useful>[2]</useful><answer>Spain, Valencia, 39.47, -0.38</answer>"
        return [answer if results else call for results in searched]

    def stop(self):
        raise KeyboardInterrupt


class Killed(Agent):
    def stop(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Flaky(FakeSearch):
    """A search that is down for some photos."""

    def __init__(self, *down):
        super().__init__()
        self.down = down

    def text(self, photo_id, query, call=0):
        return super().text(photo_id, "down" if photo_id in self.down else query, call)


class Refusing(Agent):
    """Answers one conversation at a time, like a server, and refuses some photos."""

    concurrency = 2
    refuses = ("p02",)

    def respond_for(self, photo_ids, conversations):
        if set(self.refuses) & set(photo_ids):
            raise RuntimeError("HTTP 400, this conversation is refused")
        return super().respond_for(photo_ids, conversations)


def run(agent, folder, photos=PHOTOS, search=None, **settings):
    return evaluate(agent, photos, search or FakeSearch(), folder=folder, **{"batch_size": 1, **settings})


def test_a_trajectory_becomes_a_row_with_its_calls_error_and_reward(make_trajectory):
    frame = to_frame([make_trajectory(answer="United Kingdom, London, 51.5074, -0.1278"), make_trajectory(answer=None)])
    row, silent = frame.iloc[0], frame.iloc[1]
    assert row["km"] == pytest.approx(343.6, abs=0.2)
    assert (row["calls_zoom"], row["calls_image"], row["calls_text"]) == (1, 0, 1)
    assert row["evidence_mcc"] == row["box_iou"] == 1.0
    accuracy = 0.6 + (343.56 - 200) / (750 - 200) * (0.4 - 0.6)
    assert row["accuracy"] == pytest.approx(accuracy, abs=1e-3)
    assert row["reward"] == pytest.approx(0.6 * accuracy + 0.1 + 0.3 * (0.2 + 0.1 + 0.3), abs=1e-3)
    assert math.isnan(silent["km"]) and math.isnan(silent["pred_lat"])
    assert not silent["parsed"] and silent["pred_country"] == ""


def test_a_query_hits_where_a_text_search_brought_evidence_and_is_unknown_without_one(make_trajectory):
    hit, missed, unknown, silent, empty = (make_trajectory() for _ in range(5))
    for result in missed.steps[1].observation.results:
        result["useful"] = False
    unknown.steps[1].observation.labelled = False
    shown = silent.steps[1].observation
    silent.steps[1].observation = dataclasses.replace(shown, tool="image_search_tool")
    empty.steps[1].observation = dataclasses.replace(shown, status="miss", results=[], labelled=False)
    frame = to_frame([hit, missed, unknown, silent, empty])
    assert frame["query_hit"].fillna(-1).tolist() == [1.0, 0.0, -1.0, -1.0, 0.0]
    assert (summarize(frame).loc["query_hit", ["value", "n"]] == [1 / 3, 3]).all()


@pytest.mark.parametrize(
    ("trusts", "useful", "changes", "precision", "recall"),
    [
        ("[2]", (False, True), {}, 1, 1),
        ("[1, 2]", (False, True), {}, 0.5, 1),
        ("[1]", (False, True), {}, 0, 0),
        ("[2, 7]", (False, True), {}, 0.5, 1),  # a result that was never shown
        ("[]", (False, True), {}, None, 0),  # nothing called useful: no precision
        ("", (False, True), {}, None, 0),
        ("[]", (False, False), {}, None, None),
        ("[1]", (False, False), {}, 0, None),
        ("[2]", (False, True), {"labelled": False}, None, None),
        ("[2]", (False, True), {"repeated": True}, None, None),
    ],
)
def test_evidence_precision_and_recall_are_of_labelled_searches(
    make_trajectory, trusts, useful, changes, precision, recall
):
    trajectory = make_trajectory()
    shown, last = trajectory.steps[1].observation, trajectory.steps[2]
    for result, flag in zip(shown.results, useful, strict=True):
        result["useful"] = flag
    vars(shown).update(changes)
    last.text = last.text.replace("<useful>[2]</useful>", trusts and f"<useful>{trusts}</useful>")
    row = to_frame([trajectory]).iloc[0]
    expected = [math.nan if value is None else value for value in (precision, recall)]
    assert row[["evidence_precision", "evidence_recall"]].tolist() == pytest.approx(expected, nan_ok=True)


def test_an_agent_is_run_over_photos_in_order_and_a_failing_service_is_counted_and_never_scored():
    photos = [PHOTOS[1], replace(PHOTOS[0], lat=-33.8688, lon=151.2093, country="Australia", city="Sydney"), PHOTOS[2]]
    frame = evaluate(Agent(), photos, Flaky("p02"))
    assert frame["photo_id"].tolist() == ["p01", "p00", "p02"]
    assert frame["km"].tolist()[:2] == pytest.approx([0.0, 17_417.5], abs=0.1)
    assert frame["calls_text"].tolist() == [1, 1, 1] and frame["evidence_mcc"].tolist()[:2] == [1.0, 1.0]
    assert frame.loc[2, "end"] == "service_error" and math.isnan(frame.loc[2, "reward"])
    assert summarize(frame).loc["country", ["value", "n"]].tolist() == [0.5, 2]


def test_photos_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="mine: photo without known latitude"):
        evaluate(Agent(), [replace(PHOTOS[0], photo_id="mine", lat=None)], FakeSearch())
    with pytest.raises(ValueError, match="occurs twice"):
        evaluate(Agent(), [PHOTOS[0]] * 2, FakeSearch())
    with pytest.raises(ValueError, match="no photos"):
        evaluate(Agent(), [], FakeSearch())


def test_a_folder_keeps_the_same_table_and_its_trajectories_and_a_finished_run_asks_nothing(tmp_path):
    kept = run(Agent(), tmp_path, batch_size=5)
    plain = evaluate(Agent(), PHOTOS, FakeSearch())
    columns = ["trajectory", "seconds"]
    pd.testing.assert_frame_equal(kept.drop(columns=columns), plain.drop(columns=columns))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.parquet", "run.json", "trajectories.jsonl"]
    table = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(table, kept.drop(columns="trajectory"), check_dtype=False)
    rows = load_trajectories(tmp_path / "trajectories.jsonl")
    assert [row.photo_id for row in rows] == table["photo_id"].tolist()
    assert rows[0].steps[0].observation.arguments == {"query": "town"} and rows[0].steps[1].text.endswith("</answer>")
    agent = Agent()
    pd.testing.assert_frame_equal(run(agent, tmp_path), kept)
    assert agent.seen == []


def test_a_killed_run_goes_on_without_asking_again_what_it_had_finished(tmp_path):
    child = os.fork()
    if child == 0:
        run(Killed(stops_at="p09"), tmp_path)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trajectories.jsonl"]
    assert len(load_trajectories(tmp_path / "trajectories.jsonl")) == 9
    with open(tmp_path / "trajectories.jsonl", "a") as file:
        file.write('{"photo_id": "p09", "st')  # killed while it wrote
    agent, ended = Agent(), []
    frame = run(agent, tmp_path, progress=ended.append)
    assert agent.seen == ["p09", "p09", "p10", "p10", "p11", "p11"]  # two turns each
    assert frame["photo_id"].tolist() == [photo.photo_id for photo in PHOTOS] and sum(ended) == 12
    assert [row.photo_id for row in load_trajectories(tmp_path / "trajectories.jsonl")] == frame["photo_id"].tolist()
    assert frame["reward"].notna().all() and summarize(frame).loc["within_25km", "value"] == 1


def test_photos_whose_service_failed_are_counted_and_asked_again_by_the_next_run(tmp_path):
    frame = run(Agent(), tmp_path, search=Flaky("p03", "p07"))
    assert service_failed(frame) == ["p03", "p07"] and summarize(frame).loc["parsed", "n"] == 10
    with pytest.raises(KeyboardInterrupt):
        run(Agent(stops_at="p07"), tmp_path, search=Flaky())
    agent = Agent()
    again = run(agent, tmp_path, search=Flaky("p07"))
    assert set(agent.seen) == {"p07"}
    assert service_failed(again) == ["p07"] and again["photo_id"].tolist() == frame["photo_id"].tolist()


@pytest.mark.parametrize(
    ("reply", "tokens", "seconds"),
    [
        (lambda text: Reply(text, token_ids=(1, 2, 3), seconds=0.5), 6, 1.0),  # two turns each
        (lambda text: Reply(text, usage={"tokens_out": 7, "uncounted": 0}, seconds=2.5), 14, 5.0),
        (lambda text: Reply(text, usage={"tokens_out": 7, "uncounted": 1}, seconds=2.5), None, 5.0),
        (lambda text: text, None, None),
    ],
)
def test_what_a_photo_took_is_in_the_table_as_far_as_somebody_counted_it(reply, tokens, seconds, tmp_path):
    class Counted(Agent):
        def respond_for(self, photo_ids, conversations):
            return [reply(text) for text in super().respond_for(photo_ids, conversations)]

    frame = run(Counted(), tmp_path)
    assert frame["tokens"].tolist() == [tokens] * 12 if tokens else frame["tokens"].isna().all()
    assert frame["seconds"].tolist() == [seconds] * 12 if seconds else (frame["seconds"] > 0).all()
    assert summarize(frame).loc["tokens", "n"] == (12 if tokens else 0)
    assert run(Agent(), tmp_path)["seconds"].tolist() == frame["seconds"].tolist()


def test_a_photo_that_the_agents_server_refuses_is_counted_as_failed_and_asked_again(tmp_path):
    with pytest.raises(RuntimeError, match="refused"):
        run(Refusing(), tmp_path)
    errors = []
    frame = run(Refusing(), tmp_path, on_error=lambda *error: errors.append(error) or True)
    assert len(frame) == 12 and service_failed(frame) == ["p02"] and errors[0][0] == "p02"
    assert summarize(frame).loc["parsed", ["value", "n"]].tolist() == [1, 11]
    assert causes(frame)[2] == "service error" and "refused" in frame["trajectory"][2].extra["error"]
    agent = Refusing()
    agent.refuses = ()
    assert service_failed(run(agent, tmp_path)) == [] and set(agent.seen) == {"p02"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"photos": PHOTOS[:11]}, r"photos '12 \(\w+\)' there, '11 \(\w+\)' here"),
        ({"photos": [*PHOTOS[:11], replace(PHOTOS[11], lat=40.0)]}, "photos"),
        ({"agent": Agent(name="other")}, "agent name 'agent' there, 'other' here"),
        ({"agent": Agent(temperature=0.7)}, "agent temperature 0.0 there, 0.7 here"),
        ({"tools": ["text_search_tool"]}, "tools"),
        ({"budgets": Budgets(text=1)}, r"budgets .*'text': 5.* there, .*'text': 1"),
        ({"interface": FULL}, r"interface 'tiny \(\w+\)' there, 'full"),
        ({"interface": replace(TINY, question="Where?")}, "interface"),
        ({"search": Flaky()}, "search 'FakeSearch' there, 'Flaky' here"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_the_difference_named(tmp_path, changes, named):
    run(Agent(), tmp_path, PHOTOS)
    with pytest.raises(ValueError, match=f"holds another run .*{named}.*name another folder, or delete this one"):
        run(**{"agent": Agent(), "folder": tmp_path, **changes})


def test_another_checkpoint_of_the_same_name_is_another_run(tmp_path):
    torch = pytest.importorskip("torch")
    agent = Agent()
    agent.model = torch.nn.Linear(3, 2)
    run(agent, tmp_path)
    with torch.no_grad():
        agent.model.weight[0, 0] += 0.001
    with pytest.raises(ValueError, match="agent weights"):
        run(agent, tmp_path)


def test_a_run_is_described_without_texts_of_the_agent_that_may_be_keys_and_no_other_folder_is_written_to(tmp_path):
    run(Agent(query="SECRET"), tmp_path)
    file = tmp_path / "run.json"
    facts = json.loads(file.read_text())
    assert facts["agent name"] == "agent" and facts["budgets"]["turns"] == 10 and "SECRET" not in file.read_text()
    file.write_text("{")
    with pytest.raises(ValueError, match="run.json: can't be read"):
        run(Agent(), tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match="holds trajectories, but no run.json"):
        run(Agent(), tmp_path)


def test_a_damaged_line_is_named_with_its_file(tmp_path):
    run(Agent(), tmp_path)
    file = tmp_path / "trajectories.jsonl"
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([first, second[:-30], *rest]))
    with pytest.raises(ValueError, match="trajectories.jsonl, line 2: not a JSON object"):
        run(Agent(), tmp_path)
    file.write_text("\n".join([first, second.replace('"steps"', '"stepz"'), *rest]))
    with pytest.raises(ValueError, match="trajectories.jsonl, photo 'p01': not a trajectory .*stepz"):
        run(Agent(), tmp_path)
