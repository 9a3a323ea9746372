"""How far criteria without clean images agree with true PSNR, over everything that a store holds."""
