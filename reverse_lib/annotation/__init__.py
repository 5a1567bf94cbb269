"""From photos to what a student learns from: a teacher at work, evidence labels, regions, review by people, samples.

annotate: lets a teacher work on photos; every trajectory is on disk at once
without_nudges: a trajectory as if each turn had been readable at once
label: copies of trajectories, every search labelled that anyone can label
declared, cited, carried, judged: labels by the next turn's list, by its reasoning, as the results have them, by a judge
agreement_table: how well such labels agree
TRUTH: how the truth begins in what a judge is asked
searches: the searches of a trajectory that brought results
useful_regions: where in each photo it paid to look
ReviewLog: one reviewer's decisions and the file that holds them
Decision: what a reviewer said about one trajectory
review_key: what a decision names a trajectory by
read_review: the decisions in a reviewer's file
changed_photos: photos that were decided on another trajectory
apply_review: trajectories as a review leaves them
merge_reviews: what two reviewers agree on, and what not
sample_counts: how many samples of each further kind are wanted
answered_directly: whether a trajectory shows when not to search
hard_luck: a teacher at work where its searches let it down
as_samples: trajectories marked as samples of a kind
"""

from reverse_lib.annotation.labels import TRUTH, agreement_table, carried, cited, declared, judged, label, searches
from reverse_lib.annotation.regions import useful_regions
from reverse_lib.annotation.review import (
    Decision,
    ReviewLog,
    apply_review,
    changed_photos,
    merge_reviews,
    read_review,
    review_key,
)
from reverse_lib.annotation.samples import answered_directly, as_samples, hard_luck, sample_counts
from reverse_lib.annotation.teachers import annotate, without_nudges
