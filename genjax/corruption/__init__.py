"""Forward processes of diffusion: how data become noise, and what a network may predict of the way back."""
