"""Benchmark of speed, memory and accuracy of every runtime and variant of a bundle on this machine."""
