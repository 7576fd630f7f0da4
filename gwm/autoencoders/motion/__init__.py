"""The motion autoencoder: 57 numbers a pixel frame say how a face differs from its reference image.

Read `code` (what the numbers are and how latents hold them), `basis` (flow as a linear function of them), `warp`
(pictures moved by a flow, at any size), `network` (what is learnt) and `codec` (the autoencoder's protocol).
The field: LivePortrait arXiv:2407.03168, VASA-1 arXiv:2404.10667, FLOAT arXiv:2412.01064.
"""
