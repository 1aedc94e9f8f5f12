"""reprscope: what a latent diffusion model represents, block by block."""

__version__ = "0.2.0"
