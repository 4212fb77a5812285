"""The op vocabulary: one name per step of the forward pass, the same in every kernel set.

A kernel set is a package (`reference`, `cpu`) or an object (`cuda`) that defines every name below
with the same signature; `forward` receives it as an argument and never names a backend. Outputs
come first and are overwritten. Axis names are `Shape`'s. All activations are float32 (float64 in
`reference`), C-contiguous; `n` is the number of rows (tokens) in the call, row i is at position
``pos0 + i``. Arrays are the set's own: NumPy's, or ones in a device's memory that
``numpy.asarray`` reads.

    embed_hc(state, tokens, table)              state (n, n_hc, n_embd); table: prepared Weight
    rms_norm(out, x, weight, eps)               x (n, d); weight (d,) or None; out may be x
    matmul(out, x, w)                           out (n, rows) = x (n, cols) @ w.T
    matmul_multi(outs, x, ws)                   several weights on the same x, as separate matmuls
    matmul_grouped(out, x, w)                   x (n, g, cols), w (g*r, cols) -> out (n, g, r)
    hc_split(x, post, comb, mix, state, scale, base, n_iter, eps)
    hc_expand(out, y, post, comb, state)        out may be state
    hc_collapse(x, mix, state, scale, base, eps)     output head: x (n, n_embd)
    q_norm_rope(q, cos, sin, eps)               in place; q (n, n_head, head_dim)
    rope_tail(x, cos, sin, inverse)             in place; x (n, n_head, head_dim)
    kv_store(ring, kv, weight, cos, sin, pos0, eps, official)
    compressor_pool(pooled, ring_kv, ring_score, kv, score, ape, pos0, ratio)
    compressor_store(rows, row0, pooled, weight, cos, sin, eps, official)
    indexer_store(rows, row0, pooled, weight, cos, sin, eps, official)
    indexer_query(q, cos, sin, official)        in place; q (n, n_idx_head, idx_head_dim)
    indexer_select(sel, n_sel, q, head_w, rows, pos0, ratio, margin)
    attend(out, q, ring, rows, sel, n_sel, sinks, pos0, n_swa, ratio)
    router_select(ids, weights, logits, bias, scale, margin)
    router_hash(ids, weights, logits, table, tokens, scale)
    routed_moe(out, x, ids, weights, gate, up, down, limit)
    shared_ffn(out, x, gate, up, down, limit)   two matmuls, swiglu, matmul
    swiglu(out, gate, up, limit)
    add(out, x)                                 out += x
    argmax(logits) -> int                       first maximum; raises NonFiniteError

Memory and passes (`host` serves the sets that compute in host memory):

    new_array(shape, dtype), new_kv_rows(cap, dim, official), vector(values)
    rope_table(table, n_positions)              what `at` of the result gives is cos and sin
    windows(pos0, n, ratio) -> row0, n_emit     `row0` and rows of the stores below; a set that
                                                records passes answers for every position at once
    run(owner, key, pos0, body)                 run a pass, or replay the recorded one
    ring_put(ring, rows, pos0, skip), ring_set(ring, pos0, host_rows), ring_get(ring, pos0, n)
    add_streams(state, y)                       state (n, n_hc, n_embd) += y (n, n_embd)
    free_bytes(), close(), wait()

A set may offer combinations that save it passes over memory; `FUSED` names those it has:

    hc_enter(s, hc, norm, shape, following)     rms_norm, matmul, hc_split, rms_norm: s.state -> s.a
                                                that the weights `following` are multiplied with
    hc_head(s, state, head, output, shape)      rms_norm, matmul, hc_collapse, rms_norm -> s.x
    attention_rows(s, layer, cache, pos0, n, angles, windows, shape, official) -> bool
                                                norm of s.q_a, kv_store, pools and stores; False:
                                                not for so many rows, nothing was done
    attend_turned(..., cos, sin)                attend, then rope_tail backwards
    feed_forward(s, layer, shared)              routed_moe, shared_ffn, add: s.a -> s.y

`prepare(tensor, *, activations, repack) -> Weight` turns a file tensor into what `matmul`,
`matmul_grouped`, `routed_moe` and `embed_hc` take; `repack_bytes(tensor)` says what a repacked copy
would cost; `set_threads(n) -> int` and `facts() -> dict` serve the engine. `reference/` documents
each op: shapes, aliasing, formula.

Row exactness. Row i of any output depends on row i of the inputs (and earlier rows only through
caches) and on nothing else: not on n, not on the chunking, not on the thread count, not on whether
a weight was repacked. Each output has one order of summation. `tests/engine/test_exact.py` holds
it.
"""
