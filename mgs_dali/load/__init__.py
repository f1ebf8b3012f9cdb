"""Batches of clips: plan, one clip on the CPU, sources, pipelines, routes, the loader."""
