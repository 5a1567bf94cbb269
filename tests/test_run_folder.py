"""Evaluation that resumes: nothing is asked twice, nothing is mixed, and what a killed run finished is there."""

import json
import os
import signal
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from environment_fakes import FakeSearch, call_text
from environment_fakes import photo as make_photo

from reverse_lib.environment import FULL, TINY
from reverse_lib.evaluation import causes, evaluate, service_failed, summarize
from reverse_lib.profiles import Budgets
from reverse_lib.trajectory import load_trajectories

RIGHT = "<think>Sure.</think><answer>Spain, Valencia, 39.47, -0.38</answer>"
PHOTOS = [replace(make_photo(f"p{i:02}"), regions=((0, 0, 9, 9),)) for i in range(12)]


@dataclass
class Agent:
    """Searches once, then answers; remembers whom it saw, and can be stopped before it sees a photo."""

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
        return [RIGHT.replace("</think>", "</think><useful>[2]</useful>") if seen else call for seen in searched]

    def stop(self):
        raise KeyboardInterrupt


class Killed(Agent):
    def stop(self):
        os.kill(os.getpid(), signal.SIGKILL)


def run(agent, folder, photos=PHOTOS, search=None, **settings):
    return evaluate(agent, photos, search or FakeSearch(), folder=folder, **{"batch_size": 1, **settings})


def facts(frame):
    return frame.drop(columns=["trajectory", "seconds"])


def test_a_run_in_a_folder_gives_the_same_table_as_one_without(tmp_path):
    kept = run(Agent(), tmp_path / "run", batch_size=5)
    pd.testing.assert_frame_equal(facts(kept), facts(evaluate(Agent(), PHOTOS, FakeSearch())))
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "results.parquet",
        "run.json",
        "trajectories.jsonl",
    ]


def test_a_killed_run_goes_on_without_asking_again_what_it_had_finished(tmp_path):
    child = os.fork()
    if child == 0:
        run(Killed(stops_at="p09"), tmp_path)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.json", "trajectories.jsonl"]
    assert len(load_trajectories(tmp_path / "trajectories.jsonl")) == 9
    agent = Agent()
    ended = []
    frame = run(agent, tmp_path, progress=ended.append)
    assert agent.seen == ["p09", "p09", "p10", "p10", "p11", "p11"]  # two turns each
    assert frame["photo_id"].tolist() == [photo.photo_id for photo in PHOTOS] and sum(ended) == 12
    assert frame["reward"].notna().all() and summarize(frame).loc["within_25km", "value"] == 1


def test_what_was_finished_at_an_interrupt_is_kept_and_a_line_cut_short_is_not_read(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Agent(stops_at="p05"), tmp_path)
    with open(tmp_path / "trajectories.jsonl", "a") as file:
        file.write('{"photo_id": "p05", "st')
    agent = Agent()
    frame = run(agent, tmp_path)
    assert set(agent.seen) == {f"p{i:02}" for i in range(5, 12)}
    assert [row.photo_id for row in load_trajectories(tmp_path / "trajectories.jsonl")] == frame["photo_id"].tolist()


def test_a_finished_run_asks_nothing_and_gives_the_same_table(tmp_path):
    first = run(Agent(), tmp_path)
    agent = Agent()
    pd.testing.assert_frame_equal(run(agent, tmp_path), first)
    assert agent.seen == []


def test_the_parquet_has_a_row_a_photo_and_the_trajectories_lie_beside_it(tmp_path):
    frame = run(Agent(), tmp_path)
    table = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(table, frame.drop(columns="trajectory"), check_dtype=False)
    rows = load_trajectories(tmp_path / "trajectories.jsonl")
    assert [row.photo_id for row in rows] == table["photo_id"].tolist()
    assert rows[0].steps[0].observation.arguments == {"query": "town"} and rows[0].steps[1].text.endswith("</answer>")


class Flaky(FakeSearch):
    """A search that is down for some photos."""

    def __init__(self, *down):
        super().__init__()
        self.down = down

    def text(self, photo_id, query, call=0):
        return super().text(photo_id, "down" if photo_id in self.down else query, call)


def test_photos_whose_service_failed_are_counted_and_asked_again_by_the_next_run(tmp_path):
    frame = run(Agent(), tmp_path, search=Flaky("p03", "p07"))
    assert service_failed(frame) == ["p03", "p07"] and summarize(frame).loc["parsed", "n"] == 10
    agent = Agent()
    again = run(agent, tmp_path, search=Flaky("p07"))
    assert set(agent.seen) == {"p03", "p07"}
    assert service_failed(again) == ["p07"] and again["photo_id"].tolist() == frame["photo_id"].tolist()


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
    run(Agent(), tmp_path)
    with pytest.raises(ValueError, match=f"holds another run .*{named}.*name another folder, or delete this one"):
        run(**{"agent": Agent(), "folder": tmp_path, **changes})


def test_another_checkpoint_of_the_same_name_is_another_run(tmp_path):
    torch = pytest.importorskip("torch")
    agent = Agent()
    agent.model = torch.nn.Linear(3, 2)
    run(agent, tmp_path)
    run(agent, tmp_path)
    with torch.no_grad():
        agent.model.weight[0, 0] += 0.001
    with pytest.raises(ValueError, match="agent weights"):
        run(agent, tmp_path)


def test_no_text_of_an_agent_but_its_name_is_written_down_since_it_may_be_a_key(tmp_path):
    run(Agent(query="SECRET"), tmp_path / "run")
    assert "SECRET" not in (tmp_path / "run" / "run.json").read_text()


def test_trajectories_that_belong_to_no_known_run_and_a_broken_description_are_refused(tmp_path):
    run(Agent(), tmp_path)
    kept = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json: can't be read"):
        run(Agent(), tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match="holds trajectories, but no run.json"):
        run(Agent(), tmp_path)
    assert kept["agent name"] == "agent" and kept["budgets"]["turns"] == 10


def test_a_damaged_line_is_named_with_its_file(tmp_path):
    run(Agent(), tmp_path)
    file = tmp_path / "trajectories.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], lines[1][:-30], *lines[2:]]))
    with pytest.raises(ValueError, match="trajectories.jsonl, line 2: not a JSON object"):
        run(Agent(), tmp_path)
    file.write_text("\n".join([lines[0], lines[1].replace('"steps"', '"stepz"'), *lines[2:]]))
    with pytest.raises(ValueError, match="trajectories.jsonl, photo 'p01': not a trajectory .*'stepz'"):
        run(Agent(), tmp_path)


class Refusing(Agent):
    """Answers one conversation at a time, like a server, and refuses some photos."""

    concurrency = 2
    refuses = ("p02",)

    def respond_for(self, photo_ids, conversations):
        if set(self.refuses) & set(photo_ids):
            raise RuntimeError("HTTP 400, this conversation is refused")
        return super().respond_for(photo_ids, conversations)


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
    again = run(agent, tmp_path)
    assert set(agent.seen) == {"p02"} and service_failed(again) == []


class Counting(Agent):
    def count_tokens(self, text):
        return len(text.split("<")) - 1


def test_tokens_and_seconds_of_a_photo_are_noted_and_kept(tmp_path):
    frame = run(Counting(), tmp_path)
    assert frame["tokens"].tolist() == [4 + 6] * 12  # tags of the two turns
    assert (frame["seconds"] > 0).all()
    assert summarize(frame).loc["tokens", "value"] == 10


class Priced(str):
    usage = type("Usage", (), {"to_dict": lambda self: {"tokens_out": 7, "uncounted": 0, "seconds": 2.5}})()


class Served(Agent):
    concurrency = 3

    def respond_for(self, photo_ids, conversations):
        return [Priced(text) for text in super().respond_for(photo_ids, conversations)]


def test_the_tokens_that_a_server_counts_are_those_of_the_photo(tmp_path):
    assert run(Served(), tmp_path)["tokens"].tolist() == [14] * 12  # two turns each


def test_the_seconds_of_a_batch_are_shared_by_its_photos(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    frame = evaluate(Agent(), PHOTOS[:4], FakeSearch(), batch_size=4)
    assert frame["seconds"].tolist() == [0.5] * 4  # two batches of one tick each, for four photos
    assert frame["tokens"].isna().all()


class Tokenizer:
    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": text.split("<")[1:] + [0] * add_special_tokens}


def test_an_agent_with_a_tokenizer_has_its_tokens_counted_by_it():
    agent = Agent()
    agent.processor = type("Processor", (), {"tokenizer": Tokenizer()})()
    assert evaluate(agent, PHOTOS[:2], FakeSearch())["tokens"].tolist() == [10, 10]


def test_a_plain_function_is_an_agent_too_and_keeps_its_name():
    def agent(conversations):
        return [RIGHT for _ in conversations]

    (row,) = evaluate(agent, PHOTOS[:1], FakeSearch())["trajectory"]
    assert row.agent == "function" and row.extra["seconds"] >= 0
