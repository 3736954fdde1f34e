"""A study of training recipes: arms and seeds come in, measured and tested differences go out.

`design` says what is trained and measured, `training` makes the models, `sections` measures them, `records` keeps what
was found as one small JSON for each arm and seed, `analysis` tests it, `report`, `tables` and `plots` show it.
"""
