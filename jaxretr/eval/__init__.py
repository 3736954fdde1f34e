"""From a test collection and two encoding functions to measures, language bias and a table."""

from jaxretr.eval.evaluate import evaluate
from jaxretr.eval.results import Results
from jaxretr.eval.table import markdown, rich_table

__all__ = ["Results", "evaluate", "markdown", "rich_table"]
