"""VGG Image Annotator: JSON of VIA 2, CSV and projects of VIA 3."""
