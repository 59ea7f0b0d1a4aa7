"""What a run found, for people: one self-contained HTML page, and a table for the terminal.

Reads a run folder (`summary.json`, `events.jsonl`, certificates); needs neither torch nor a runtime.
"""

from paretune.report._front import front
from paretune.report._html import html, write_report
from paretune.report._rows import headline
from paretune.report._sensitivity import sensitivity_page, sensitivity_text
from paretune.report._study import study_page
from paretune.report._summary import read_summary
from paretune.report._table import table, text

__all__ = [
    "front",
    "headline",
    "html",
    "read_summary",
    "sensitivity_page",
    "sensitivity_text",
    "study_page",
    "table",
    "text",
    "write_report",
]
