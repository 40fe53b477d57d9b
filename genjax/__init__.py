"""genjax: deep generative models in JAX, by one functional training loop."""
