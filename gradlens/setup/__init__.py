"""Setup: from a config to the parts of a run, or to what is wrong with it."""
