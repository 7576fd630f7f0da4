"""The model and the contract. Read `config`, `schedule`, `chunks`, `rope`, `block`, `cache`, `dit`, `clip`; then
`autoencoders`, `condition`, `sampler`, `rollout`; last `contract`, `weights` and `media`."""
