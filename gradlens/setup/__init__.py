"""Setup: a config becomes the parts of a run, or one sentence on what is wrong.

`build` puts them together; only `measurement` and `train` come after.
"""
