"""The scripted teacher: its words are exact, its symbols true, its errors as frequent as their fields say."""

import re

import pytest
from environment_fakes import same

from reverse_lib.environment import TINY, Budgets, conversation, rollout
from reverse_lib.search import ServiceError
from reverse_lib.teacher import Row, ScriptedTeacher, in_words, judge, read_results
from reverse_lib.trajectory import FilterRules, filter_trajectories, load_trajectories, save_trajectories
from reverse_lib.world import World

ZOOM, IMAGE, TEXT = "image_zoom_in_tool", "image_search_tool", "text_search_tool"
FAULTLESS = dict.fromkeys(
    [
        "country_error",
        "decoy_box",
        "overlooks",
        "sloppy_box",
        "vague_query",
        "bare_query",
        "gives_up",
        "wrong_verdict",
    ],
    0.0,
)


@pytest.fixture(scope="module")
def world():
    return World(seed=0, places=96)


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 150)


@pytest.fixture(scope="module")
def faultless(world, photos):
    """Trajectories of a teacher that makes no errors."""
    return rollout(ScriptedTeacher(world, **FAULTLESS), photos, world.live)


def informative(photo):
    return next((mark for mark in photo.marks if mark.informative), None)


def test_its_turns_have_exactly_the_small_models_words(faultless):
    sym = r"[~+]{3}"
    results = rf"(?:\[\d\] [^\[\]]+?{sym} )*"
    number = r"-?\d+\.\d\d"
    tails = {
        r"[\w ]+\? (?:A (?:sign|board|landmark)|Nothing to read)\.",
        r"It reads [\w -]+\.",
        rf"{results}(?:Use \[\d\]: {number}, {number}|None\.)",
    }
    for trajectory in faultless:
        for turn in trajectory.turns():
            assert turn.errors == []
            assert any(re.fullmatch(pattern, turn.think) for pattern in tails), turn.think


def test_it_looks_where_the_truth_is_and_searches_for_what_stands_there(faultless, photos):
    seen = set()
    for trajectory, photo in zip(faultless, photos, strict=True):
        mark, calls = informative(photo), [turn.tool_call for turn in trajectory.turns() if turn.tool_call]
        seen.add(mark and mark.kind)
        if mark is None:
            assert calls == []
            country = next(c for c in photo_countries(trajectory) if c.name == photo.place.country)
            assert (trajectory.answer.country, trajectory.answer.city) == (country.name, country.city)
            continue
        box = calls[0].arguments["bbox_2d"]
        assert all(edge % 10 == 0 for edge in box)
        assert all(abs(a - b) <= 5 for a, b in zip(box, mark.bbox_2d, strict=True))
        assert calls[0].name == (ZOOM if mark.text else IMAGE)
        assert trajectory.turns()[0].think == f"{photo.place.country}? A {mark.kind}."
        if mark.text:
            assert trajectory.turns()[1].think == f"It reads {mark.text}."
            assert calls[1].arguments == {"query": f"{mark.text} {photo.place.country}"}
    assert seen == {"sign", "board", "landmark", None}


def photo_countries(_):
    from reverse_lib.world.gazetteer import load_countries

    return load_countries()


def test_flags_and_verdicts_say_the_truth_and_the_answer_copies_the_first_trusted_result(faultless, photos):
    checked = 0
    for trajectory, photo in zip(faultless, photos, strict=True):
        turns = trajectory.turns()
        for step, turn in zip(trajectory.steps, turns[1:], strict=False):
            if step.observation.tool != TEXT or not step.observation.results:
                continue
            said = re.findall(r"\[(\d)\] ([^\[\]]+?)([~+])([~+])([~+]) ", turn.think)
            assert [title for _, title, *_ in said] == [result["title"] for result in step.observation.results]
            for (number, title, country, name, verdict), result in zip(said, step.observation.results, strict=True):
                assert (country == "+") == title.endswith(f", {photo.place.country}")
                assert name == "~" or photo.place.name in title
                assert (verdict == "+") == (country == name == "+" and result["snippet"] != "no position")
                assert (verdict == "+") == (int(number) in turn.useful)
                checked += 1
            if turn.useful:
                first = step.observation.results[turn.useful[0] - 1]
                assert f"Use [{turn.useful[0]}]: {first['snippet']}" in turn.think
                lat, lon = map(float, first["snippet"].split(", "))
                assert (turn.answer.lat, turn.answer.lon) == (lat, lon)
                assert (turn.answer.country, turn.answer.city) == (photo.place.country, photo.place.name)
    assert checked > 200


def test_a_faultless_teacher_finds_nearly_every_sign_and_its_labels_agree_with_the_worlds(faultless, photos):
    signs = [t for t, photo in zip(faultless, photos, strict=True) if informative(photo) and informative(photo).text]
    assert sum(trajectory.km <= 25 for trajectory in signs) >= 0.97 * len(signs)
    agreed = total = 0
    for trajectory in signs:
        for step, turn in zip(trajectory.steps, trajectory.turns()[1:], strict=False):
            for position, result in enumerate(step.observation.results, start=1):
                agreed += (position in (turn.useful or [])) == result["useful"]
                total += 1
    assert agreed >= 0.98 * total


def test_about_two_thirds_of_its_trajectories_pass_the_filters(world, photos):
    kept, counts = filter_trajectories(rollout(ScriptedTeacher(world), photos, world.live), FilterRules())
    assert 0.55 <= len(kept) / len(photos) <= 0.8, counts
    assert counts["answered"] == len(photos)


@pytest.mark.parametrize(
    ("rate", "sign"),
    [
        ("country_error", lambda t, p: not t.steps[0].text.startswith(f"<think>{p.place.country}?")),
        ("overlooks", lambda t, p: "Nothing to read" in t.steps[0].text),
        ("gives_up", lambda t, p: len(t.steps) == 2),
        ("vague_query", lambda t, p: t.steps[1].observation.arguments["query"].startswith(("sign ", "board "))),
        ("bare_query", lambda t, p: t.steps[1].observation.arguments["query"] == p.place.name),
        ("decoy_box", lambda t, p: re.search(r"\? A (jersey|poster|restaurant)\.", t.steps[0].text)),
        ("sloppy_box", lambda t, p: wide(t.steps[0].observation.arguments["bbox_2d"], informative(p).bbox_2d)),
    ],
)
def test_each_rate_makes_its_own_error_and_only_in_its_share_of_photos(world, photos, rate, sign):
    readable = [photo for photo in photos if informative(photo) and informative(photo).text][:40]
    for share, low, high in [(1.0, 40, 40), (0.3, 4, 22)]:
        teacher = ScriptedTeacher(world, seed=1, **{**FAULTLESS, rate: share})
        hits = [bool(sign(t, p)) for t, p in zip(rollout(teacher, readable, world.live), readable, strict=True)]
        assert low <= sum(hits) <= high, (rate, share, sum(hits))


def wide(box, truth) -> bool:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area > 1.4 * (truth[2] - truth[0]) * (truth[3] - truth[1])


def test_wrong_verdicts_contradict_their_flags_and_never_trust_a_page_without_position():
    good, bare = Row(1, "Valencia, Spain", "39.47, -0.38"), Row(2, "Valencia station, Spain", "")
    twin = Row(3, "Valencia, Chile", "1.00, 2.00")
    assert str(judge(good, "Spain", "Valencia")) == "[1] Valencia, Spain+++"
    assert str(judge(good, "Spain", "Valencia", mistaken=True)) == "[1] Valencia, Spain++~"
    assert str(judge(twin, "Spain", "Valencia")) == "[3] Valencia, Chile~+~"
    assert str(judge(twin, "Spain", "Valencia", mistaken=True)) == "[3] Valencia, Chile~++"
    assert str(judge(bare, "Spain", "Valencia", mistaken=True)) == "[2] Valencia station, Spain++~"


@pytest.mark.parametrize(
    ("title", "matches"),
    [
        ("Valencia, Spain", True),
        ("Town hall of Valencia, Spain", True),
        ("Hotel Valencia, Spain", True),
        ("Mannheim or Valencia, Spain", True),
        ("Valencia de Alcantara, Spain", False),
        ("Nueva Valencia, Spain", False),
        ("Football shirt, Spain", False),
    ],
)
def test_a_name_matches_only_where_the_page_speaks_of_it(title, matches):
    assert judge(Row(1, title, "1.00, 2.00"), "Spain", "Valencia").name is matches


def test_after_an_image_search_the_country_stands_for_the_name():
    assert (
        str(judge(Row(1, "Landmark of Vigo, Spain", "42.23, -8.72"), "Spain", "")) == "[1] Landmark of Vigo, Spain+++"
    )
    assert str(judge(Row(1, "Landmark of Vigo, Spain", ""), "Chile", "")) == "[1] Landmark of Vigo, Spain~~~"


def test_results_are_read_with_and_without_positions():
    rows = read_results(
        "[1] Map of Vigo, Spain: 42.23, -8.72\n[2] Vigo: a song, Chile: no position\nno turns left: answer now"
    )
    assert rows == [Row(1, "Map of Vigo, Spain", "42.23, -8.72"), Row(2, "Vigo: a song, Chile", "")]
    assert rows[0].names == ["Vigo"] and rows[0].country == "Spain"
    assert read_results("No results") == []


def test_the_same_seed_and_photo_give_the_same_words_in_any_batch(world, photos):
    def texts(seed, size, chosen):
        rows = rollout(ScriptedTeacher(world, seed=seed), chosen, world.live, batch_size=size)
        return {row.photo_id: [step.text for step in row.steps] for row in rows}

    chosen = photos[:30]
    assert texts(3, 7, chosen) == texts(3, 32, chosen[::-1])
    assert texts(3, 7, chosen) != texts(4, 7, chosen)


def test_a_failed_look_leads_to_the_other_region_and_labels_are_owed_for_a_miss(world, photos):
    photo = next(
        p for p in photos if any(m.kind == "poster" for m in p.marks) and informative(p) and informative(p).text
    )
    teacher = ScriptedTeacher(world, **{**FAULTLESS, "decoy_box": 1.0})

    class Nothing:
        def image(self, *_, **__):
            return None

        text = image

        def evidence(self, photo_id):
            return []

    (trajectory,) = rollout(teacher, [photo], Nothing())
    thinks = [turn.think for turn in trajectory.turns()]
    assert thinks[2] == f"None. A {informative(photo).kind}."
    assert thinks[3] == f"It reads {informative(photo).text}."
    assert trajectory.turns()[2].useful == [] and all(turn.errors == [] for turn in trajectory.turns())
    assert thinks[-1] == "None." and trajectory.end == "answered"
    assert trajectory.answer.country == photo.place.country


def test_it_answers_when_told_to_when_tools_fail_and_when_they_are_missing(world, photos):
    class Down:
        def image(self, *_, **__):
            raise ServiceError("down")

        text = image

        def evidence(self, photo_id):
            return []

    teacher = ScriptedTeacher(world, **FAULTLESS)
    for settings in [{"budgets": Budgets(turns=2)}, {"tools": ()}, {"tools": [ZOOM]}, {"budgets": Budgets(text=0)}]:
        for trajectory in rollout(teacher, photos[:20], world.live, **settings):
            assert trajectory.end == "answered" and all(turn.errors == [] for turn in trajectory.turns())
    for trajectory in rollout(teacher, photos[:20], Down()):
        assert trajectory.end == "answered" and all(turn.errors == [] for turn in trajectory.turns())
        assert len(trajectory.steps) == 1 or trajectory.steps[-2].observation.status == "service_error"


def test_its_trajectories_survive_a_file_and_render_as_conversations(world, photos, faultless, tmp_path):
    save_trajectories(tmp_path / "t.parquet", faultless[:5])
    again = load_trajectories(tmp_path / "t.parquet")
    assert again == faultless[:5]
    for row, photo in zip(again, photos, strict=False):
        assert same(
            conversation(row, photo.load(), TINY), conversation(faultless[again.index(row)], photo.load(), TINY)
        )
        assert row.agent == "scripted-teacher"


def test_symbols_are_written_out_for_people():
    think = "[1] Valencia, Chile~+~ [2] Valencia, Spain+++ [3] Football shirt, Brazil~~~ Use [2]: 39.47, -0.38"
    assert in_words(think).splitlines() == [
        "[1] Valencia, Chile — country ✗, name ✓ → not trusted",
        "[2] Valencia, Spain — country ✓, name ✓ → trusted",
        "[3] Football shirt, Brazil — country ✗, name ✗ → not trusted",
        "Use [2]: 39.47, -0.38",
    ]
    assert in_words("[1] Vigo, Spain++~ None.").splitlines()[1] == "None."


@pytest.mark.parametrize(
    "text", ["", "Spain? A sign.", "See [1] and [2].", "a+++ b", "[1] " * 50_000, "[1] " + "a" * 500_000]
)
def test_text_without_symbols_stays_as_it_is(text):
    assert in_words(text) == text
