"""Kinetics: lists of clips of YouTube videos, and where the clips lie."""
