"""Ahead-of-time compilation for a TPU slice without a TPU, and a bound on memory and time from the compiled program.

Input: a config and the name of a slice, such as `v5e:4x4`. Output: for the train step, encoding and a gradient attack,
whether each program fits into a chip's memory, its arithmetic and traffic, and a bound on its speed. Needs the extra
`tpu` (libtpu), but no TPU, no weights and no network.

    config ──programs──▶ per-device functions ──measure (libtpu)──▶ HLO ──hlo, costs──▶ counts ──roofline──▶ report
"""
