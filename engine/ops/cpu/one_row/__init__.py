"""Products of one row of activations with weights in place, without panels.

Decoding multiplies one row. To interleave 16 rows of a weight for it costs more than the product
itself, so here each row of the weight is read along its columns, one stream a core, and 16 rows'
integer sums are added across lanes together. Integers are exact and the float steps are those of
the panels, so the bits are, too.
"""
