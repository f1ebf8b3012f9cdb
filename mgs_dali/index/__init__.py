"""The motion index: motion curves of the videos of a list, measured once, kept and read."""
