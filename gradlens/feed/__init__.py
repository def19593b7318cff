"""Feed: the batches of a run, one step after the other."""

from gradlens.feed.feed import Begun, Feed, observe

__all__ = ['Begun', 'Feed', 'observe']
