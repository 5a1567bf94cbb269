"""annotation"""

from reverse_lib.annotation.labels import TRUTH, agreement_table, cited, declared, judged, known, label
from reverse_lib.annotation.regions import useful_regions
from reverse_lib.annotation.review import apply_review, changed_photos, merge_reviews
from reverse_lib.annotation.review_log import (
    Decision,
    ReviewLog,
    SearchLabels,
    known_labels,
    read_review,
    review_key,
    searches,
)
from reverse_lib.annotation.teachers import annotate, without_nudges
