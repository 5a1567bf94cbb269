"""Shared by all tests: nothing goes on-line but what a test fetches itself, and hand-made trajectories."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # beside other work two threads are many times slower than one

import pytest

from reverse_lib.trajectory import Observation, Step, ToolCall, Trajectory, format_turn

PARIS, LONDON, SYDNEY = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)


LONGEST = "notebooks claims base probes cli ablations review_browser grpo sft maps_browser".split()  # begun first


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one at the end."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def world():
    """The default world, made once for all tests."""
    from reverse_lib.world import World

    return World(seed=0, places=200)


@pytest.fixture(scope="session")
def small_world():
    """A world that is quickly made, of another seed."""
    from reverse_lib.world import World

    return World(seed=5, places=48)


@pytest.fixture
def server(monkeypatch):
    """A chat server on this machine, with a key in the environment; who is told to wait until later doesn't."""
    from fake_endpoint import KEY, FakeEndpoint

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    made = FakeEndpoint()
    yield made
    made.close()


@pytest.fixture
def make_trajectory():
    """A function: one text search, one judgement, one answer (or, with answer=None, a turn that says nothing)."""

    def make(photo_id="p1", truth=PARIS, answer="France, Paris, 48.85, 2.35", city="Paris", country="France", **fields):
        box = ToolCall("image_zoom_in_tool", {"bbox_2d": [100, 200, 300, 400]})
        call = ToolCall("text_search_tool", {"query": "Paris France"})
        results = [
            {
                "title": "Paris, Texas",
                "url": "https://a.example",
                "source": "",
                "snippet": "33.66, -95.56",
                "useful": False,
            },
            {
                "title": "Paris, France",
                "url": "https://b.example",
                "source": "",
                "snippet": "48.85, 2.35",
                "useful": True,
            },
        ]
        shown = Observation("text_search_tool", dict(call.arguments), "ok", "[1] …", results, labelled=True)
        zoomed = Observation("image_zoom_in_tool", dict(box.arguments), "ok", "")
        last = "<think>Use [2].</think><useful>[2]</useful>" + (f"<answer>{answer}</answer>" if answer else "")
        steps = [
            Step(format_turn("France? A sign.", tool_call=box), zoomed),
            Step(format_turn("It reads Paris.", tool_call=call), shown),
            Step(last),
        ]
        known = {"lat": truth[0], "lon": truth[1], "country": country, "city": city} if truth else {}
        given = {"regions": [[100, 200, 300, 400]], "evidence": ["https://b.example"], "agent": "made by hand"}
        given |= {"end": "answered" if answer else "format"} | known | fields
        return Trajectory(photo_id, steps, **given)

    return make
