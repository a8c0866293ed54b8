"""TFRecord of photos, read and written without TensorFlow."""
