"""The blocks of params.yaml: names, types, ranges, and the settings that are of no cell."""

from pipeline.config import method, models, problems, teachers

__all__ = ["method", "models", "problems", "teachers"]  # loaded together: params.keys() has all
