"""vidrisk: a folder of labelled clips or defect photos in; a verified INT8 model and a report per folder out."""

__version__ = "0.1.0"
