"""reprscope: what a latent diffusion model represents, block by block."""
