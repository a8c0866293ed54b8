"""CVAT 1.1: XML of images and of video."""
