"""COCO: boxes on photos, read as labels of the photos or as photos of their own."""
