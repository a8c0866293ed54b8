"""Kinetics: lists of clips of YouTube videos, and the places of the clips."""
