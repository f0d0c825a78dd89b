"""Where in the picture massive channels point: tokens → clusters → masks → overlap with the truth."""

from dit_lens.methods.spatial.clustering import Clustering, Segmentation, segment, segmentation
from dit_lens.methods.spatial.families import ChannelFamily, channel_families, families_over_k
from dit_lens.methods.spatial.first_look import FirstLook, first_look
from dit_lens.methods.spatial.foreground import RULES
from dit_lens.methods.spatial.harvest import (
    Harvest,
    Place,
    SegmentedSample,
    plan_harvest,
    segment_prompt,
    segment_samples,
)
from dit_lens.methods.spatial.masks import Mask
from dit_lens.methods.spatial.overlap import Overlap, chance_iou, overlap
from dit_lens.methods.spatial.study import MeasuredSample, best_place, measured_samples, spatial_study
from dit_lens.methods.spatial.subject import Subject
from dit_lens.methods.spatial.truth import FileTruth, FunctionTruth, SceneTruth, Truth, as_truth

__all__ = [
    "Mask",
    "Clustering",
    "Segmentation",
    "segment",
    "segmentation",
    "RULES",
    "Overlap",
    "overlap",
    "chance_iou",
    "ChannelFamily",
    "channel_families",
    "families_over_k",
    "Harvest",
    "Place",
    "SegmentedSample",
    "plan_harvest",
    "segment_samples",
    "segment_prompt",
    "Subject",
    "Truth",
    "SceneTruth",
    "FileTruth",
    "FunctionTruth",
    "as_truth",
    "FirstLook",
    "first_look",
    "spatial_study",
    "MeasuredSample",
    "measured_samples",
    "best_place",
]
