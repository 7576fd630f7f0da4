"""Operations of the hot path, one a file: the reference that defines it, a Triton kernel, the function to call.

Read `dispatch` for who runs where, then `attention`, `residual_norm`, `rms_norm`, `sink_rope`, `step_update` and
`causal_input`. Nothing here imports the rest of the project.
"""
