"""Self-contained HTML reports: one file each, no script, nothing loaded, light and dark."""

from tempa.report.run import write_run_report
from tempa.report.story import Chapter, Story, Verdict, write_story_report

__all__ = ["Chapter", "Story", "Verdict", "write_run_report", "write_story_report"]
