"""The table of tensor formats: GGUF type id, name, block length and block bytes.

Sizes are GGML's (source: `gguf.GGML_QUANT_SIZES`, checked by a test). The eight native formats have
kernels on the CPU and on CUDA; the others can be decoded to float32 and no more. Types that other
programs write and nothing here can read have a name, too, so that a refusal says what was found.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """One storage format of a tensor."""

    type_id: int  # GGML type number in the file
    name: str  # GGML spelling, e.g. 'Q8_0'
    block_len: int  # values per block
    block_bytes: int
    native: bool = False

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n values; n must be a multiple of the block length."""
        assert n % self.block_len == 0, (self.name, n)
        return n // self.block_len * self.block_bytes


_TABLE = (
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
)
NATIVE = ("F32", "F16", "BF16", "Q8_0", "Q4_K", "Q2_K", "IQ2_XXS", "MXFP4")
# What the CPU set multiplies with besides.
_CPU_TOO = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q3_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"),
    *("IQ1_S", "IQ1_M", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
    "NVFP4",
)

BY_ID = {t[0]: Format(*t, native=t[1] in NATIVE) for t in _TABLE}
BY_NAME = {f.name: f for f in BY_ID.values()}

# Which formats of a matrix each kernel set multiplies with. The reference set decodes every matrix
# to float64, so it takes whatever can be decoded, at 8 bytes a value.
_ACTIVATIONS = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")  # never weights
KERNELS = {
    "cpu": NATIVE + _CPU_TOO,
    "cuda": (*NATIVE, "Q3_K", "Q5_K", "Q6_K", "IQ3_XXS", "IQ3_S", "IQ4_XS"),
    "reference": tuple(name for name in BY_NAME if name not in _ACTIVATIONS),
}

# Types that this reader cannot size: removed from GGML, newer than the table, or a fork's own.
# Sources: ggml.h (4 to 41) and the table of ik_llama.cpp (133 to 158); 42 is what the first
# converters of this architecture wrote for the published FP8 blocks.
UNREADABLE = {
    4: "Q4_2, removed from ggml",
    5: "Q4_3, removed from ggml",
    31: "Q4_0_4_4, removed from ggml",
    32: "Q4_0_4_8, removed from ggml",
    33: "Q4_0_8_8, removed from ggml",
    36: "IQ4_NL_4_4, removed from ggml",
    37: "IQ4_NL_4_8, removed from ggml",
    38: "IQ4_NL_8_8, removed from ggml",
    41: "Q1_0",
    42: "FP8 of early DeepSeek V4 files",
    133: "Q6_0 of ik_llama.cpp",
    134: "IQ1_BN of ik_llama.cpp",
    135: "IQ2_BN of ik_llama.cpp",
    137: "IQ2_K of ik_llama.cpp",
    138: "IQ3_K of ik_llama.cpp",
    139: "IQ4_K of ik_llama.cpp",
    140: "IQ5_K of ik_llama.cpp",
    141: "IQ6_K of ik_llama.cpp",
    144: "IQ4_KS of ik_llama.cpp",
    145: "IQ2_KS of ik_llama.cpp",
    146: "IQ4_KSS of ik_llama.cpp",
    152: "IQ5_KS of ik_llama.cpp",
    153: "IQ2_KT of ik_llama.cpp",
    154: "IQ3_KT of ik_llama.cpp",
    155: "IQ4_KT of ik_llama.cpp",
    156: "IQ3_KS of ik_llama.cpp",
    157: "IQ2_KL of ik_llama.cpp",
    158: "IQ1_KT of ik_llama.cpp",
}


def unreadable_words(type_id: int) -> str:
    """What a type that is not in the table is, for a message: '41 (Q1_0)'."""
    return f"{type_id} ({UNREADABLE.get(type_id, 'a type unknown to this program')})"
