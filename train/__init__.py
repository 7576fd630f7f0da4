"""Training. Read `flow`, `noise`, `learner`; then the stages `autoencoder`, `bidirectional`, `causal`; `gate`."""
