"""The report: one page of many runs, as HTML, Markdown and LaTeX."""
