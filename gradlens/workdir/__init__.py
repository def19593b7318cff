"""Workdir: what a run leaves in its folder, and how another takes it up."""
