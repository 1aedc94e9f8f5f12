"""The model families, one module each; see :mod:`reprscope.models.denoiser`."""
