"""Why these frames: what samplers choose, drawn of one video, of several on a sheet, or as a page to browse."""

from __future__ import annotations

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ModuleNotFoundError(
        "Plots need matplotlib, which is not installed. Install it with: pip install 'mgs-dali[plot]'",
        name="matplotlib",
    ) from error
