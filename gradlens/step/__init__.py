"""Step: from a batch to the update, and what is measured on the way.

`train_step` is the whole of it, a pure function that is compiled; the other
modules are its parts.
"""
