"""Operations of the hot path, one per file: the reference that defines it, a Triton kernel, the function to call.

Read `dispatch` for who runs where, then `residual_norm`, `qk_norm_rope`, `sink_rope`, `step_update`, `causal_input`
and `attention`. Nothing here imports the rest of the project.
"""
