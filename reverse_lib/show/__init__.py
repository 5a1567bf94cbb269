"""show"""

from reverse_lib.show.answers import Told
from reverse_lib.show.maps.maps import answer_map, error_map, twins_map
from reverse_lib.show.maps.page import save_map
from reverse_lib.show.pictures import contact_sheet, seen_pictures
from reverse_lib.show.plots import bar_list, bars, error_curve, funnel, photo_with_boxes, trajectory_figure
from reverse_lib.show.report_plots import failure_causes, reliability, risk_coverage_figure, tool_use
from reverse_lib.show.review_panel import ReviewPanel
from reverse_lib.show.training_plots import (
    LiveCurves,
    effects_figure,
    group_figure,
    patch_grid,
    tokens_html,
    training_curves,
)
from reverse_lib.show.viewer import TrajectoryViewer
