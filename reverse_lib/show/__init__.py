"""Showing: figures, maps and panels draw the tables and trajectories they are given, and compute nothing else.

Figures of an evaluation
    error_curve             share of photos within each distance
    bars, tool_use          metrics, and calls of each tool, stage by stage
    failure_causes          why answers are wrong
    reliability             whether a radius keeps its promise
    risk_coverage_figure    how often wrong, if only the surest are answered
    effects_figure          what each variant of an ablation changes
    bar_list, funnel        numbers by name, and what each filter keeps
Figures of training
    training_curves         a panel a number
    LiveCurves              the same, redrawn while a cell runs
    group_figure            rollouts on one photo, with reward and advantage of each turn
    tokens_html             the tokens that carry loss
    patch_grid              pictures with the squares that become one token each
Pictures
    photo_with_boxes        one photo and what is known about it
    contact_sheet           many, each with title and boxes
    seen_pictures           what an agent was given in a rollout
    trajectory_figure       a rollout, turn by turn, beside its photo
Maps
    error_map               every photo of an evaluation, its error, its story on a click
    answer_map              the answers to a few photos
    twins_map               places that bear the same name
    save_map                one HTML file that needs no network
Panels and answers
    TrajectoryViewer        step through rollouts, also of several stages side by side
    ReviewPanel             accept or reject trajectories, and record why
    Answers                 answers for a user's own photos: text, JSON rows, a map, as coarse as asked for
"""

from reverse_lib.show.answers import Answers
from reverse_lib.show.figures import (
    LiveCurves,
    bar_list,
    bars,
    effects_figure,
    error_curve,
    failure_causes,
    funnel,
    reliability,
    risk_coverage_figure,
    tool_use,
    training_curves,
)
from reverse_lib.show.maps import answer_map, error_map, save_map, twins_map
from reverse_lib.show.pictures import (
    contact_sheet,
    group_figure,
    patch_grid,
    photo_with_boxes,
    seen_pictures,
    trajectory_figure,
)
from reverse_lib.show.review_panel import ReviewPanel
from reverse_lib.show.viewer import TrajectoryViewer, tokens_html
