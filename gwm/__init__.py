"""The model and the contract. Read `config`, `schedule`, `chunks`, `masks`, `rope`, `attention`, `cache`, `dit`,
`clip`; then `autoencoders`, `condition`, `sampler`, `rollout`; last `contract`, `weights` and `media`."""
