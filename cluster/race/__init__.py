"""A race of methods on somebody's own noisy images: who may run, the rounds, the standing, the page."""
