"""Lists of data sets, each format in its own way -> a table of clips."""
