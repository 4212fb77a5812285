"""Kernel sets, and the seam through which the engine uses them.

`base` is the contract (`Backend`), `operands` and `activations` are the records that ops work on,
`composed` and `host` are what sets have in common. `reference`, `cpu` and `cuda` are the sets; they
do not know each other, and nothing above this package names one but `engine.engine`.
"""
