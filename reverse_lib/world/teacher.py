"""The scripted teacher: writes trajectories in the tiny agent's own words, knowing the truth and erring on purpose.

It replaces the paper's large teacher model where there is none: the cold start learns from what it writes, and its
errors (decoy boxes, vague queries, giving up, wrong trust) give filters and labels their work. It decides from the
truth about a photo, never from pixels, but says only what the model could have seen. Every rate is a field; which
photos it hits follows from (seed, photo id).

    teacher = ScriptedTeacher(world)
    trajectories = rollout(teacher, world.photos("train", 500), world.live)

Evidence is judged in symbols, since a small model learns one token a decision: after each result's title come country
match, name match and verdict (`+` or `~`). `in_words` writes them out for people.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import ClassVar

import numpy as np

from reverse_lib.annotation import TRUTH
from reverse_lib.environment import NO_RESULTS
from reverse_lib.geo import Answer, parse_answer
from reverse_lib.search import normalise_query
from reverse_lib.trajectory import ToolCall, format_turn
from reverse_lib.world.atlas import World
from reverse_lib.world.dice import pick, stream
from reverse_lib.world.pages import names_in, states_position
from reverse_lib.world.panels import Mark, widen
from reverse_lib.world.places import Country, fold

WORDINGS = {
    "guess": ("{c}?", "Maybe {c}.", "Looks like {c}."),
    "nothing": ("Nothing to read.", "No sign here.", "Nothing to search."),
    "see": ("A {k}.", "I see a {k}.", "There is a {k}."),
    "reads": ("It reads {n}.",),
    "none": ("None.", "None fits.", "No match."),
    "use": ("Use [{i}] {t}: {p}",),
    "follow": ("Search [{i}].", "Follow [{i}]."),
    "check": ("[{i}] fits. Check.", "Check [{i}]."),
    "keep": ("Keep {t}: {p}", "It was {t}: {p}"),
    "down": ("No search.",),
}
"""Every phrase but the verdicts, and the ways of saying it: c country, k kind of region, n name, i number of a
result, t its title, p position. One token a word, so words are few. A result is used by quoting its line, the way a
small model copies best: quoting the number alone, it took another result's position in two answers of five."""

ZOOM, IMAGE, TEXT = "image_zoom_in_tool", "image_search_tool", "text_search_tool"
MAX_CALLS = 6
_RESULT = re.compile(r"\[(\d+)\] (.*)")
_VERDICT = re.compile(r"\[(\d{1,3})\] ([^\[\]\n~]{1,200}?)([+~])([+~])([+~])(?: |$)")
_MAX_SEARCHES = 3  # by words, for one region


@dataclass(frozen=True)
class Row:
    """One result as the teacher reads it: position in the list, title, and the coordinates it states ("" for none)."""

    number: int
    title: str
    position: str

    @property
    def country(self) -> str:
        """What follows the last comma of the title."""
        return self.title.rpartition(", ")[2]

    @property
    def names(self) -> list[str]:
        """The place or places the title speaks of: "Map of Valencia, Spain" -> ["Valencia"]."""
        return names_in(self.title)


@dataclass(frozen=True)
class Verdict:
    """What the teacher says about a result; `trusted` follows from the others but for its errors."""

    row: Row
    country: bool
    name: bool
    trusted: bool

    def __str__(self) -> str:
        symbols = "".join("~+"[flag] for flag in (self.country, self.name, self.trusted))
        return f"[{self.row.number}] {self.row.title}{symbols}"


@dataclass(frozen=True)
class Look:
    """One call that the teacher means to make: about which region, the name by which it judges what comes ("" for
    none), and what a zoom lets it read."""

    call: ToolCall
    mark: Mark
    name: str = ""
    reads: str = ""


@dataclass(frozen=True)
class Plan:
    """What the teacher means to do with a photo: the calls it makes one after the other until one succeeds."""

    guess: Country
    looks: tuple[Look, ...]
    gives_up_after: int | None  # turns
    other_tool: bool
    double_checks: bool


@dataclass(frozen=True)
class ScriptedTeacher:
    """An agent for `rollout` that knows the truth about a world's photos; its rates are shares. It keeps no state."""

    reads_pixels: ClassVar[bool] = False

    world: World  # whose photos it is shown
    seed: int = 0  # another one errs on other photos
    country_error: float = 0.05  # photos whose country it takes for another
    decoy_box: float = 0.12  # photos with a decoy where it looks there first (or in vain)
    overlooks: float = 0.06  # photos where it sees nothing worth a look
    sloppy_box: float = 0.1  # boxes drawn too large
    vague_query: float = 0.06  # readings that it first searches without the name
    bare_query: float = 0.08  # readings that it first searches without the country
    misreads: float = (
        0.15  # readings with one to three letters wrong; it knows the right name when it sees it among results
    )
    gives_up: float = 0.1  # photos where it answers after its first look, whatever it saw
    wrong_verdict: float = 0.03  # results with coordinates that it trusts, or does not trust, against its own flags
    hasty: float = 0.5  # lists of which it trusts no more than the first result that it can use
    image_first: float = 0.15  # regions with writing that it searches for by their look before it reads them
    other_tool: float = (
        0.5  # photos where it tries the other way when the first brought nothing: words or look, or a place only named
    )
    double_checks: float = 0.1  # photos where it asks once more, in another way, before it trusts what it found
    name: str = "scripted-teacher"  # signs the trajectories

    def respond_for(self, photo_ids: Sequence[str], conversations: Sequence[list[dict]]) -> list[str]:
        """The next turn of each conversation, which must be about the photo of the same position.

        Raises:
            KeyError: A photo is none of the world's.
        """
        return [self._turn(photo_id, messages) for photo_id, messages in zip(photo_ids, conversations, strict=True)]

    def _turn(self, photo_id: str, messages: Sequence[dict]) -> str:
        plan = self._plan(photo_id)
        turn = sum(message["role"] == "assistant" for message in messages)
        words = stream("teacher words", self.seed, photo_id, turn)
        if turn == 0:
            think = say(words, "guess", c=plan.guess.name)
            return self._go_on(plan, 0, think if plan.looks else f"{think} {say(words, 'nothing')}", words)
        text, has_image = _observed(messages[-1])
        stop = "answer now" in text
        earlier = self._verdicts(plan, photo_id, turn - 1, messages[-3]) if turn > 1 else []
        extra = self._extra(plan, photo_id, turn - 1, earlier)
        look = extra or plan.looks[turn - 1]
        if look.call.name == ZOOM:
            if not has_image:
                return _fall_back(plan, say(words, "nothing"))
            return self._go_on(plan, turn, say(words, "reads", n=look.reads), words, stop=stop)
        verdicts = self._verdicts(plan, photo_id, turn, messages[-1], look)
        if extra:
            return _after_extra(plan, extra, text, verdicts, _best(earlier), words)
        if not verdicts and not text.startswith(NO_RESULTS):
            return _fall_back(plan, say(words, "down"))
        return self._judged(plan, photo_id, turn, verdicts, stop, words)

    def _judged(self, plan: Plan, photo_id: str, turn: int, verdicts: list[Verdict], stop: bool, words) -> str:
        """The turn after a search of the plan: the answer, a call that the results suggest, or the plan's next one."""
        best, more = _best(verdicts), None if stop else self._extra(plan, photo_id, turn, verdicts)
        if more:
            number = (best or _named(verdicts)).row.number
            think = say(words, "check" if best else "follow", i=number)
            return format_turn(_listed(verdicts, think), _useful(verdicts), tool_call=more.call)
        if best:
            return _answered(plan, verdicts, best, plan.looks[turn - 1].name, words)
        return self._go_on(plan, turn, _listed(verdicts, say(words, "none")), words, [], stop)

    def _verdicts(self, plan: Plan, photo_id: str, turn: int, message: dict, look: Look | None = None) -> list[Verdict]:
        """What it says about each result in the message that answers its call of a turn; none after a zoom."""
        name = (look or plan.looks[turn - 1]).name
        rng = stream("teacher verdicts", self.seed, photo_id, turn)
        rows = read_results(_observed(message)[0])
        verdicts = [judge(row, plan.guess.name, name, rng.random() < self.wrong_verdict) for row in rows]
        hasty = stream("teacher haste", self.seed, photo_id, turn).random() < self.hasty
        return _only_first(verdicts) if hasty else verdicts

    def _extra(self, plan: Plan, photo_id: str, turn: int, verdicts: Sequence[Verdict]) -> Look | None:
        """A call that results suggest: it checks what they say, or asks about a place they name without a position."""
        best, named = _best(verdicts), _named(verdicts)
        if not named and not best or plan.gives_up_after is not None or turn >= MAX_CALLS:
            return None
        look, country = plan.looks[turn - 1], plan.guess.name
        name = look.name or next(iter((best or named).row.names), "")
        queries = [f"{name} {country}".strip(), name or country]
        if not best:
            follows = plan.other_tool and not look.mark.text
            return Look(ToolCall(TEXT, {"query": queries[0]}), look.mark, name) if follows else None
        if not plan.double_checks:
            return None
        asked, rng = look.call.arguments.get("query"), stream("teacher check", self.seed, photo_id)
        options = [ToolCall(TEXT, {"query": queries[queries[0] == asked]})]
        if asked is not None:
            options.append(ToolCall(IMAGE, {"bbox_2d": _box(rng, look.mark, sloppy=False)}))
        return Look(pick(rng, options), look.mark, name)

    def _go_on(
        self, plan: Plan, turn: int, think: str, words, useful: list[int] | None = None, stop: bool = False
    ) -> str:
        """The next call of the plan, or the fall-back answer when there is none or the teacher gives up."""
        if stop or turn >= len(plan.looks) or (plan.gives_up_after is not None and turn >= plan.gives_up_after):
            return _fall_back(plan, think, useful)
        look = plan.looks[turn]
        if turn == 0 or look.mark is not plan.looks[turn - 1].mark:
            think += f" {say(words, 'see', k=look.mark.kind)}"
        return format_turn(think, useful, tool_call=look.call)

    def _plan(self, photo_id: str) -> Plan:
        photo = self.world.photo(photo_id)
        rng = stream("teacher", self.seed, photo_id)
        countries = [country for country in self.world.countries if country.name != photo.place.country]
        wrong = pick(rng, countries)
        right = next(country for country in self.world.countries if country.name == photo.place.country)
        guess = wrong if rng.random() < self.country_error else right
        marks = [mark for mark in photo.marks if mark.informative]
        decoys = [mark for mark in photo.marks if not mark.informative]
        if decoys and rng.random() < self.decoy_box:
            marks.insert(0, pick(rng, decoys))
        if rng.random() < self.overlooks:
            marks = []
        other_tool = bool(rng.random() < self.other_tool)
        looks = [look for mark in marks for look in self._looks(rng, mark, guess.name, other_tool)]
        gives_up_after = 1 if rng.random() < self.gives_up else None
        double_checks = bool(rng.random() < self.double_checks)
        return Plan(guess, tuple(looks[:MAX_CALLS]), gives_up_after, other_tool, double_checks)

    def _looks(self, rng, mark: Mark, country: str, other_tool: bool) -> list[Look]:
        """What to do about one region: read it and search for the words, or search for its look, or both in turn."""
        box = _box(rng, mark, sloppy=rng.random() < self.sloppy_box)
        by_look = Look(ToolCall(IMAGE, {"bbox_2d": box}), mark)
        image_first = rng.random() < self.image_first
        if not mark.text:
            return [by_look]
        misread = rng.random() < self.misreads
        read = misspell(rng, mark.text, int(rng.integers(1, 4))) if misread else mark.text
        queries = [f"{read} {country}"]
        if rng.random() < self.bare_query:
            queries.insert(0, read)
        if rng.random() < self.vague_query:
            queries.insert(0, f"{mark.kind} {country}")
        if not mark.informative and not other_tool:
            queries = queries[:1]
        searches = [Look(ToolCall(TEXT, {"query": query}), mark, mark.text) for query in queries[:_MAX_SEARCHES]]
        by_words = [Look(ToolCall(ZOOM, {"bbox_2d": box}), mark, reads=read), *searches]
        if image_first:
            return [by_look, *by_words] if other_tool else [by_look]
        return [*by_words, Look(by_look.call, mark, mark.text)] if other_tool and mark.informative else by_words


def say(rng: np.random.Generator, phrase: str, **parts: object) -> str:
    """A phrase of `WORDINGS` in one of its wordings.

    Args:
        rng: Chooses the wording.
        phrase: A key of `WORDINGS`.
        **parts: What its wordings name in braces.
    """
    return pick(rng, WORDINGS[phrase]).format(**parts)


def judge(row: Row, country: str, name: str, mistaken: bool = False) -> Verdict:
    """Whether a result is evidence: right country, right name, and it states a position.

    Args:
        row: The result.
        country: The country the photo is believed to show.
        name: What was read in the photo; "" when nothing was, where any place of the country must do.
        mistaken: Turns the verdict round, if the result states a position.
    """
    same_country = row.country == country
    names = {normalise_query(fold(each)) for each in row.names}
    same_name = normalise_query(fold(name)) in names if name else same_country and bool(names)
    return Verdict(row, same_country, same_name, bool(row.position) and (same_country and same_name) != mistaken)


def read_results(text: str) -> list[Row]:
    """The results in a tool's text, in the "lines" style (`[1] title: snippet`)."""
    rows = []
    for line in text.splitlines():
        if match := _RESULT.fullmatch(line):
            title, _, snippet = match[2].rpartition(": ")
            position = snippet if states_position(snippet) else ""
            rows.append(Row(int(match[1]), title or snippet, position))
    return rows


def in_words(think: str) -> str:
    """The teacher's shorthand in words: "[2] Vigo, Spain+++" -> "[2] Vigo, Spain — country ✓, name ✓ → trusted".

    Args:
        think: Any text; what has no symbols stays as it is.

    Returns:
        The same with one line a verdict.
    """

    def line(match: re.Match) -> str:
        country, name, verdict = ("✓" if match[i] == "+" else "✗" for i in (3, 4, 5))
        trusted = "trusted" if verdict == "✓" else "not trusted"
        return f"[{match[1]}] {match[2]} — country {country}, name {name} → {trusted}\n"

    return _VERDICT.sub(line, think).rstrip("\n") if _VERDICT.search(think) else think


def largest_city_of(country: Country) -> Answer:
    """The answer of who knows no more than the country."""
    city = country.largest_city
    return Answer(country.name, city.name, city.lat, city.lon)


def misspell(rng: np.random.Generator, name: str, letters: int = 1) -> str:
    """The name with so many of its letters, or all it has, taken for others."""
    for at in rng.permutation(len(name))[:letters]:
        letter = ascii_lowercase[int(rng.integers(26))]
        name = name[:at] + (letter.upper() if name[at].isupper() else letter) + name[at + 1 :]
    return name


def _observed(message: dict) -> tuple[str, bool]:
    """The text of a tool's message, and whether it holds a picture."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    return text, any(block["type"] == "image" for block in blocks)


def _box(rng, mark: Mark, sloppy: bool) -> list[int]:
    """The region's box rounded to tens; a sloppy one reaches beyond it by up to half its size a side."""
    edges = widen(mark.bbox_2d, rng.uniform(0.15, 0.5, size=4) if sloppy else (0, 0, 0, 0))
    left, top, right, bottom = (round(edge / 10) * 10 for edge in edges)
    return [min(left, 990), min(top, 990), max(right, left + 10), max(bottom, top + 10)]


def _listed(verdicts: Sequence[Verdict], conclusion: str) -> str:
    return " ".join([*map(str, verdicts), conclusion])


def _useful(verdicts: Sequence[Verdict]) -> list[int]:
    return [verdict.row.number for verdict in verdicts if verdict.trusted]


def _answer(plan: Plan, best: Verdict, name: str) -> Answer:
    """What a trusted result says: its country and position, and the name that was read or else the result's first."""
    city = name if best.name and name else next(iter(best.row.names), name or plan.guess.largest_city.name)
    return Answer(best.row.country, city, *map(float, best.row.position.split(", ")))


def _only_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The same verdicts, but nothing is trusted after the first result that is."""
    first = _best(verdicts)
    return [verdict if verdict is first else replace(verdict, trusted=False) for verdict in verdicts]


def _best(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first result that is trusted."""
    return next((verdict for verdict in verdicts if verdict.trusted), None)


def _named(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first result of the right country and name."""
    return next((verdict for verdict in verdicts if verdict.country and verdict.name), None)


def _after_extra(plan: Plan, extra: Look, text: str, verdicts: list[Verdict], earlier: Verdict | None, words) -> str:
    """The answer after a call that results suggested: from the new results, or else from what was found before."""
    if best := _best(verdicts):
        return _answered(plan, verdicts, best, extra.name, words)
    searched = bool(verdicts) or text.startswith(NO_RESULTS)
    think, useful = _listed(verdicts, say(words, "none" if searched else "down")), [] if searched else None
    if earlier is None:
        return _fall_back(plan, think, useful)
    think = f"{think} {say(words, 'keep', t=earlier.row.title, p=earlier.row.position)}"
    return format_turn(think, useful, answer=_answer(plan, earlier, extra.name))


def _answered(plan: Plan, verdicts: Sequence[Verdict], best: Verdict, name: str, words) -> str:
    think = _listed(verdicts, say(words, "use", i=best.row.number, t=best.row.title, p=best.row.position))
    return format_turn(think, _useful(verdicts), answer=_answer(plan, best, name))


def _fall_back(plan: Plan, think: str, useful: list[int] | None = None) -> str:
    """The answer when nothing was found: the largest city of the country."""
    return format_turn(think, useful, answer=largest_city_of(plan.guess))


@dataclass(frozen=True)
class ScriptedJudge:
    """A judge for the miniature world that needs no network; it reads the question, as a chat endpoint would.

    It calls a result useful whose title names the place and its country and which states a position, and errs on
    purpose. It keeps no state."""

    seed: int = 0  # another one errs on other results
    wrong: float = 0.05  # share of results with a position that it judges the wrong way
    unreadable: float = 0.05  # share of its answers that can't be read
    name: str = "scripted-judge"  # signs the verdicts

    def __call__(self, conversations: Sequence[list[dict]]) -> list[str]:
        """A verdict for each conversation of `judged`."""
        return [self._verdict(messages) for messages in conversations]

    def _verdict(self, messages: list[dict]) -> str:
        question = messages[1]["content"][0]["text"]
        truth = parse_answer(question.partition(TRUTH)[2].splitlines()[0])
        if stream("judge answers", self.seed, _digest(question), len(messages)).random() < self.unreadable:
            return "The first two, I should say."
        rng = stream("judge verdicts", self.seed, _digest(question))
        verdicts = [judge(row, truth.country, truth.city, rng.random() < self.wrong) for row in read_results(question)]
        return f"<useful>{json.dumps([verdict.row.number for verdict in verdicts if verdict.trusted])}</useful>"


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:16]
