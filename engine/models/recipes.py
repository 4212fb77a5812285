"""Which storage format each kind of tensor gets: by recipe, and by the layout of the file.

`antirez` is the layout of the published Flash files, `llama` that of llama.cpp's converter: names
are the same, formats, a few metadata keys and the draft block's file differ.

    recipe   experts (antirez)                 experts (llama)   other matrices
    f32      F32                               F32               F32
    f16      F16                               BF16              F16 | BF16
    q8_0     Q8_0                              Q8_0              as the published file
    q4       Q4_K                              MXFP4             as the published file
    iq2      IQ2_XXS gate and up, Q2_K down    the same          as the published file
    q4_0, q4_1, q5_0, q5_1                     the format of that name; attention projections and
                                               shared experts too, other matrices as in iq2
    tq1_0, tq2_0                               the format of that name, other matrices as in iq2
"""

from __future__ import annotations

# Of formats that other programs write; `gguf.quants` encodes them.
OTHERS = ("q4_0", "q4_1", "q5_0", "q5_1", "tq1_0", "tq2_0")
RECIPES = ("f32", "f16", "q8_0", "q4", "iq2", *OTHERS)
LAYOUTS = ("antirez", "llama")

# Kinds of tensors; 'vector' (norms, biases, sinks, scales) is F32 and 'table' I32 everywhere.
KINDS = (
    "embed",  # token_embd
    "output",
    "dense",  # attention projections and shared experts
    "hc",  # hyper-connection fn
    "ape",  # compressors' position table
    "router",
    "compressor",
    "indexer",
    "indexer_q",
    "expert_in",  # gate and up
    "expert_out",  # down
    "markov",  # both matrices of a DSpark drafter's Markov head
    "confidence",
    "vector",
    "table",
)

_PUBLISHED = {
    "antirez": dict(
        embed="F16",
        output="Q8_0",
        dense="Q8_0",
        hc="F16",
        ape="F16",
        router="F16",
        compressor="F16",
        indexer="F16",
        indexer_q="F16",
        markov="Q8_0",
        confidence="Q8_0",
    ),
    "llama": dict(
        embed="BF16",
        output="BF16",
        dense="Q8_0",
        hc="F32",
        ape="F32",
        router="BF16",
        compressor="BF16",
        indexer="BF16",
        indexer_q="Q8_0",
        markov="F16",
        confidence="F32",
    ),
}
_EXPERTS = {
    ("antirez", "q8_0"): ("Q8_0", "Q8_0"),
    ("antirez", "q4"): ("Q4_K", "Q4_K"),
    ("antirez", "iq2"): ("IQ2_XXS", "Q2_K"),
    ("llama", "q8_0"): ("Q8_0", "Q8_0"),
    ("llama", "q4"): ("MXFP4", "MXFP4"),
    ("llama", "iq2"): ("IQ2_XXS", "Q2_K"),
}


def formats_of(recipe: str, layout: str, draft: bool = False) -> dict[str, str]:
    """Format name per kind of tensor.

    Parameters
    ----------
    recipe : str
        One of `RECIPES`.
    layout : str
        One of `LAYOUTS`.
    draft : bool
        True for the draft block's own file: like the published one it holds 4-bit experts where
        the trunk has 2-bit ones, and keeps hyper-connections and router in F32.

    Returns
    -------
    dict of str to str
        Keys are `KINDS`.
    """
    assert recipe in RECIPES and layout in LAYOUTS, (recipe, layout)
    fixed = {"vector": "F32", "table": "I32"}
    if recipe == "f32":
        return {kind: "F32" for kind in KINDS} | fixed
    if recipe == "f16":
        half = "F16" if layout == "antirez" else "BF16"
        formats = {kind: half for kind in KINDS} | fixed
        if layout == "llama":
            formats |= {"hc": "F32", "ape": "F32"}
        return formats
    formats = _PUBLISHED[layout] | fixed
    if recipe in OTHERS:
        # Ternary blocks are 256 values long, and small shapes have projections of fewer.
        kinds = ("expert_in", "expert_out") + (() if recipe.startswith("t") else ("dense",))
        return formats | dict.fromkeys(kinds, recipe.upper())
    expert_in, expert_out = _EXPERTS[layout, "q4" if draft and recipe == "iq2" else recipe]
    formats |= {"expert_in": expert_in, "expert_out": expert_out}
    if draft and layout == "antirez":
        formats |= {"hc": "F32", "router": "F32"}
    return formats


# Formats of drafters in circulation, by layout of `engine.weights.dspark.layouts`, where they are
# not as in the trunk's published files; experts of recipe q4 are 4-bit in all of them.
_DSPARK = {
    "A": dict(dense="Q8_0", router="Q8_0", hc="F16", markov="Q8_0", confidence="Q8_0"),
    "B": dict(dense="Q8_0", router="F32", hc="F32", markov="F16", confidence="F32"),
    "C": dict(dense="Q8_0", router="F32", hc="F32", markov="F16", confidence="F32"),
}
_DSPARK_EXPERTS = {
    ("A", "q4"): ("Q4_K", "Q4_K"),
    ("A", "iq2"): ("IQ2_XXS", "Q2_K"),
    ("B", "q4"): ("Q4_K", "Q4_K"),
    ("B", "iq2"): ("Q2_K", "Q2_K"),
    ("C", "q4"): ("MXFP4", "MXFP4"),
    ("C", "iq2"): ("Q2_K", "Q2_K"),
}


def dspark_formats(recipe: str, layout: str) -> dict[str, str]:
    """Format name per kind of tensor of a DSpark drafter's file; keys are `KINDS`."""
    assert recipe in RECIPES and layout in _DSPARK, (recipe, layout)
    if recipe in ("f32", "f16"):
        return formats_of(recipe, "antirez")
    expert_in, expert_out = _DSPARK_EXPERTS.get((layout, recipe), ("Q8_0", "Q8_0"))
    fixed = {"vector": "F32", "expert_in": expert_in, "expert_out": expert_out}
    return formats_of(recipe, "antirez") | _DSPARK[layout] | fixed
