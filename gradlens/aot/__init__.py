"""Ahead of time: what a config's programs need on TPUs that are not here.

`python -m gradlens.aot --config=... --topology=v5p:4x4x4` compiles the step and
the sampler for a slice of TPUs, and counts what they do there.
"""
