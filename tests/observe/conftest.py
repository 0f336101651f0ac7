"""A pipeline of one's own, as the tests of the pipeline have it."""

from tests.pipeline.conftest import pipeline

__all__ = ["pipeline"]
