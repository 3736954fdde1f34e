"""A run of attacks to be looked at: record, results and texts of one or several systems come in, a page goes out."""
