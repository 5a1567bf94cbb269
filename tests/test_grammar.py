"""The grammar of a turn against adversarial tags and broken JSON."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reverse_lib.geo import Answer
from reverse_lib.trajectory import TOOLS, ToolCall, Turn, format_turn, parse_turn
from reverse_lib.trajectory.grammar import TURN_ERRORS

ANSWER = "<answer>France, Paris, 48.85, 2.35</answer>"
CALL = '<tool_call>{"name": "text_search_tool", "arguments": {"query": "Paris"}}</tool_call>'
PARIS = Answer("France", "Paris", 48.85, 2.35)
SEARCH = ToolCall("text_search_tool", {"query": "Paris"})


def call(body):
    return f"<think>a</think><tool_call>{body}</tool_call>"


def errors(text, after_search=None):
    return parse_turn(text, after_search).errors


def test_a_turn_in_the_grammar_has_its_parts_and_no_errors():
    turn = parse_turn(f"<think>So [1].\n</think>\n<useful> [3,1 ] </useful> \n{CALL}\n", after_search=True)
    assert turn == Turn("So [1].\n", [3, 1], SEARCH, None, [])
    assert parse_turn(f"<think>a</think>{ANSWER}", after_search=False) == Turn("a", None, None, PARIS, [])


def test_labels_are_owed_after_a_search_and_only_then():
    without, with_labels = f"<think>a</think>{ANSWER}", f"<think>a</think><useful>[]</useful>{ANSWER}"
    assert errors(without, True) == ["useful_missing"]
    assert errors(with_labels, False) == ["useful_unexpected"]
    assert errors(with_labels, True) == errors(without, False) == errors(without) == errors(with_labels) == []
    assert parse_turn(with_labels).useful == [] and parse_turn(without).useful is None


@pytest.mark.parametrize(
    ("text", "named", "filled"),
    [
        ("", {"think_missing", "action_missing"}, set()),
        ("Paris", {"think_missing", "action_missing", "text_outside"}, set()),
        (ANSWER, {"think_missing"}, {"answer"}),
        ("<think>a</think>", {"action_missing"}, {"think"}),
        (f"<think>a{ANSWER}", {"think_unclosed", "answer_nested"}, set()),
        (f"a</think>{ANSWER}", {"think_unopened", "text_outside"}, {"answer"}),
        (f"</think>a<think>{ANSWER}", {"think_unclosed", "answer_nested", "text_outside"}, set()),
        (f"<think>a</think><think>b</think>{ANSWER}", {"think_repeated"}, {"answer"}),
        (f"<think>a</think></think>{ANSWER}", {"think_repeated"}, {"answer"}),
        (f"<think><think>a</think></think>{ANSWER}", {"think_repeated"}, {"answer"}),
        (f"<think>{ANSWER}</think>", {"think_nested", "answer_nested"}, set()),
        (f"<think>{ANSWER}</think>{ANSWER}", {"think_nested", "answer_repeated"}, set()),
        ("<think>a<answer></think>A, B, 1, 2</answer>", {"think_nested", "answer_nested"}, set()),
        (f"<think>a</think>{ANSWER}{ANSWER}", {"answer_repeated"}, {"think"}),
        (f"<think>a</think>{CALL}{CALL}", {"tool_call_repeated"}, {"think"}),
        (f"<think>a</think>{CALL}{ANSWER}", {"action_both"}, {"think", "tool_call", "answer"}),
        ("<think>a</think><answer>A, B, 1, 2", {"answer_unclosed"}, {"think"}),
        ("<answer></tool_call>", {"think_missing", "answer_unclosed", "tool_call_unopened", "action_both"}, set()),
        (f"<Think>a</Think>{ANSWER}", {"think_missing", "text_outside"}, {"answer"}),
        (f"<think >a</think >{ANSWER}", {"think_missing", "text_outside"}, {"answer"}),
        (f"<think/>{ANSWER}", {"think_missing", "text_outside"}, {"answer"}),
        ("<think>a</think><ANSWER>A, B, 1, 2</ANSWER>", {"action_missing", "text_outside"}, {"think"}),
        (f"{ANSWER}<think>a</think>", {"wrong_order"}, {"think", "answer"}),
        (f"<think>a</think>{ANSWER}<useful>[1]</useful>", {"wrong_order"}, {"think", "useful", "answer"}),
        (f"So: <think>a</think>{ANSWER}", {"text_outside"}, {"think", "answer"}),
        (f"<think>a</think>then{ANSWER}", {"text_outside"}, {"think", "answer"}),
        (f"<think>a</think>{ANSWER}.", {"text_outside"}, {"think", "answer"}),
        ("<think>a</think><answer>A, B, 91, 2</answer>", {"answer_invalid"}, {"think"}),
        ("<think>a</think><answer></answer>", {"answer_invalid"}, {"think"}),
        (CALL.replace("Paris", "</tool_call>"), {"think_missing", "tool_call_repeated", "text_outside"}, set()),
    ],
)
def test_every_departure_from_the_grammar_has_its_name(text, named, filled):
    turn = parse_turn(text)
    assert set(turn.errors) == named
    assert {name for name in ("think", "useful", "tool_call", "answer") if getattr(turn, name) is not None} == filled


NO_LABELS = ["", " ", "1", "1, 2", "[1, 2", "1]", "[0]", "[-1]", "[1.0]", "[1e0]", "[01]", '["1"]', "[true]", "[null]"]
NO_LABELS += ["[1,]", "[,1]", "[1 2]", "[[1]]", "{}", "none", "[NaN]", "[١]", "[1_0]", "[+1]", "[1]\u00a0", "[" * 9999]
NO_LABELS += ["[" + "9" * 5000 + "]"]


@pytest.mark.parametrize(
    ("body", "error"), [(body, "useful_invalid") for body in NO_LABELS] + [("[1, 2, 1]", "useful_duplicate")]
)
def test_labels_that_are_not_a_list_of_different_positions_are_none(body, error):
    turn = parse_turn(f"<think>a</think><useful>{body}</useful>{ANSWER}", after_search=True)
    assert (turn.useful, turn.errors) == (None, [error])


GOOD = '"name": "text_search_tool", "arguments": {"query": "x"}'
TEXT = '"name": "text_search_tool", "arguments"'
BOX = '{"name": "image_search_tool", "arguments": {"bbox_2d": [%s, 0, 1, 1]}}'
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "9" * 19, "9" * 100_000, "01", ".5"]
BROKEN_CALLS = {
    "tool_call_json": [
        *["", "{", "{" + GOOD, "{" + GOOD + "}}", "{" + GOOD + ",}", "{" + GOOD + "} {" + GOOD + "}", "[" * 100_000],
        *[("{" + GOOD + "}").replace('"', "'"), "{name: 1, arguments: {}}", "```json\n{" + GOOD + "}\n```"],
        *["\ufeff{" + GOOD + "}", "{" + GOOD + ', "name": "image_search_tool"}', '{"a":' * 100_000],
        *[f'{{{TEXT}: {{"query": "a\nb"}}}}', f'{{{TEXT}: {{"query": "a", "query": "b"}}}}'],
        *[f'{{{TEXT}: {{"query": {query}}}}}' for query in ('"\\ud800"', "[" * 100_000, "[" * 50 + "]" * 50)],
        *[BOX % number for number in NUMBERS],
    ],
    "tool_call_object": [
        *["null", "[{" + GOOD + "}]", '"text_search_tool"', "{}", '{"name": "text_search_tool"}'],
        '{"arguments": {"query": "x"}}',
    ],
    "tool_call_name": [
        f'{{"name": {name}, "arguments": {{}}}}'
        for name in ('"reset"', '"Text_search_tool"', '["text_search_tool"]', "null")
    ],
    "tool_call_arguments": [f"{{{TEXT}: {arguments}}}" for arguments in ('"x"', '["x"]', "null")],
}


@pytest.mark.parametrize(
    ("error", "body"), [(error, body) for error, bodies in BROKEN_CALLS.items() for body in bodies]
)
def test_a_broken_tool_call_is_a_named_error_and_no_call(error, body):
    turn = parse_turn(call(body), after_search=False)
    assert (turn.tool_call, turn.errors) == (None, [error])


def test_further_keys_of_a_call_are_an_error_and_leave_the_call_readable():
    turn = parse_turn(call("{" + GOOD + ', "id": 3}'))
    assert (turn.tool_call, turn.errors) == (ToolCall("text_search_tool", {"query": "x"}), ["tool_call_extra"])


def test_arguments_of_any_json_type_are_left_to_the_tool():
    body = '{"arguments": {"bbox_2d": ["a", true, null, -1.5e3], "query": ["x", "é"]}, "name": "image_search_tool"}'
    turn = parse_turn(call(body))
    assert turn.errors == []
    assert turn.tool_call == ToolCall("image_search_tool", {"bbox_2d": ["a", True, None, -1500.0], "query": ["x", "é"]})


TAGS = [f"<{slash}{part}>" for slash in ("", "/") for part in ("think", "useful", "tool_call", "answer")]
PIECES = [*TAGS, "[1]", "[", "{", '"', "\\", " ", "A, B, 1, 2", "{" + GOOD + "}", "<", "x", "\ud800", "\0"]


@settings(max_examples=500, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join), st.sampled_from([True, False, None]))
def test_any_text_gives_a_turn_with_known_errors(text, after_search):
    turn = parse_turn(text, after_search)
    assert set(turn.errors) <= set(TURN_ERRORS)
    assert len(set(turn.errors)) == len(turn.errors)
    if not turn.errors:
        assert turn.think is not None
        assert (turn.tool_call is None) != (turn.answer is None)
        assert after_search is None or (turn.useful is not None) == after_search


WORDS = st.text().filter(lambda text: not any(tag in text for tag in TAGS))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.builds(ToolCall, st.sampled_from(TOOLS), st.dictionaries(WORDS, JSON, max_size=3))
NAMES = st.text("abé日 '-", min_size=1).map(str.strip).filter(bool)
ANSWERS = st.builds(Answer, NAMES, NAMES, st.floats(-90, 90), st.floats(-180, 180))


@settings(deadline=None)
@given(WORDS, st.none() | st.lists(st.integers(1, 10**17), unique=True), CALLS | ANSWERS)
def test_a_turn_written_is_read_back(think, useful, action):
    is_call = isinstance(action, ToolCall)
    text = format_turn(think, useful, action if is_call else None, None if is_call else action)
    turn = parse_turn(text, after_search=useful is not None)
    assert (turn.think, turn.useful, turn.errors) == (think, useful, [])
    if is_call:
        assert (turn.tool_call, turn.answer) == (action, None)
    else:
        assert turn.tool_call is None
        assert (turn.answer.country, turn.answer.city) == (action.country, action.city)
        assert turn.answer.lat == pytest.approx(action.lat, abs=0.00501)
        assert turn.answer.lon == pytest.approx(action.lon, abs=0.00501)


def test_a_turn_is_written_without_anything_between_its_parts():
    assert format_turn("é", [1, 3], ToolCall("text_search_tool", {"query": "é"})) == (
        "<think>é</think><useful>[1, 3]</useful>"
        '<tool_call>{"name": "text_search_tool", "arguments": {"query": "é"}}</tool_call>'
    )
    assert format_turn("", answer=PARIS) == f"<think></think>{ANSWER}"


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"think": "a"}, "action_missing"),
        ({"think": "a", "tool_call": SEARCH, "answer": PARIS}, "action_both"),
        ({"think": "</think>", "answer": PARIS}, "think_repeated"),
        ({"think": "<useful>", "answer": PARIS}, "useful_unclosed"),
        ({"think": "a", "useful": [0], "answer": PARIS}, "useful_invalid"),
        ({"think": "a", "useful": [2, 2], "answer": PARIS}, "useful_duplicate"),
        ({"think": "a", "tool_call": ToolCall("reset", {})}, "tool_call_name"),
        ({"think": "a", "tool_call": ToolCall("text_search_tool", {"query": math.nan})}, "tool_call_json"),
        ({"think": "a", "answer": Answer("France", "Paris", math.nan, 0.0)}, "answer_invalid"),
        ({"think": "a", "answer": Answer("", "Paris", 1.0, 0.0)}, "answer_invalid"),
        ({"think": "a", "answer": Answer("Korea, South", "Seoul", 37.57, 126.98)}, "without commas"),
    ],
)
def test_a_turn_that_could_not_be_read_back_is_refused(parts, reason):
    with pytest.raises(ValueError, match=reason):
        format_turn(**parts)


UNITS = ["<think>", "</think>", "<think></think>", "<think><useful>", "<thin", "<answer>", "<useful>[", "<tool_call>{"]
UNITS += ["<", "</", " ", "x"]
LABELS = ["1, " * 300_000, "[" + "1, " * 300_000, "[1" + " " * 900_000, "[" + "1 , " * 250_000 + "x]"]
CALLS_OF_A_MEGABYTE = ['"' * 999_999, '"\\' * 500_000, '{"a":1,' * 140_000, "[[]," * 250_000, "9" * 10**6, "-" * 10**6]


@pytest.mark.parametrize(
    ("text", "named"),
    [(unit * (1_000_000 // len(unit)), None) for unit in UNITS]
    + [(f"<think>a</think><useful>{body}</useful>{ANSWER}", ["useful_invalid"]) for body in LABELS]
    + [(call(body), ["tool_call_json"]) for body in CALLS_OF_A_MEGABYTE],
    ids=lambda value: str(value)[:40],
)
def test_a_megabyte_of_anything_is_refused_at_once(text, named):
    start = time.process_time()
    found = errors(text)
    assert found if named is None else found == named
    assert time.process_time() - start < 20, "0.3 s of an idle core; hours if it were quadratic"
