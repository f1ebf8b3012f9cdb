"""Video models. They know nothing of how clips are loaded."""

from models.tsm import TSM, TemporalShift, parameter_groups, temporal_shift

__all__ = ["TSM", "TemporalShift", "parameter_groups", "temporal_shift"]
