"""A panel for notebooks (ipywidgets): stepping through what agents did, turn by turn, also two of them side by side.

A panel only draws: what it shows is HTML that `reverse_lib.markup` made. Where no widget can be drawn (an executed
notebook on a web page, say), it stands there as HTML with all of its turns to unfold.

    TrajectoryViewer({"rollout 1": first, "rollout 2": second}, photo.load(), interface)      # one at a time
    TrajectoryViewer({"cold start": [before], "GRPO": [after]}, photo.load(), interface)      # side by side
"""

import html
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets
from PIL import Image

from reverse_lib.environment import Interface
from reverse_lib.reward import Breakdown
from reverse_lib.show.markup import RULE, score_html, turn_html
from reverse_lib.trajectory import Trajectory

_ALONE_PX, _BESIDE_PX, _UNFOLDED_PX = 440, 320, 240  # width of the photo


class Panel(ipywidgets.VBox):
    """A widget that leaves its `unfolded()` HTML where there is no front end to draw it."""

    def unfolded(self) -> str:
        """Everything the panel can show, as HTML that needs no front end."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs):
        page = {"text/html": self.unfolded()}
        return page if os.environ.get("REVERSE_NO_FRONT_END") else super()._repr_mimebundle_(**kwargs) | page


@dataclass(frozen=True)
class _Run:
    """A rollout to show: what it is called, and what is known of its rewards."""

    label: str
    trajectory: Trajectory
    rewards: Sequence[float] | None
    advantages: Sequence[float] | None
    score: Breakdown | None


class TrajectoryViewer(Panel):
    """Rollouts on one photo to step through: choose one, move through its turns.

    Args:
        rollouts: Trajectories by the name to choose them by, shown one at a time. Or, for each stage (or model) by
            name, a list of trajectories: then the stages stand side by side, and one slider steps them all.
        image: The original photo.
        interface: How the world was shown.
        rewards: What each turn of each rollout earned, in the same order, by stage where rollouts are; or none.
        advantages: Of each turn of each rollout; or none.
        in_words: Turns an agent's shorthand into words.
        scores: Of each rollout, its breakdown; or none.

    Raises:
        ValueError: There is no rollout, one has no turn, they are about several photos, or rewards, advantages or
            scores are not as many.
    """

    def __init__(
        self,
        rollouts: Mapping[str, Trajectory] | Mapping[str, Sequence[Trajectory]],
        image: Image.Image,
        interface: Interface,
        rewards: Sequence | Mapping[str, Sequence] = (),
        advantages: Sequence | Mapping[str, Sequence] = (),
        in_words: Callable[[str], str] = str,
        scores: Sequence[Breakdown] | Mapping[str, Sequence[Breakdown]] = (),
    ):
        self._given = image, interface, in_words
        self._stages = _by_stage(rollouts, rewards=rewards, advantages=advantages, scores=scores)
        self.choosers = [
            ipywidgets.Dropdown(options=[(run.label, i) for i, run in enumerate(runs)], layout={"width": "auto"})
            for runs in self._stages.values()
        ]
        self.turn = ipywidgets.IntSlider(1, 1, self._longest(), description="turn", continuous_update=False)
        self.pages = [ipywidgets.HTML() for _ in self._stages]
        for chooser in self.choosers:
            chooser.observe(self._choose, "value")
        self.turn.observe(self._draw, "value")
        super().__init__(self._layout())
        self._draw()

    def unfolded(self) -> str:
        """Every turn of every rollout, stages side by side."""
        rows = list(itertools.zip_longest(*self._stages.values()))
        return "".join(self._unfolded_row(row, is_open=i == 0) for i, row in enumerate(rows))

    def _unfolded_row(self, runs: Sequence[_Run | None], is_open: bool) -> str:
        """The runs of one row, a column a stage, a line of the grid a turn."""
        titles = [self._title(stage, run) for stage, run in zip(self._stages, runs, strict=True)]
        names = titles if len(runs) > 1 else [""]
        cells = [f"<b>{name}</b>{_score(run)}" for name, run in zip(names, runs, strict=True)]
        for k in range(max(len(run.trajectory.steps) for run in runs if run)):
            cells += [RULE + self._turn(run, k) if run and k < len(run.trajectory.steps) else "" for run in runs]
        grid = f"display:grid;grid-template-columns:repeat({len(runs)},minmax(0,1fr));gap:0 24px"
        return (
            f'<details{" open" if is_open else ""}><summary style="font-weight:600">{" | ".join(filter(None, titles))}'
            f'</summary><div style="{grid}">{"".join(f"<div>{cell}</div>" for cell in cells)}</div></details>'
        )

    def _title(self, stage: str, run: _Run | None) -> str:
        """What a run is called, escaped: by its stage, its label, or both."""
        if run is None:
            return ""
        labelled = not stage or len(self._stages[stage]) > 1
        return html.escape(", ".join(filter(None, (stage, run.label if labelled else ""))))

    def _layout(self) -> list[ipywidgets.Widget]:
        if len(self.pages) == 1:
            return [ipywidgets.HBox([*self.choosers, self.turn]), *self.pages]
        columns = []
        for stage, chooser, page in zip(self._stages, self.choosers, self.pages, strict=True):
            head = [ipywidgets.HTML(f'<b style="font-size:15px">{html.escape(stage)}</b>')]
            head += [chooser] if len(self._stages[stage]) > 1 else []
            columns.append(ipywidgets.VBox([*head, page], layout={"flex": "1 1 0", "min_width": "0"}))
        return [self.turn, ipywidgets.HBox(columns, layout={"grid_gap": "24px", "width": "100%"})]

    def _chosen(self) -> list[_Run]:
        return [runs[chooser.value] for runs, chooser in zip(self._stages.values(), self.choosers, strict=True)]

    def _longest(self) -> int:
        return max(len(run.trajectory.steps) for run in self._chosen())

    def _choose(self, _) -> None:
        self.turn.value = 1
        self.turn.max = self._longest()
        self._draw()

    def _draw(self, _=None) -> None:
        width_px = _ALONE_PX if len(self.pages) == 1 else _BESIDE_PX
        for run, page in zip(self._chosen(), self.pages, strict=True):
            page.value = _score(run) + self._turn(run, min(self.turn.value, len(run.trajectory.steps)) - 1, width_px)

    def _turn(self, run: _Run, k: int, width_px: int | None = None) -> str:
        """Turn `k`, from 0; without a width as it stands among the unfolded ones."""
        image, interface, in_words = self._given
        reward, advantage = (None if row is None else row[k] for row in (run.rewards, run.advantages))
        parts = run.score.per_turn[k] if run.score else None
        shown = {"width_px": width_px or _UNFOLDED_PX, "always_photo": width_px is not None or k == 0}
        return turn_html(run.trajectory, k + 1, image, interface, reward, advantage, in_words, parts=parts, **shown)


def _score(run: _Run | None) -> str:
    return score_html(run.score) if run and run.score else ""


def _by_stage(rollouts: Mapping, **known: Sequence | Mapping) -> dict[str, list[_Run]]:
    """Everything given as runs by stage, checked; one stage without a name where there are none."""
    if any(isinstance(value, Trajectory) for value in rollouts.values()):
        stages, known = {"": rollouts}, {name: {"": rows} for name, rows in known.items()}
    else:
        stages = {stage: {f"rollout {i}": one for i, one in enumerate(some, 1)} for stage, some in rollouts.items()}
        if wrong := [name for name, rows in known.items() if len(rows) and not isinstance(rows, Mapping)]:
            raise ValueError(f"TrajectoryViewer: {wrong[0]} must be given by stage, as the rollouts are")
    every = [one for some in stages.values() for one in some.values()]
    if not every or not all(stages.values()) or not all(one.steps for one in every):
        raise ValueError("TrajectoryViewer: give at least one rollout (of each stage), and none without turns")
    if len(photos := sorted({one.photo_id for one in every})) > 1:
        raise ValueError(f"TrajectoryViewer: rollouts on {', '.join(photos[:3])}; give those on one photo")
    return {
        stage: _runs(some, {name: rows.get(stage, ()) if rows else () for name, rows in known.items()})
        for stage, some in stages.items()
    }


def _runs(rollouts: Mapping[str, Trajectory], known: Mapping[str, Sequence]) -> list[_Run]:
    """The rollouts of one stage, each with what is known of it."""
    columns = []
    for name, rows in known.items():
        if len(rows) not in (0, len(rollouts)):
            raise ValueError(f"TrajectoryViewer: {len(rows)} {name} for {len(rollouts)} rollouts; one each, or none")
        columns.append(list(rows) if len(rows) else [None] * len(rollouts))
    return [_Run(*row) for row in zip(rollouts, rollouts.values(), *columns, strict=True)]
