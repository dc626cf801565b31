"""A trained pair."""

from tests.support.pair import own, synthesizer, trained

__all__ = ["own", "synthesizer", "trained"]
