"""Flow matching: the path from noise to data that a denoiser is trained on, and samplers that follow what it learned.

Diffusion time `t` runs from 0 (noise) to 1 (data). It is no time step: those are the tokens of a scan.
"""
