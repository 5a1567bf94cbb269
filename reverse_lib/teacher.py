"""The scripted teacher: writes trajectories in the tiny agent's own words, knowing the truth and erring on purpose.

It replaces the paper's large teacher model where there is none: the cold start learns from what it writes, and its
errors (decoy boxes, vague queries, giving up, wrong trust) give filters and labels their work. It decides from the
truth about a photo, never from pixels, but says only what the model could have seen. Every error rate is a field;
which photos they hit follows from (seed, photo id).

    teacher = ScriptedTeacher(world)
    trajectories = rollout(teacher, world.photos("train", 500), world.live)

Evidence is judged in symbols, since a small model learns one token a decision: after each result's title come country
match, name match and verdict (`+` or `~`). `in_words` writes them out for people.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from reverse_lib.geo import Answer
from reverse_lib.interface import NO_RESULTS
from reverse_lib.search import normalise_query
from reverse_lib.trajectory import ToolCall, format_turn
from reverse_lib.world import Country, Mark, World
from reverse_lib.world.gazetteer import pick, stream
from reverse_lib.world.web import LANDMARK_TITLES, PLACE_TITLES, SHOP_TITLES

_TITLES = (*PLACE_TITLES, *LANDMARK_TITLES, *SHOP_TITLES, "Street in {n}, {c}", "Poster {n}, {c}")
_SUBJECTS = [re.compile(re.escape(title.removesuffix(", {c}")).replace(r"\{n\}", "(.+)")) for title in _TITLES]
_RESULT = re.compile(r"\[(\d+)\] (.*)")
_POSITION = re.compile(r"-?\d{1,2}\.\d{2}, -?\d{1,3}\.\d{2}")
_VERDICT = re.compile(r"\[(\d{1,3})\] ([^\[\]\n~]{1,200}?)([+~])([+~])([+~])(?: |$)")
_MAX_SEARCHES = 3


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
        subject = self.title.rpartition(", ")[0]
        inner = next((match[1] for pattern in _SUBJECTS if (match := pattern.fullmatch(subject))), subject)
        return inner.split(" or ")


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
class Plan:
    """What the teacher means to do with a photo: the calls it makes one after the other until one succeeds."""

    guess: Country
    calls: tuple[tuple[ToolCall, Mark], ...]  # each with the region it is about
    gives_up_after: int | None  # turns


@dataclass(frozen=True)
class ScriptedTeacher:
    """An agent for `rollout` that knows the truth about a world's photos. It keeps no state.

    Attributes:
        world: The world whose photos it is shown.
        seed: Another seed errs on other photos.
        country_error: Share of photos whose country it takes for another.
        decoy_box: Share of photos with a decoy where it looks there first (or in vain).
        overlooks: Share of photos where it sees nothing worth a look.
        sloppy_box: Share of boxes drawn too large.
        vague_query: Share of readings that it first searches without the name.
        bare_query: Share of readings that it first searches without the country.
        gives_up: Share of photos where it answers after its first look, whatever it saw.
        wrong_verdict: Share of results with coordinates that it trusts, or does not trust, against its own flags.
        name: Signs the trajectories.
    """

    world: World
    seed: int = 0
    country_error: float = 0.05
    decoy_box: float = 0.12
    overlooks: float = 0.06
    sloppy_box: float = 0.1
    vague_query: float = 0.06
    bare_query: float = 0.08
    gives_up: float = 0.1
    wrong_verdict: float = 0.03
    name: str = "scripted-teacher"

    def respond_for(self, photo_ids: Sequence[str], conversations: Sequence[list[dict]]) -> list[str]:
        """The next turn of each conversation, which must be about the photo of the same position.

        Raises:
            KeyError: A photo is none of the world's.
        """
        return [self._turn(photo_id, messages) for photo_id, messages in zip(photo_ids, conversations, strict=True)]

    def _turn(self, photo_id: str, messages: Sequence[dict]) -> str:
        plan = self._plan(photo_id)
        turn = sum(message["role"] == "assistant" for message in messages)
        if turn == 0:
            return self._go_on(plan, 0, f"{plan.guess.name}?" if plan.calls else f"{plan.guess.name}? Nothing to read.")
        text, has_image = _observed(messages[-1])
        call, mark = plan.calls[turn - 1]
        if call.name == "image_zoom_in_tool":
            if not has_image:
                return _fall_back(plan, "Nothing to read.")
            return self._go_on(plan, turn, f"It reads {mark.text}.", stop="answer now" in text)
        rows = read_results(text)
        if not rows and not text.startswith(NO_RESULTS):
            return _fall_back(plan, "No search.")
        return self._judged(plan, turn, rows, photo_id, stop="answer now" in text)

    def _judged(self, plan: Plan, turn: int, rows: list[Row], photo_id: str, stop: bool) -> str:
        """The turn after a search: a verdict on every result, then the answer or the next call."""
        mark = plan.calls[turn - 1][1]
        rng = stream("teacher verdicts", self.seed, photo_id, turn)
        verdicts = [judge(row, plan.guess.name, mark.text, rng.random() < self.wrong_verdict) for row in rows]
        trusted = [verdict for verdict in verdicts if verdict.trusted]
        useful = [verdict.row.number for verdict in trusted]
        think = " ".join(map(str, verdicts))
        if not trusted:
            return self._go_on(plan, turn, f"{think} None.".strip(), [], stop)
        best = trusted[0]
        city = mark.text if best.name and mark.text else best.row.names[0]
        lat, lon = map(float, best.row.position.split(", "))
        answer = Answer(best.row.country, city, lat, lon)
        return format_turn(f"{think} Use [{best.row.number}]: {best.row.position}", useful, answer=answer)

    def _go_on(self, plan: Plan, turn: int, think: str, useful: list[int] | None = None, stop: bool = False) -> str:
        """The next call of the plan, or the fall-back answer when there is none or the teacher gives up."""
        if stop or turn >= len(plan.calls) or (plan.gives_up_after is not None and turn >= plan.gives_up_after):
            return _fall_back(plan, think, useful)
        call, mark = plan.calls[turn]
        if turn == 0 or mark is not plan.calls[turn - 1][1]:
            think += f" A {mark.kind}."
        return format_turn(think, useful, tool_call=call)

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
        calls = [(call, mark) for mark in marks for call in self._calls(rng, mark, guess.name)]
        return Plan(guess, tuple(calls), 1 if rng.random() < self.gives_up else None)

    def _calls(self, rng, mark: Mark, country: str) -> list[ToolCall]:
        """What to do about one region: read it and search for the words, or search for its look."""
        box = _box(rng, mark, sloppy=rng.random() < self.sloppy_box)
        if not mark.text:
            return [ToolCall("image_search_tool", {"bbox_2d": box})]
        queries = [f"{mark.text} {country}", mark.text]
        if rng.random() < self.bare_query:
            queries.reverse()
        if rng.random() < self.vague_query:
            queries.insert(0, f"{mark.kind} {country}")
        if not mark.informative:
            queries = queries[:1]
        searches = [ToolCall("text_search_tool", {"query": query}) for query in queries[:_MAX_SEARCHES]]
        return [ToolCall("image_zoom_in_tool", {"bbox_2d": box}), *searches]


def judge(row: Row, country: str, name: str, mistaken: bool = False) -> Verdict:
    """Whether a result is evidence: right country, right name, and it states a position.

    Args:
        row: The result.
        country: The country the photo is believed to show.
        name: What was read in the photo; "" after an image search, where the country alone must do.
        mistaken: Turns the verdict round, if the result states a position.
    """
    same_country = row.country == country
    names = {normalise_query(one) for one in row.names}
    same_name = normalise_query(name) in names if name else same_country
    return Verdict(row, same_country, same_name, bool(row.position) and (same_country and same_name) != mistaken)


def read_results(text: str) -> list[Row]:
    """The results in a tool's text, in the "lines" style (`[1] title: snippet`)."""
    rows = []
    for line in text.splitlines():
        if match := _RESULT.fullmatch(line):
            title, _, snippet = match[2].rpartition(": ")
            position = snippet if _POSITION.fullmatch(snippet) else ""
            rows.append(Row(int(match[1]), title or snippet, position))
    return rows


def in_words(think: str) -> str:
    """The teacher's symbols as words: `[2] Valencia, Spain+++` -> "[2] Valencia, Spain — country ✓, name ✓ → trusted".

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


def _observed(message: dict) -> tuple[str, bool]:
    """The text of a tool's message, and whether it holds a picture."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    return text, any(block["type"] == "image" for block in blocks)


def _box(rng, mark: Mark, sloppy: bool) -> list[int]:
    """The region's box rounded to tens; a sloppy one reaches beyond it by up to half its size a side."""
    x1, y1, x2, y2 = mark.bbox_2d
    reach = rng.uniform(0.15, 0.5, size=4) if sloppy else (0, 0, 0, 0)
    width, height = x2 - x1, y2 - y1
    edges = (x1 - reach[0] * width, y1 - reach[1] * height, x2 + reach[2] * width, y2 + reach[3] * height)
    left, top, right, bottom = (min(max(round(edge / 10) * 10, 0), 1000) for edge in edges)
    return [min(left, 990), min(top, 990), max(right, left + 10), max(bottom, top + 10)]


def _fall_back(plan: Plan, think: str, useful: list[int] | None = None) -> str:
    """The answer when nothing was found: the largest city of the country."""
    country = plan.guess
    return format_turn(think, useful, answer=Answer(country.name, country.city, country.lat, country.lon))
