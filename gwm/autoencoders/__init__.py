"""Autoencoder families. `motion`: latents say how a picture moves relative to a reference image."""
