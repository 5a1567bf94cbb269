"""A panel for notebooks (ipywidgets) in which a person reviews trajectories: boxes, a tick a result, accept or reject.

Every decision is on disk before the next trajectory is shown (`annotation.ReviewLog`), so the browser can be closed at
any moment; the same call continues where it stopped. Where no widget can be drawn, the panel stands there as HTML.

    ReviewPanel(trajectories, photos, "outputs/review_ann.jsonl", reviewer="ann", in_words=in_words)
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets
from PIL import Image

from reverse_lib.annotation import Decision, ReviewLog, changed_photos, review_key, searches
from reverse_lib.geo import BoxError, as_box
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.show.style import PLAIN, RIGHT, box_or_none, escaped
from reverse_lib.show.viewer import (
    MUTED,
    RULE,
    beside,
    block,
    crop_html,
    label_of,
    line,
    photo_html,
    result_html,
    trusted_after,
    written,
)
from reverse_lib.trajectory import TOOLS, Observation, Trajectory

_PHOTO_PX, _UNFOLDED_PX = 460, 380  # width of the photo, live and unfolded
_UNFOLDED = 20  # trajectories that are written out in full where there is no front end
_NEW_BOX = [400, 400, 600, 600]  # where a new box starts
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_DONE = {"accept": ("✓", "accepted"), "reject": ("✗", "rejected"), "skip": ("–", "skipped")}
_WIDE = {"width": "auto", "flex": "1 1 200px"}


@dataclass(frozen=True)
class _State:
    """What a reviewer may change of a trajectory: flags of the results by turn, boxes that tell the place, the note."""

    labels: dict[int, tuple[bool, ...]]
    boxes: dict[str, list[int]]
    note: str = ""


class ReviewPanel(ipywidgets.VBox):
    """Trajectories to decide on, one after the other.

    Args:
        trajectories: What to review.
        photos: Their photos, in any order.
        file: The reviewer's own `.jsonl` file, made when it is not there; what it holds already is decided.
        reviewer: Who decides.
        in_words: Turns an agent's shorthand into words.
        prefill: Whether results are ticked as they are labelled, until somebody decides. Two reviewers whose agreement
            is to be measured should each start from nothing: False hides the labels, too.

    Raises:
        ValueError: There is nothing to review, a photo is missing, or the file is another reviewer's or broken.
    """

    def __init__(
        self,
        trajectories: Sequence[Trajectory],
        photos: Iterable[Photo],
        file: str | os.PathLike[str],
        reviewer: str,
        in_words: Callable[[str], str] = str,
        prefill: bool = True,
    ):
        self._rows, self._photos = list(trajectories), {photo.photo_id: photo for photo in photos}
        if not self._rows:
            raise ValueError("ReviewPanel: no trajectories; give at least one")
        if missing := [row.photo_id for row in self._rows if row.photo_id not in self._photos]:
            raise ValueError(f"ReviewPanel: no photo {missing[0]!r} among those given; give one for each trajectory")
        self.record = ReviewLog(file, reviewer)
        self._keys = [review_key(row) for row in self._rows]
        self._in_words, self._prefill = in_words, prefill
        self._drafts: dict[int, _State] = {}  # changed but not decided, by trajectory
        self._index, self._showing = 0, False
        self._image: Image.Image | str = ""  # the photo, or why it can't be read
        self.ticks: dict[tuple[int, int], ipywidgets.Checkbox] = {}  # by (turn, result), both from 1
        super().__init__(self._make_widgets(), layout={"max_width": "1180px"})
        self._show(self._next_undecided(-1))
        changed = ", ".join(changed_photos(self._rows, self.record.decisions.values()))
        changed = changed and f"Changed since they were decided, so undecided again: {changed}."
        self._say(self.record.set_aside, changed)

    def _repr_mimebundle_(self, **kwargs):
        page = {"text/html": self.unfolded()}
        return page if os.environ.get("REVERSE_NO_FRONT_END") else super()._repr_mimebundle_(**kwargs) | page

    def unfolded(self) -> str:
        """Progress, and every turn with its ticks; when there are many trajectories, those from the present one on."""
        first = max(min(self._index, len(self._rows) - _UNFOLDED), 0)
        rows = range(first, min(first + _UNFOLDED, len(self._rows)))
        rest = len(self._rows) - len(rows)
        more = f"<p>{rest} more are not written out here.</p>" if rest else ""
        return self._progress_html() + "".join(map(self._unfolded_row, rows)) + more

    def _unfolded_row(self, i: int) -> str:
        state, image = self._current() if i == self._index else self._state_of(i), self._load(i)
        rows = [self._about(i)]
        for piece, place in self._pieces(i, image):
            if place is not None:
                tick = "☑" if state.labels[place[0]][place[1] - 1] else "☐"
                piece = f'<div style="display:flex;gap:6px"><span>{tick} [{place[1]}]</span>{piece}</div>'
            rows.append(piece)
        rows += [line("note", state.note)] if state.note else []
        boxes = offered_boxes(self._rows[i]) | state.boxes
        drawn = [(box, RIGHT if name in state.boxes else PLAIN, name) for name, box in boxes.items()]
        title = escaped(self._name(i, self.record.decisions))
        head = f'<summary style="font-weight:600;margin:4px 0">{title}</summary>'
        body = beside(_photo(image, drawn, _UNFOLDED_PX), block(rows))
        return f"<details{' open' if i == self._index else ''}>{head}{body}</details>"

    def _make_widgets(self) -> list[ipywidgets.Widget]:
        """Makes every widget; returns the panel's rows."""
        narrow, button = {"width": "40px"}, {"width": "96px"}
        self.progress, self.photo, self.message = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.previous = ipywidgets.Button(description="◀", tooltip="the one before", layout=narrow)
        self.choice = ipywidgets.Dropdown(layout=_WIDE)
        self.following = ipywidgets.Button(description="▶", tooltip="the one after", layout=narrow)
        self.next_undecided = ipywidgets.Button(description="next undecided", layout={"width": "130px"})
        self.boxes = BoxEditor(self._draw_photo)
        self.turns = ipywidgets.VBox(layout={"max_height": "680px", "overflow": "hidden auto"})
        styles = {"accept": ("success", "check"), "reject": ("danger", "times"), "skip": ("", "forward")}
        self.verdicts = {
            verdict: ipywidgets.Button(description=verdict, button_style=style, icon=icon, layout=button)
            for verdict, (style, icon) in styles.items()
        }
        self.undo = ipywidgets.Button(description="undo", icon="undo", layout=button)
        self.note = ipywidgets.Text(placeholder="note (optional)", layout=_WIDE)
        self.choice.observe(lambda change: None if self._showing else self._go(change["new"]), "value")
        self.previous.on_click(lambda _: self._go((self._index - 1) % len(self._rows)))
        self.following.on_click(lambda _: self._go((self._index + 1) % len(self._rows)))
        self.next_undecided.on_click(lambda _: self._go(self._next_undecided(self._index)))
        self.undo.on_click(self._on_undo)
        for verdict, widget in self.verdicts.items():
            widget.on_click(lambda _, verdict=verdict: self._on_verdict(verdict))
        left = ipywidgets.VBox([self.photo, self.boxes], layout={"width": f"{_PHOTO_PX + 6}px", "max_width": "100%"})
        right = ipywidgets.VBox([self.turns], layout={"flex": "1 1 420px", "min_width": "0"})
        return [
            self.progress,
            ipywidgets.HBox([self.previous, self.choice, self.following, self.next_undecided]),
            ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "8px 20px"}),
            ipywidgets.HBox([*self.verdicts.values(), self.undo, self.note], layout={"flex_flow": "row wrap"}),
            self.message,
        ]

    def _name(self, i: int, decisions: Mapping) -> str:
        """A trajectory in the list: a mark for its verdict, its number, its photo."""
        decision = decisions.get(self._keys[i])
        mark, word = _DONE[decision.verdict] if decision else ("·", "undecided")
        return f"{mark} {i + 1} of {len(self._rows)} · {self._rows[i].photo_id} · {word}"

    def _next_undecided(self, i: int) -> int:
        """The first undecided one after trajectory `i`, from the start again after the last; `i` if there is none."""
        decided = self.record.decisions
        order = ((i + step) % len(self._rows) for step in range(1, len(self._rows) + 1))
        return next((k for k in order if self._keys[k] not in decided), max(i, 0))

    def _state_of(self, i: int) -> _State:
        """What to show of a trajectory: a change that waits for a decision, else what was decided, else its labels."""
        if i in self._drafts:
            return self._drafts[i]
        row, decision = self._rows[i], self.record.decisions.get(self._keys[i])
        labels = {
            turn: tuple(self._prefill and not decision and n in search.useful for n, _ in enumerate(search.results, 1))
            for turn, search in searches(row).items()
        }
        if decision:
            return _State(labels | decision.labels, decision.boxes, decision.note)
        return _State(labels, {name: box for name, box in offered_boxes(row).items() if name.startswith("region")})

    def _current(self) -> _State:
        """What the widgets say of the trajectory they show."""
        labels = dict.fromkeys(searches(self._rows[self._index]), ())
        for (turn, _), box in self.ticks.items():
            labels[turn] += (box.value,)
        return _State(labels, self.boxes.kept, self.note.value)

    def _load(self, i: int) -> Image.Image | str:
        """The photo of a trajectory, or why it can't be read."""
        try:
            return self._photos[self._rows[i].photo_id].load()
        except PhotoError as error:
            return str(error)

    def _about(self, i: int) -> str:
        """The truth about a photo, and who answered."""
        row = self._rows[i]
        truth = "unknown" if row.lat is None else f"{row.city}, {row.country} ({row.lat:.2f}, {row.lon:.2f})"
        return f"{line('truth', truth)} · {line('by', row.agent or 'unknown')}"

    def _pieces(self, i: int, image: Image.Image | str) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """The turns of a trajectory as HTML in order; a search result comes with its (turn, position)."""
        row, results_of = self._rows[i], searches(self._rows[i])
        for number, (turn, step) in enumerate(zip(row.turns(), row.steps, strict=True), start=1):
            yield RULE + block([f"<b>Turn {number} of {len(row.steps)}</b>", *written(row, turn, self._in_words)]), None
            if number in results_of:
                trusted = trusted_after(row, number)
                for position, result in enumerate(step.observation.results, start=1):
                    trust = "trusted by the agent" if position in trusted else ""
                    label = label_of(result, step.observation.label_method) if self._prefill else ""
                    yield (
                        block(
                            [result_html(result, str(result.get("url") or result.get("source") or ""), label, trust)]
                        ),
                        (number, position),
                    )
            elif step.observation is not None:
                yield block(_came_back(step.observation, image)), None

    def _show(self, i: int) -> None:
        """Fills every widget with a trajectory."""
        self._index, self._showing = i, True
        state, self._image = self._state_of(i), self._load(i)
        decisions = self.record.decisions
        self.choice.options = [(self._name(k, decisions), k) for k in range(len(self._rows))]
        self.choice.value = i
        self._showing = False
        self.boxes.load(offered_boxes(self._rows[i]) | state.boxes, state.boxes)
        self.note.value = state.note
        self._draw_photo()
        self.progress.value = self._progress_html()
        old, self.ticks, lines = self.turns.children, {}, [ipywidgets.HTML(self._about(i))]
        for piece, place in self._pieces(i, self._image):
            text = ipywidgets.HTML(piece, layout={"flex": "0 0 auto", "height": "auto"})  # what is long scrolls
            if place is not None:
                turn, position = place
                box = ipywidgets.Checkbox(state.labels[turn][position - 1], description=f"[{position}]", indent=False)
                box.layout = {"width": "48px", "flex": "0 0 auto"}
                self.ticks[place] = box
                text.layout = {"flex": "1 1 0", "min_width": "0", "height": "auto"}
                text = ipywidgets.HBox([box, text], layout={"flex": "0 0 auto"})
            lines.append(text)
        self.turns.children = lines
        for widget in [inner for row in old for inner in (*getattr(row, "children", ()), row)]:
            widget.close()

    def _draw_photo(self) -> None:
        self.photo.value = _photo(self._image, self.boxes.drawn(), _PHOTO_PX)

    def _progress_html(self) -> str:
        counts = self.record.progress(self._keys)
        done = sum(counts[verdict] for verdict in _DONE)
        words = ", ".join(f"{counts[verdict]} {word}" for verdict, (_, word) in _DONE.items())
        who = escaped(f"{self.record.reviewer} → {self.record.path}")
        text = f'<b>{done} of {len(self._rows)} decided</b>: {words} <span style="{MUTED}">· {who}</span>'
        bar = f'<progress style="width:100%;accent-color:{RIGHT}" value="{done}" max="{len(self._rows)}"></progress>'
        return f"{text}<br>{bar}"

    def _say(self, *remarks: str) -> None:
        self.message.value = block(escaped(remark) for remark in remarks if remark)

    def _go(self, i: int) -> None:
        """Shows another trajectory, and says whether what is shown is on record."""
        self._keep_draft()
        self._show(i)
        decision = self.record.decisions.get(self._keys[i])
        if i in self._drafts:
            self._say("Changed here and not recorded yet: decide to record it.")
        else:
            self._say(_recorded(decision) if decision else "")

    def _keep_draft(self) -> None:
        """Keeps what was changed in the trajectory on show until somebody decides on it."""
        if self._current() != self._state_of(self._index):
            self._drafts[self._index] = self._current()

    def _on_verdict(self, verdict: str) -> None:
        state = self._current()
        try:
            decision = self.record.decide(self._rows[self._index], verdict, state.labels, state.boxes, state.note)
        except OSError as error:
            self._say(f"Not recorded: {error}")
            return
        self._drafts.pop(self._index, None)
        self._show(self._next_undecided(self._index))
        is_done = not self.record.progress(self._keys)["undecided"]
        self._say(_recorded(decision), "Everything is decided." if is_done else "")

    def _on_undo(self, _) -> None:
        try:
            decision = self.record.undo()
        except OSError as error:
            self._say(f"Not taken back: {error}")
            return
        if decision is None:
            self._say("There is nothing to take back.")
            return
        self._keep_draft()
        if decision.key in self._keys:
            self._index = self._keys.index(decision.key)
            self._drafts[self._index] = _State(decision.labels, decision.boxes, decision.note)
        self._show(self._index)
        self._say(f"{decision.photo_id}: no longer {_DONE[decision.verdict][1]}.")


class BoxEditor(ipywidgets.VBox):
    """Boxes by name; one is chosen and can be moved by sliders or by typing, any number is kept. What is moved is kept.

    Args:
        on_change: Called after a box was chosen, moved, added, kept or dropped.
    """

    def __init__(self, on_change: Callable[[], None]):
        self._on_change, self._filling = on_change, False
        self._boxes: dict[str, list[int]] = {}
        self._kept: set[str] = set()
        wide = {"width": "auto"}
        self.chooser = ipywidgets.Dropdown(description="box", layout={"flex": "1 1 0", "width": "auto"})
        self.keep = ipywidgets.Checkbox(description="tells the place", indent=False, layout={"width": "125px"})
        self.add = ipywidgets.Button(description="new box", layout={"width": "80px"})
        self.across = ipywidgets.IntRangeSlider(description="left–right", min=0, max=1000, layout=wide)
        self.down = ipywidgets.IntRangeSlider(description="top–bottom", min=0, max=1000, layout=wide)
        self.typed = ipywidgets.Text(description="x1 y1 x2 y2", continuous_update=False, layout=wide)
        self.message = ipywidgets.HTML()
        reactions = {
            self.chooser: self._changed,
            self.keep: self._on_keep,
            self.across: self._on_sliders,
            self.down: self._on_sliders,
            self.typed: lambda text: self._move([float(number) for number in _NUMBER.findall(text)]),
        }
        for widget, react in reactions.items():
            widget.observe(lambda change, react=react: None if self._filling else react(change["new"]), "value")
        self.add.on_click(self._on_add)
        head = ipywidgets.HBox([self.chooser, self.keep, self.add])
        super().__init__([head, self.across, self.down, self.typed, self.message])

    @property
    def kept(self) -> dict[str, list[int]]:
        """The boxes that tell the place, bbox_2d by name."""
        return {name: list(box) for name, box in self._boxes.items() if name in self._kept}

    def load(self, boxes: Mapping[str, Sequence[int]], kept: Iterable[str]) -> None:
        """Starts anew with other boxes; does not call `on_change`."""
        self._boxes, self._kept = {name: list(box) for name, box in boxes.items()}, set(kept)
        self._fill(next(iter([*self.kept, *self._boxes]), None))

    def drawn(self) -> list[tuple[list[int], str, str]]:
        """(bbox_2d, colour, label) of every box, kept ones in green, the chosen one on top."""
        names = sorted(self._boxes, key=lambda name: name == self.chooser.value)
        return [(self._boxes[name], RIGHT if name in self._kept else PLAIN, name) for name in names]

    def _fill(self, name: str | None) -> None:
        """Makes the widgets say what is known of the chosen box."""
        self._filling = True
        self.chooser.options, self.chooser.value = list(self._boxes), name
        x1, y1, x2, y2 = self._boxes.get(name, (0, 0, 1000, 1000))
        self.across.value, self.down.value = (x1, x2), (y1, y2)
        self.typed.value = f"{x1}, {y1}, {x2}, {y2}" if name else ""
        self.keep.value = name in self._kept
        for widget in (self.chooser, self.keep, self.across, self.down, self.typed):
            widget.disabled = name is None
        self.message.value = "" if name else line("", "no box yet")
        self._filling = False

    def _changed(self, name: str) -> None:
        self._fill(name)
        self._on_change()

    def _move(self, numbers: Sequence[float], name: str | None = None) -> None:
        """Puts the chosen box, or the one named, elsewhere."""
        try:
            box = as_box(list(numbers))
        except BoxError as error:
            self.message.value = line("not moved:", str(error))
            return
        name = name or self.chooser.value
        self._boxes[name] = box
        self._kept.add(name)
        self._changed(name)

    def _on_keep(self, keep: bool) -> None:
        (self._kept.add if keep else self._kept.discard)(self.chooser.value)
        self._changed(self.chooser.value)

    def _on_sliders(self, _) -> None:
        (x1, x2), (y1, y2) = self.across.value, self.down.value
        self._move([x1, y1, x2, y2])

    def _on_add(self, _) -> None:
        self._move(_NEW_BOX, f"new {1 + sum(name.startswith('new ') for name in self._boxes)}")


def offered_boxes(trajectory: Trajectory) -> dict[str, list[int]]:
    """Boxes that may tell the place: the annotated regions ("region 1"), and those of calls ("turn 2")."""
    offered = {f"region {i}": box for i, box in enumerate(trajectory.regions, start=1)}
    for number, step in enumerate(trajectory.steps, start=1):
        offered[f"turn {number}"] = step.observation.arguments.get("bbox_2d") if step.observation else None
    boxes = {name: box_or_none(box) for name, box in offered.items()}
    return {name: box for name, box in boxes.items() if box}


def _recorded(decision: Decision) -> str:
    return f"{decision.photo_id}: {_DONE[decision.verdict][1]}, recorded at {decision.time}."


def _photo(image: Image.Image | str, boxes: Sequence[tuple], width_px: int) -> str:
    return line("no photo:", image) if isinstance(image, str) else photo_html(image, boxes, width_px)


def _came_back(observation: Observation, image: Image.Image | str) -> list[str]:
    """What came back from a call that was no search with results: the region looked at, and the tool's words."""
    looked = observation.tool == TOOLS[0] and observation.status == "ok" and not isinstance(image, str)
    rows = [crop_html(image, observation.arguments.get("bbox_2d"))] if looked else []
    return rows + ([line("is told", observation.text)] if observation.text else [])
