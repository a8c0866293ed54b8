"""COCO: boxes on photos, as labels of the photos or as photos of their own."""
