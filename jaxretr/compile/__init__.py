"""Programs compiled for a TPU slice that is not there, and what the compiled text says about memory and time.

In: a config and the name of a slice, such as `v5e:4x4`. Out: for the train step, encoding and a gradient attack whether
they fit into a chip's memory, what they compute and move, and a bound on their speed. Needs the extra `tpu` (libtpu),
no TPU, no weights and no network.

    config ──programs──▶ functions of a device ──measure (libtpu)──▶ HLO ──hlo, costs──▶ counts ──roofline──▶ report
"""
