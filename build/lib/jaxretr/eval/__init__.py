"""Evaluation of a retriever on a test collection: effectiveness, language bias, tables and reports."""

from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.results import Results
from jaxretr.eval.table import markdown, rich_table

__all__ = ["Results", "evaluate", "markdown", "rich_table"]
