"""The report of a run of attacks: record, results and texts of one or several systems as one HTML page."""
