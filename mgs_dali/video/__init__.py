"""One video: a file, or a folder of frames."""
