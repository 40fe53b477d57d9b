"""Networks: Flax Linen modules, and the likelihoods that read a decoder's output as a distribution over images."""
