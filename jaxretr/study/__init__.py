"""A study of training recipes.

Input: arms and seeds. Output: measured and tested differences between the arms.

`design` describes trainings and measurements, `training` trains the models, `sections` measures them, `records`
stores the results as one small JSON file for each arm and seed, `analysis` tests them, and `report`, `tables` and
`plots` present them.
"""
