"""What a run says and leaves: log, TensorBoard, pictures, a progress line, and pages that a person enjoys reading."""

from genjax.report.comparison import write_comparison
from genjax.report.files import write_whole
from genjax.report.log import Log, open_log, read_log, truncate_after
from genjax.report.page import write_report
from genjax.report.pictures import draw, grid, save_png, scatter, side_by_side
from genjax.report.progress import Progress, duration, number, open_progress

__all__ = [
    "Log",
    "Progress",
    "draw",
    "duration",
    "grid",
    "number",
    "open_log",
    "open_progress",
    "read_log",
    "save_png",
    "scatter",
    "side_by_side",
    "truncate_after",
    "write_comparison",
    "write_report",
    "write_whole",
]
