"""The model's dimensions as one frozen record; knows arithmetic about them, never a file.

Names are GGUF's where GGUF has one. Figures in comments are DeepSeek V4 Flash's.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """Every dimension and constant of a deepseek4 model (source: the file's metadata).

    The record is plain data: `engine.weights.metadata` builds and validates it.
    """

    n_layer: int  # 43, without the MTP block
    n_vocab: int  # 129280
    n_embd: int  # 4096
    n_ctx_train: int  # tokens the file declares
    n_head: int  # 64 query heads; one KV head whose row is both K and V
    head_dim: int  # 512
    n_rot: int  # 64, trailing dims of each head that RoPE turns
    n_lora_q: int  # 1024
    n_lora_o: int  # 1024, per output group
    n_out_group: int  # 8
    n_swa: int  # 128 raw rows visible, current token included
    compress_ratios: tuple[int, ...]  # per layer: 0, 4 or 128
    n_idx_head: int  # 64
    idx_head_dim: int  # 128
    idx_top_k: int  # 512
    n_expert: int  # 256
    n_expert_used: int  # 6
    n_expert_shared: int  # 1
    n_ff_exp: int  # 2048
    n_hash_layer: int  # 3, leading layers whose experts are looked up by token id
    expert_weights_scale: float  # 1.5
    swiglu_limit: tuple[float, ...]  # per layer, routed experts; <= 1e-6 means no clamp
    swiglu_limit_shared: tuple[float, ...]  # per layer, shared expert
    n_hc: int  # 4 hyper-connection streams
    n_sinkhorn: int  # 20
    hc_eps: float  # 1e-6
    rms_eps: float  # 1e-6
    rope_base: float  # 10000, layers without compressor
    rope_base_compress: float  # 160000, layers with one
    yarn_factor: float  # 16; 1 means no scaling
    yarn_orig_ctx: int  # 65536
    yarn_beta_fast: float  # 32
    yarn_beta_slow: float  # 1
    name: str = field(default="", compare=False)  # general.name, escaped by whoever prints it

    def compress_ratio(self, layer: int) -> int:
        """Tokens folded into one compressed KV row; 0 means the layer keeps raw rows only."""
        return self.compress_ratios[layer]

    def comp_width(self, ratio: int) -> int:
        """Columns of a compressor's kv and gate rows: two halves for ratio 4, one for 128."""
        return (2 if ratio == 4 else 1) * self.head_dim

    def idx_comp_width(self) -> int:
        """Columns of the indexer compressor's rows (ratio 4 layers only)."""
        return 2 * self.idx_head_dim

    @property
    def n_nope(self) -> int:
        """Leading dims of a KV row that RoPE leaves alone (448); FP8 covers these."""
        return self.head_dim - self.n_rot

    @property
    def hc_mix(self) -> int:
        """Rows of a hyper-connection's fn: pre, post and the mixing matrix (24)."""
        return self.n_hc * (2 + self.n_hc)

    @property
    def group_dim(self) -> int:
        """Attention output values that one output group projects (4096)."""
        return self.n_head * self.head_dim // self.n_out_group


@dataclass(frozen=True, slots=True)
class DsparkShape:
    """What a DSpark drafter adds to its trunk's dimensions; figures in comments are Flash's.

    A stage is a layer without compressor of the trunk's own sizes, so nothing else is needed.
    Source: arXiv:2607.05147 and the `dspark_*` keys of release 0731's configuration.
    """

    n_stage: int  # 3
    block: int  # 5 tokens drafted together; part of the trained function
    rank: int  # 256, of the Markov head
    noise: int  # 128799, the token that stands for one not drafted yet
    taps: tuple[int, ...]  # (40, 41, 42): layers whose outputs are tapped, ascending

    @property
    def n_tap(self) -> int:
        """Layers that are tapped (3)."""
        return len(self.taps)
