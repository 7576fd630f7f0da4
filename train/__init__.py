"""Training. Read `flow`, `noise`, `trainee`; then the stages `autoencoder`, `bidirectional`, `causal`; `gate`."""
