"""The scripted teacher: its words are exact, its symbols true, its errors as frequent as their fields say."""

import re

import pytest
from environment_fakes import same
from teacher_helpers import FAULTLESS, IMAGE, TEXT, ZOOM, Searches, calls_of, informative, one_of

from reverse_lib.environment import TINY, conversation, rollout
from reverse_lib.profiles import Budgets
from reverse_lib.search import SearchAnswer, SearchResult, ServiceError
from reverse_lib.trajectory import load_trajectories, save_trajectories
from reverse_lib.world import ScriptedTeacher, in_words
from reverse_lib.world.dice import stream
from reverse_lib.world.pages import states_position
from reverse_lib.world.places import country_table
from reverse_lib.world.teacher import WORDINGS, Row, judge, read_results, say


@pytest.fixture(scope="module")
def photos(world):
    return world.photos("train", 150)


@pytest.fixture(scope="module")
def faultless(world, photos):
    """Trajectories of a teacher that makes no errors."""
    return rollout(ScriptedTeacher(world, **FAULTLESS), photos, world.live)


def test_its_turns_have_exactly_the_small_models_words(faultless):
    results = r"(?:\[\d\] [^\[\]]+?[~+]{3} )*"
    number = r"-?\d+\.\d\d"
    position = rf"{number}, {number}"
    first = f"{one_of('see', k='(?:sign|board|landmark)')}|{one_of('nothing')}"
    tails = {
        rf"{one_of('guess', c='[^?.]+')} (?:{first})",
        r"It reads [^\[\]+~<>]+\.",
        rf"{results}(?:Use \[\d\] [^\[\]]+?: {position}|{one_of('none')})",
    }
    for trajectory in faultless:
        for turn in trajectory.turns():
            assert turn.errors == []
            assert any(re.fullmatch(pattern, turn.think) for pattern in tails), turn.think


def test_it_looks_where_the_truth_is_and_searches_for_what_stands_there(faultless, photos):
    seen = set()
    for trajectory, photo in zip(faultless, photos, strict=True):
        mark, calls = informative(photo), calls_of(trajectory)
        seen.add(mark and mark.kind)
        if mark is None:
            assert calls == []
            country = next(c for c in country_table().values() if c.name == photo.place.country)
            assert (trajectory.answer.country, trajectory.answer.city) == (country.name, country.largest_city.name)
            continue
        box = calls[0].arguments["bbox_2d"]
        assert all(edge % 10 == 0 for edge in box)
        assert all(abs(a - b) <= 5 for a, b in zip(box, mark.bbox_2d, strict=True))
        assert calls[0].name == (ZOOM if mark.text else IMAGE)
        said = rf"{one_of('guess', c=re.escape(photo.place.country))} {one_of('see', k=mark.kind)}"
        assert re.fullmatch(said, trajectory.turns()[0].think)
        if mark.text:
            assert trajectory.turns()[1].think == f"It reads {mark.text}."
            assert calls[1].arguments == {"query": f"{mark.text} {photo.place.country}"}
    assert seen == {"sign", "board", "landmark", None}


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
                assert (verdict == "+") == (country == name == "+" and states_position(result["snippet"]))
                assert (verdict == "+") == (int(number) in turn.useful)
                checked += 1
            if turn.useful:
                first = step.observation.results[turn.useful[0] - 1]
                assert f"Use [{turn.useful[0]}] {first['title']}: {first['snippet']}" in turn.think
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
        ("Valencia town hall, Spain", True),
        ("Hotel Valencia, Spain", True),
        ("Mannheim or Valencia, Spain", True),
        ("Valencia de Alcantara, Spain", False),
        ("Nueva Valencia, Spain", False),
        ("Football shirt, Spain", False),
    ],
)
def test_a_name_matches_only_where_the_page_speaks_of_it(title, matches):
    assert judge(Row(1, title, "1.00, 2.00"), "Spain", "Valencia").name is matches


def test_accents_make_no_difference_to_a_name():
    assert judge(Row(1, "Map of Sao Paulo, Brazil", "-23.55, -46.63"), "Brazil", "São Paulo").trusted


def test_where_nothing_was_read_a_page_must_still_name_a_place():
    assert str(judge(Row(1, "Football shirt, Spain", "42.23, -8.72"), "Spain", "")) == "[1] Football shirt, Spain+~~"


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
    (trajectory,) = rollout(teacher, [photo], Searches())
    thinks = [turn.think for turn in trajectory.turns()]
    assert re.fullmatch(f"{one_of('none')} {one_of('see', k=informative(photo).kind)}", thinks[2])
    assert thinks[3] == f"It reads {informative(photo).text}."
    assert trajectory.turns()[2].useful == [] and all(turn.errors == [] for turn in trajectory.turns())
    assert re.fullmatch(one_of("none"), thinks[-1]) and trajectory.end == "answered"
    assert trajectory.answer.country == photo.place.country


@pytest.mark.parametrize("image_first", [0.0, 1.0])
@pytest.mark.parametrize("other_tool", [0.0, 1.0])
def test_a_region_with_writing_is_read_or_searched_by_its_look_and_then_the_other_way(
    world, photos, image_first, other_tool
):
    chosen = [photo for photo in photos if informative(photo) and informative(photo).text][:10]
    rates = {**FAULTLESS, "image_first": image_first, "other_tool": other_tool}
    by_words, by_look = [ZOOM, TEXT], [IMAGE]
    ways = [by_look, by_words] if image_first else [by_words, by_look]
    for trajectory in rollout(ScriptedTeacher(world, **rates), chosen, Searches()):
        made = [call.name for call in calls_of(trajectory)]
        assert made == (ways[0] + ways[1] if other_tool else ways[0])
        boxes = {str(call.arguments["bbox_2d"]) for call in calls_of(trajectory) if call.name != TEXT}
        assert len(boxes) == 1


def test_a_misread_name_is_searched_for_as_read_and_the_right_one_is_known_among_results(world, photos):
    chosen = [photo for photo in photos if informative(photo) and informative(photo).text]
    teacher = ScriptedTeacher(world, **{**FAULTLESS, "misreads": 1.0, "other_tool": 1.0})
    differing, found = [], 0
    for photo, trajectory in zip(chosen, rollout(teacher, chosen, world.live), strict=True):
        turns, name = trajectory.turns(), informative(photo).text
        read = turns[1].think.removeprefix("It reads ").removesuffix(".")
        assert len(read) == len(name) and calls_of(trajectory)[1].arguments["query"].startswith(f"{read} ")
        differing.append(sum(a != b for a, b in zip(read, name, strict=True)))
        right = [row for row in re.findall(r"\[\d\] [^\[\]~+]+\+\+\+", turns[-1].think) if name in row]
        found += bool(right) and trajectory.km < 25 and trajectory.answer.city == name
    assert max(differing) == 3 and 1.5 < sum(differing) / len(chosen) < 2.1
    assert found > 0.4 * len(chosen)


class OnlyNames(Searches):
    """Picture searches name the place of the photo and state no position; searches by words find nothing."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def image(self, photo_id, bbox_2d, call=0, crop=None):
        photo = self.world.photo(photo_id)
        return SearchAnswer(
            (SearchResult(f"Map of {photo.city}, {photo.country}", "u", "s", "page 1 of 2"),), frozenset()
        )


def test_a_place_that_a_pictures_pages_only_name_is_searched_for(world, photos):
    class Positions(OnlyNames):
        def text(self, photo_id, query, call=0):
            return world.live.text(photo_id, query)

    photo = next(p for p in photos if informative(p) and informative(p).kind == "landmark")
    for other_tool, made in ((0.0, [IMAGE]), (1.0, [IMAGE, TEXT])):
        teacher = ScriptedTeacher(world, **{**FAULTLESS, "other_tool": other_tool})
        (trajectory,) = rollout(teacher, [photo], Positions(world))
        assert [call.name for call in calls_of(trajectory)] == made
        assert (trajectory.km < 25) == bool(other_tool) and all(turn.errors == [] for turn in trajectory.turns())
    assert calls_of(trajectory)[1].arguments == {"query": f"{photo.city} {photo.country}"}
    assert re.search(one_of("follow", i="1"), trajectory.turns()[1].think) and trajectory.turns()[1].useful == []
    (trajectory,) = rollout(teacher, [photo], OnlyNames(world))
    assert re.fullmatch(one_of("none"), trajectory.turns()[-1].think) and trajectory.end == "answered"


def test_a_check_asks_in_another_way_and_the_answer_quotes_what_was_seen_last(world, photos):
    teacher = ScriptedTeacher(world, **{**FAULTLESS, "double_checks": 1.0})
    kept = 0
    for trajectory in rollout(teacher, photos, world.live):
        turns, calls = trajectory.turns(), calls_of(trajectory)
        checks = [i for i, turn in enumerate(turns) if re.search(one_of("check", i=r"\d"), turn.think)]
        if not checks:
            continue
        assert checks == [len(turns) - 2] and turns[-2].useful and calls[-1] != calls[-2]
        assert all(turn.errors == [] for turn in turns)
        earlier, last = trajectory.steps[-3].observation.results, trajectory.steps[-2].observation.results
        position = f"{turns[-1].answer.lat:.2f}, {turns[-1].answer.lon:.2f}"
        if turns[-1].useful:
            assert last[turns[-1].useful[0] - 1]["snippet"] == position
            assert f"Use [{turns[-1].useful[0]}] " in turns[-1].think and turns[-1].think.endswith(f": {position}")
        else:
            kept += 1
            assert earlier[turns[-2].useful[0] - 1]["snippet"] == position
            assert re.search(one_of("keep", t=".+", p=re.escape(position)), turns[-1].think)
    assert kept > 3


@pytest.mark.parametrize(("error", "said"), [(None, "none"), (ServiceError("down"), "down")])
def test_it_keeps_what_it_found_when_the_check_brings_nothing(world, photos, error, said):
    class OnlyTheName(Searches):
        def text(self, photo_id, query, call=0):
            return world.live.text(photo_id, query) if query == photo.city else super().text(photo_id, query)

    photo = next(p for p in photos if informative(p) and informative(p).text)
    rates = {**FAULTLESS, "double_checks": 1.0, "bare_query": 1.0}
    (trajectory,) = rollout(ScriptedTeacher(world, **rates), [photo], OnlyTheName(error))
    last = trajectory.turns()[-1]
    assert last.errors == ([] if error is None else last.errors) and last.useful == ([] if error is None else None)
    assert re.fullmatch(f"{one_of(said)} {one_of('keep', t='.+', p=r'[-0-9., ]+')}", last.think), last.think
    assert trajectory.km < 25


def test_it_answers_when_told_to_when_tools_fail_and_when_they_are_missing(world, photos):
    teacher = ScriptedTeacher(world, **FAULTLESS)
    for settings in [{"budgets": Budgets(turns=2)}, {"tools": ()}, {"tools": [ZOOM]}, {"budgets": Budgets(text=0)}]:
        for trajectory in rollout(teacher, photos[:20], world.live, **settings):
            assert trajectory.end == "answered" and all(turn.errors == [] for turn in trajectory.turns())
    for trajectory in rollout(teacher, photos[:20], Searches(ServiceError("down"))):
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
    think = "[1] Valencia, Chile~+~ [2] Valencia, Spain+++ [3] Football shirt, Brazil~~~ Use [2] Valencia, Spain: 39, 0"
    assert in_words(think).splitlines() == [
        "[1] Valencia, Chile — country ✗, name ✓ → not trusted",
        "[2] Valencia, Spain — country ✓, name ✓ → trusted",
        "[3] Football shirt, Brazil — country ✗, name ✗ → not trusted",
        "Use [2] Valencia, Spain: 39, 0",
    ]
    assert in_words("[1] Vigo, Spain++~ None.").splitlines()[1] == "None."


def test_every_wording_is_used(world):
    rows = rollout(ScriptedTeacher(world, double_checks=0.5), world.photos("train", 200), OnlyNames(world))
    rows += rollout(ScriptedTeacher(world, double_checks=1.0), world.photos("train", 100), world.live)
    rows += rollout(ScriptedTeacher(world), world.photos("train", 20), Searches(ServiceError("down")))
    thinks = " ".join(turn.think for row in rows for turn in row.turns())
    for phrase, wordings in WORDINGS.items():
        for wording in wordings:
            pattern = re.escape(wording.format(c="@", k="@", n="@", i="@", t="@", p="@")).replace("@", r"[^\[\]]+?")
            assert re.search(rf"(?:^|(?<= )){pattern}(?: |$)", thinks), (phrase, wording)


def test_a_phrase_is_said_in_one_of_its_wordings():
    rng = stream("say")
    said = {say(rng, "guess", c="Chile") for _ in range(50)}
    assert said == {"Chile?", "Maybe Chile.", "Looks like Chile."}
    assert say(rng, "use", i=2, t="Vigo, Spain", p="42.2, -8.7") == "Use [2] Vigo, Spain: 42.2, -8.7"


@pytest.mark.parametrize(
    "text", ["", "Spain? A sign.", "See [1] and [2].", "a+++ b", "[1] " * 50_000, "[1] " + "a" * 500_000]
)
def test_text_without_symbols_stays_as_it_is(text):
    assert in_words(text) == text
