"""From pictures to stored tokens: views, latents, noise, extraction, the store."""
