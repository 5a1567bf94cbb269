"""A panel for notebooks (ipywidgets) in which a person reviews trajectories: boxes, a tick a result, accept or reject.

Every decision is on disk before the next trajectory is shown (`reverse_lib.review_log`), so the browser can be closed
at any moment; the same call continues where it stopped. Where no widget can be drawn, the panel stands there as HTML.

    ReviewPanel(trajectories, photos, "outputs/review_ann.jsonl", reviewer="ann", in_words=in_words)
"""

import html
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import ipywidgets
from PIL import Image

from reverse_lib.annotation import Decision, ReviewLog, SearchLabels, changed_photos, known_labels, review_key, searches
from reverse_lib.photos import Photo, PhotoError
from reverse_lib.show.box_editor import BoxEditor, offered_boxes
from reverse_lib.show.style import PLAIN, RIGHT
from reverse_lib.show.viewer import (
    MUTED,
    RULE,
    Panel,
    beside,
    block,
    crop_html,
    label_of,
    line,
    origin_of,
    photo_html,
    result_html,
    trusted_after,
    written,
)
from reverse_lib.trajectory import TOOLS, Observation, Trajectory

_PHOTO_PX, _UNFOLDED_PX = 460, 380  # width of the photo, live and unfolded
_UNFOLDED = 20  # trajectories that are written out in full where there is no front end
_DONE = {"accept": ("✓", "accepted"), "reject": ("✗", "rejected"), "skip": ("–", "skipped")}
_OPEN = ("·", "undecided")


@dataclass(frozen=True)
class _State:
    """What a reviewer may change of a trajectory: useful positions by turn, boxes that tell the place, the note."""

    ticks: dict[int, tuple[int, ...]]
    boxes: dict[str, list[int]]
    note: str = ""


class ReviewPanel(Panel):
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
        self._make_widgets()
        super().__init__(self._layout(), layout={"max_width": "1180px"})
        self._show(self._next_undecided(-1))
        self._say(*self._opening_remarks())

    def unfolded(self) -> str:
        """Progress, and every turn with its ticks; when there are many trajectories, those from the present one on."""
        first = max(min(self._index, len(self._rows) - _UNFOLDED), 0)
        rows = range(first, min(first + _UNFOLDED, len(self._rows)))
        rest = len(self._rows) - len(rows)
        more = f"<p>{rest} more are not written out here.</p>" if rest else ""
        return self._progress_html() + "".join(self._unfolded_row(i, is_open=i == self._index) for i in rows) + more

    def _unfolded_row(self, i: int, is_open: bool) -> str:
        state, image = self._current() if i == self._index else self._state_of(i), self._load(i)
        rows = [self._about(i)]
        for piece, place in self._pieces(i, image):
            if place is not None:
                tick = "☑" if place[1] in state.ticks[place[0]] else "☐"
                piece = f'<div style="display:flex;gap:6px"><span>{tick} [{place[1]}]</span>{piece}</div>'
            rows.append(piece)
        rows += [line("note", state.note)] if state.note else []
        boxes = offered_boxes(self._rows[i]) | state.boxes
        drawn = [(box, RIGHT if name in state.boxes else PLAIN, name) for name, box in boxes.items()]
        title = html.escape(self._name(i, self.record.decisions))
        body = beside(_photo(image, drawn, _UNFOLDED_PX), block(rows))
        head = f'<summary style="font-weight:600;margin:4px 0">{title}</summary>'
        return f"<details{' open' if is_open else ''}>{head}{body}</details>"

    def _make_widgets(self) -> None:
        wide, narrow, button = {"width": "auto", "flex": "1 1 200px"}, {"width": "40px"}, {"width": "96px"}
        self.progress = ipywidgets.HTML()
        self.choice = ipywidgets.Dropdown(layout=wide)
        self.previous = ipywidgets.Button(description="◀", tooltip="the one before", layout=narrow)
        self.following = ipywidgets.Button(description="▶", tooltip="the one after", layout=narrow)
        self.next_undecided = ipywidgets.Button(description="next undecided", layout={"width": "130px"})
        self.photo, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.boxes = BoxEditor(self._draw_photo)
        self.turns = ipywidgets.VBox(layout={"max_height": "680px", "overflow": "hidden auto"})
        self.note = ipywidgets.Text(placeholder="note (optional)", layout=wide)
        styles = {"accept": ("success", "check"), "reject": ("danger", "times"), "skip": ("", "forward")}
        self.verdicts = {
            verdict: ipywidgets.Button(description=verdict, button_style=style, icon=icon, layout=button)
            for verdict, (style, icon) in styles.items()
        }
        self.undo = ipywidgets.Button(description="undo", icon="undo", layout=button)
        self.choice.observe(self._on_choice, "value")
        self.previous.on_click(lambda _: self._go((self._index - 1) % len(self._rows)))
        self.following.on_click(lambda _: self._go((self._index + 1) % len(self._rows)))
        self.next_undecided.on_click(lambda _: self._go(self._next_undecided(self._index)))
        self.undo.on_click(self._on_undo)
        for verdict, widget in self.verdicts.items():
            widget.on_click(lambda _, verdict=verdict: self._on_verdict(verdict))

    def _layout(self) -> list[ipywidgets.Widget]:
        left = ipywidgets.VBox([self.photo, self.boxes], layout={"width": f"{_PHOTO_PX + 6}px", "max_width": "100%"})
        right = ipywidgets.VBox([self.turns], layout={"flex": "1 1 420px", "min_width": "0"})
        buttons = ipywidgets.HBox([*self.verdicts.values(), self.undo, self.note], layout={"flex_flow": "row wrap"})
        return [
            self.progress,
            ipywidgets.HBox([self.previous, self.choice, self.following, self.next_undecided]),
            ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "8px 20px"}),
            buttons,
            self.message,
        ]

    def _opening_remarks(self) -> Iterator[str]:
        yield self.record.set_aside
        if changed := changed_photos(self._rows, self.record.decisions.values()):
            yield f"Changed since they were decided, so undecided again: {', '.join(changed)}."

    def _name(self, i: int, decisions: dict) -> str:
        """A trajectory in the list: a mark for its verdict, its number, its photo."""
        decision = decisions.get(self._keys[i])
        mark, word = _DONE[decision.verdict] if decision else _OPEN
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
        row = self._rows[i]
        decision = self.record.decisions.get(self._keys[i])
        labels = decision.labels if decision else known_labels(row) if self._prefill else ()
        ticks = dict.fromkeys(searches(row), ()) | {one.turn: one.useful for one in labels}
        regions = {name: box for name, box in offered_boxes(row).items() if name.startswith("region")}
        return _State(ticks, decision.boxes if decision else regions, decision.note if decision else "")

    def _current(self) -> _State:
        """What the widgets say of the trajectory they show."""
        ticks = dict.fromkeys(searches(self._rows[self._index]), ())
        for (turn, position), box in self.ticks.items():
            ticks[turn] += (position,) if box.value else ()
        return _State(ticks, self.boxes.kept, self.note.value)

    def _load(self, i: int) -> Image.Image | str:
        """The photo of a trajectory, or why it can't be read."""
        try:
            return self._photos[self._rows[i].photo_id].load()
        except PhotoError as error:
            return str(error)

    def _about(self, i: int) -> str:
        """The truth about a photo, and who answered."""
        row = self._rows[i]
        known = "unknown" if row.lat is None else f"{row.city}, {row.country} ({row.lat:.2f}, {row.lon:.2f})"
        return f"{line('truth', known)} · {line('by', row.agent or 'unknown')}"

    def _pieces(self, i: int, image: Image.Image | str) -> Iterator[tuple[str, tuple[int, int] | None]]:
        """The turns of a trajectory as HTML in order; a search result comes with its (turn, position)."""
        row, found = self._rows[i], searches(self._rows[i])
        for number, (turn, step) in enumerate(zip(row.turns(), row.steps, strict=True), start=1):
            yield RULE + block([f"<b>Turn {number} of {len(row.steps)}</b>", *written(row, turn, self._in_words)]), None
            trusted = trusted_after(row, number)
            for position, result in enumerate(found.get(number, ()), start=1):
                trust = "trusted by the agent" if position in trusted else ""
                label = label_of(result, step.observation.label_method) if self._prefill else ""
                yield block([result_html(result, origin_of(result), label, trust)]), (number, position)
            if step.observation is not None and number not in found:
                yield block(_told(step.observation, image)), None

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
        self._show_turns(state)
        self._draw_photo()
        self.progress.value = self._progress_html()

    def _show_turns(self, state: _State) -> None:
        old, self.ticks, lines = self.turns.children, {}, [ipywidgets.HTML(self._about(self._index))]
        for piece, place in self._pieces(self._index, self._image):
            text = ipywidgets.HTML(piece, layout={"flex": "0 0 auto", "height": "auto"})  # what is long scrolls
            if place is not None:
                box = ipywidgets.Checkbox(place[1] in state.ticks[place[0]], description=f"[{place[1]}]", indent=False)
                box.layout = {"width": "48px", "flex": "0 0 auto"}
                self.ticks[place] = box
                text.layout = {"flex": "1 1 0", "min_width": "0", "height": "auto"}
                text = ipywidgets.HBox([box, text], layout={"flex": "0 0 auto"})
            lines.append(text)
        self.turns.children = lines
        for widget in old:
            for inner in getattr(widget, "children", ()):
                inner.close()
            widget.close()

    def _draw_photo(self) -> None:
        self.photo.value = _photo(self._image, self.boxes.drawn(), _PHOTO_PX)

    def _progress_html(self) -> str:
        counts = self.record.progress(self._keys)
        done = sum(counts[verdict] for verdict in _DONE)
        words = ", ".join(f"{counts[verdict]} {word}" for verdict, (_, word) in _DONE.items())
        share = 100 * done / len(self._rows)
        bar = f'<div style="background:#8884;height:8px;border-radius:4px"><div style="width:{share:.1f}%;height:8px;'
        bar += f'border-radius:4px;background:{RIGHT}"></div></div>'
        who = html.escape(f"{self.record.reviewer} → {self.record.path}")
        text = f'<b>{done} of {len(self._rows)} decided</b>: {words} <span style="{MUTED}">· {who}</span>'
        return f'<div style="line-height:1.6">{text}{bar}</div>'

    def _say(self, *remarks: str) -> None:
        self.message.value = block(html.escape(remark) for remark in remarks if remark)

    def _go(self, i: int) -> None:
        """Shows another trajectory."""
        self._keep_draft()
        self._show(i)
        self._say(self._standing_remark())

    def _standing_remark(self) -> str:
        """Whether what is shown is on record."""
        if self._index in self._drafts:
            return "Changed here and not recorded yet: decide to record it."
        decision = self.record.decisions.get(self._keys[self._index])
        return f"{decision.photo_id}: {_DONE[decision.verdict][1]}, recorded at {decision.time}." if decision else ""

    def _keep_draft(self) -> None:
        """Keeps what was changed in the trajectory on show until somebody decides on it."""
        if self._current() != self._state_of(self._index):
            self._drafts[self._index] = self._current()

    def _on_choice(self, change) -> None:
        if not self._showing:
            self._go(change["new"])

    def _on_verdict(self, verdict: str) -> None:
        state, row = self._current(), self._rows[self._index]
        found = searches(row)
        labels = [SearchLabels(turn, len(found[turn]), useful) for turn, useful in state.ticks.items()]
        try:
            decision = self.record.decide(row, verdict, labels, state.boxes, state.note)
        except OSError as error:
            self._say(f"Not recorded: {error}")
            return
        self._drafts.pop(self._index, None)
        self._show(self._next_undecided(self._index))
        self._say(f"{row.photo_id}: {_DONE[verdict][1]}, recorded at {decision.time}.", self._whether_done())

    def _whether_done(self) -> str:
        return "" if self.record.progress(self._keys)["undecided"] else "Everything is decided."

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
            self._drafts[self._index] = _state(decision)
        self._show(self._index)
        self._say(f"{decision.photo_id}: no longer {_DONE[decision.verdict][1]}.")


def _state(decision: Decision) -> _State:
    return _State({one.turn: one.useful for one in decision.labels}, decision.boxes, decision.note)


def _photo(image: Image.Image | str, boxes: Sequence[tuple], width_px: int) -> str:
    return line("no photo:", image) if isinstance(image, str) else photo_html(image, boxes, width_px)


def _told(observation: Observation, image: Image.Image | str) -> list[str]:
    """What came back from a call that was no search with results: the region looked at, and the tool's words."""
    looked = observation.tool == TOOLS[0] and observation.status == "ok" and not isinstance(image, str)
    rows = [crop_html(image, observation.arguments.get("bbox_2d"))] if looked else []
    return rows + ([line("is told", observation.text)] if observation.text else [])
